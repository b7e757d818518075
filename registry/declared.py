"""From documents to a set of validated objects. Pure: no database, no files.

`parse_document` proves the shape of one document; `DeclaredSet.of` proves every spec, and the
settings of every connector and provider against the model of its type. A problem always names the
object and the field, and says what would be right. What objects say of each other is checked by
`registry.references`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from registry.objects import KINDS, DeclaredObject, TypedSpec
from registry.problem_words import errors_in, problem_words, suggestion

SettingsModels = Mapping[tuple[str, str], type[BaseModel]]
ObjectKey = tuple[str, str]  # kind, name


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a declared object. `field` is a path such as `spec.tools[0]`."""

    kind: str
    name: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """A valid object.

    `spec` is its model, `given` the document's own spec, `settings` those of its type with their
    defaults (empty for kinds without a type).
    """

    kind: str
    name: str
    spec: Any
    given: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeclaredSet:
    """Valid objects by kind and name."""

    objects: Mapping[ObjectKey, ParsedObject]

    @classmethod
    def of(
        cls, specs: Mapping[ObjectKey, dict[str, Any]], settings_models: SettingsModels
    ) -> "tuple[DeclaredSet, tuple[Problem, ...]]":
        """Validate every spec; the set holds those without a problem."""
        objects: dict[ObjectKey, ParsedObject] = {}
        problems: list[Problem] = []
        for (kind, name), given in sorted(specs.items()):
            parsed = _parse(kind, name, given, settings_models)
            if isinstance(parsed, ParsedObject):
                objects[kind, name] = parsed
            else:
                problems.extend(parsed)
        return cls(objects), tuple(problems)

    def of_kind(self, kind: str) -> dict[str, ParsedObject]:
        """The objects of one kind by name."""
        return {name: parsed for (of, name), parsed in self.objects.items() if of == kind}

    def has(self, kind: str, name: str) -> bool:
        """Whether an object exists."""
        return (kind, name) in self.objects


def parse_document(document: object) -> DeclaredObject | tuple[Problem, ...]:
    """Prove the shape `kind / name / spec` of one YAML or JSON document."""
    kind = name = ""
    if isinstance(document, Mapping):
        kind, name = str(document.get("kind", "")), str(document.get("name", ""))
    try:
        return DeclaredObject.model_validate(document)
    except ValidationError as error:
        return tuple(
            Problem(kind, name, _path(detail["loc"]), _document_message(detail, kind))
            for detail in errors_in(error)
        )


def _parse(
    kind: str, name: str, given: dict[str, Any], settings_models: SettingsModels
) -> ParsedObject | Sequence[Problem]:
    model = KINDS[kind]
    try:
        spec = model.model_validate(given)
    except ValidationError as error:
        return _problems(kind, name, model, error)
    if not isinstance(spec, TypedSpec):
        return ParsedObject(kind, name, spec, given)
    settings_model = settings_models.get((kind, spec.type))
    if settings_model is None:
        known = sorted(of_type for of_kind, of_type in settings_models if of_kind == kind)
        message = f"unknown type {spec.type!r}{suggestion(spec.type, known)}"
        return [Problem(kind, name, "spec.type", message)]
    try:
        settings = settings_model.model_validate(spec.model_extra or {})
    except ValidationError as error:
        return _problems(kind, name, settings_model, error)
    return ParsedObject(kind, name, spec, given, settings.model_dump(mode="json"))


def _problems(
    kind: str, name: str, model: type[BaseModel], error: ValidationError
) -> list[Problem]:
    return [
        Problem(kind, name, _path(("spec", *detail["loc"])), problem_words(detail, model))
        for detail in errors_in(error)
    ]


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path


def _document_message(detail: ErrorDetails, kind: str) -> str:
    if detail["loc"] == ("kind",) and kind:
        return f"unknown kind {kind!r}{suggestion(kind, KINDS)}"
    return problem_words(detail, DeclaredObject)
