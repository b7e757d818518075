"""What is wrong with a field, in the words of whoever wrote the YAML, not of the validator's.

INVARIANT: never the value itself: somebody may have pasted a secret where its name belongs.
"""

from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policies.problems import did_you_mean

# Patterns of our models that have a name among people; others are shown as they are.
_PATTERNS: Final[tuple[tuple[str, str], ...]] = (
    ("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", "lower-case letters, digits and inner hyphens"),
    ("^(https?://[^\\s#]+|stdio:", "an http(s) URL, or stdio:// and the name of a server"),
    ("^https?://", "an http or https URL"),
    ("^[a-z0-9][a-z0-9-]*/[A-Za-z0-9_", "server/tool, or server/prefix* with one * at the end"),
    ("^[a-z0-9-]+/[^\\s/]", "a group with its identity provider, such as keycloak/support"),
)
_NUMBER: Final = "must be a number"
_WHOLE: Final = "must be a whole number"
_TRUTH: Final = "must be true or false"
_FIELDS: Final = "must be fields, `name: value`"
_FIXED: Final[Mapping[str, str]] = {
    "missing": "is required",
    "string_type": "must be text; quote it",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "dict_type": _FIELDS,
    "model_type": _FIELDS,
    "model_attributes_type": _FIELDS,
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "extra_forbidden": "unknown field",
}
_FROM_CONTEXT: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "literal_error": lambda about: f"must be {about['expected']}",
    "too_short": lambda about: _at_least(about["min_length"], "entries"),
    "string_too_short": lambda about: _at_least(about["min_length"], "characters"),
    "too_long": lambda about: f"has more than {about['max_length']} entries",
    "string_too_long": lambda about: f"has more than {about['max_length']} characters",
    "greater_than": lambda about: f"must be more than {_number(about['gt'])}",
    "greater_than_equal": lambda about: f"must be at least {_number(about['ge'])}",
    "less_than": lambda about: f"must be less than {_number(about['lt'])}",
    "less_than_equal": lambda about: f"must be at most {_number(about['le'])}",
    "string_pattern_mismatch": lambda about: _pattern(about["pattern"]),
    "value_error": lambda about: str(about["error"]),
}


def problem_words(detail: ErrorDetails, model: type[BaseModel] | None = None) -> str:
    """One validation error in words; `model` is what was validated, to suggest its fields."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"unknown field{_field_suggestion(detail['loc'], model)}"
    if kind in _FIXED:
        return _FIXED[kind]
    words = _FROM_CONTEXT.get(kind)
    return detail["msg"] if words is None else words(detail.get("ctx", {}))


def errors_in(error: ValidationError) -> list[ErrorDetails]:
    """What was found wrong; a list is not also empty because its only entry is wrong."""
    found = error.errors(include_url=False, include_input=False)
    places = [detail["loc"] for detail in found]
    return [
        detail
        for detail in found
        if detail["type"] != "too_short"
        or not any(
            len(place) > len(detail["loc"]) and place[: len(detail["loc"])] == detail["loc"]
            for place in places
        )
    ]


def suggestion(given: str, known: Iterable[str]) -> str:
    """What would be right, for the end of a message; if nothing is near, what there is."""
    names = sorted(known)
    near = did_you_mean(given, names)
    if near:
        return near
    return f"; known: {', '.join(names[:20])}" if names else "; none is declared"


def _field_suggestion(location: tuple[int | str, ...], model: type[BaseModel] | None) -> str:
    for step in location[:-1]:
        if model is None:
            return ""
        field = model.model_fields.get(str(step))
        model = model if field is None else _model_in(field.annotation)
    return "" if model is None else suggestion(str(location[-1]), model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model among the alternatives, entries or values of a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Union, UnionType, tuple, list, dict}:
        return next((found for each in get_args(annotation) if (found := _model_in(each))), None)
    return None


def _number(bound: object) -> str:
    return str(int(bound)) if isinstance(bound, float) and bound.is_integer() else str(bound)


def _at_least(count: int, what: str) -> str:
    return "must not be empty" if count == 1 else f"needs at least {count} {what}"


def _pattern(pattern: str) -> str:
    for start, words in _PATTERNS:
        if pattern.startswith(start):
            return f"must be {words}"
    return f"must match {pattern}"
