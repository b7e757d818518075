"""A tool's JSON Schema as the Cedar type of `context.input`. Total: never fails on a schema.

What Cedar can type: string and string enum (String), integer (Long), number (decimal), boolean
(Bool), arrays of those (Set), objects with properties (records), and each of them made nullable.
Everything else (unions, free objects, tuples, recursion, names Cedar's JSON form reserves, what
lies beyond the limits) is left out; such a value stays readable through `context.args` and is
named in `context.args.unmapped`. Every field is optional whatever `required` says: the upstream
server owns that rule, and a policy must not error because a caller broke it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

MAXIMUM_SCHEMA_DEPTH: Final = 8  # nested records; deeper values are unmapped
MAXIMUM_SCHEMA_FIELDS: Final = 512  # of one tool: shared `$ref`s could multiply without end
RESERVED_NAMES: Final = frozenset({"__entity", "__extn", "__expr"})  # Cedar's JSON escapes

ScalarType: TypeAlias = Literal["String", "Long", "decimal", "Bool"]
_SCALARS: Final[dict[str, ScalarType]] = {
    "string": "String",
    "integer": "Long",
    "number": "decimal",
    "boolean": "Bool",
}


@dataclass(frozen=True, slots=True)
class SetType:
    """A set of scalars."""

    element: ScalarType


@dataclass(frozen=True, slots=True)
class RecordType:
    """A record whose fields are all optional."""

    fields: Mapping[str, "CedarType"]


CedarType: TypeAlias = ScalarType | SetType | RecordType


def input_type(input_schema: object) -> RecordType:
    """The record type of a tool's arguments; empty where nothing can be typed."""
    found = _Typing(input_schema).type_of(input_schema, depth=0, followed=frozenset())
    return found if isinstance(found, RecordType) else RecordType({})


def is_representable(text: str) -> bool:
    """Whether a name can be written down at all: a lone surrogate cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class _Typing:
    """One walk over one schema, with its budget of fields."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._fields_left = MAXIMUM_SCHEMA_FIELDS

    def type_of(self, schema: object, depth: int, followed: frozenset[str]) -> CedarType | None:
        schema, followed = self._dereferenced(schema, followed)
        if not isinstance(schema, Mapping) or depth > MAXIMUM_SCHEMA_DEPTH or "allOf" in schema:
            return None
        for union in ("anyOf", "oneOf"):
            if union in schema:
                alternative = _only_alternative(schema[union])
                return self.type_of(alternative, depth + 1, followed)
        name = _type_name(schema)
        if name == "array":
            element = self.type_of(schema.get("items"), depth + 1, followed)
            return SetType(element) if isinstance(element, str) else None
        if name == "object":
            return self._record(schema.get("properties"), depth, followed)
        return _SCALARS.get(name)

    def _record(
        self, properties: object, depth: int, followed: frozenset[str]
    ) -> RecordType | None:
        if not isinstance(properties, Mapping):
            return None
        fields: dict[str, CedarType] = {}
        for name, schema in properties.items():
            if self._fields_left <= 0:
                break
            if name in RESERVED_NAMES or not is_representable(name):
                continue
            self._fields_left -= 1
            found = self.type_of(schema, depth + 1, followed)
            if found is not None:
                fields[name] = found
        return RecordType(fields) if fields else None

    def _dereferenced(
        self, schema: object, followed: frozenset[str]
    ) -> tuple[object, frozenset[str]]:
        """Follow local `$ref`s; a remote, missing or recursive one leads nowhere."""
        while isinstance(schema, Mapping) and "$ref" in schema:
            reference = schema["$ref"]
            if not isinstance(reference, str) or reference in followed:
                return None, followed
            followed |= {reference}
            schema = self._at(reference)
        return schema, followed

    def _at(self, reference: str) -> object:
        start, *segments = reference.split("/")
        if start != "#":
            return None
        found = self._root
        for segment in segments:
            key = segment.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def _only_alternative(alternatives: object) -> object:
    """The one alternative beside null, or None for a real union."""
    if not isinstance(alternatives, list):
        return None
    others = [each for each in alternatives if not _is_null(each)]
    return others[0] if len(others) == 1 else None


def _is_null(schema: object) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _type_name(schema: Mapping[str, object]) -> str:
    """The JSON type, with null taken away; empty when there is not exactly one."""
    declared = schema.get("type")
    if isinstance(declared, list):
        others = [each for each in declared if each != "null"]
        declared = others[0] if len(others) == 1 else ""
    if declared is None:
        choices = schema.get("enum")
        if isinstance(choices, list) and all(isinstance(each, str) for each in choices):
            return "string"
        return "object" if "properties" in schema else ""
    return declared if isinstance(declared, str) else ""
