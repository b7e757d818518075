from typing import Any

import pytest

from policies.input_types import (
    MAXIMUM_SCHEMA_DEPTH,
    MAXIMUM_SCHEMA_FIELDS,
    RecordType,
    SetType,
    input_type,
    is_representable,
)


def field_type(schema: object, **definitions: object) -> object:
    """The type of one argument with this schema, or None when it is left out."""
    tool = {"type": "object", "properties": {"x": schema}, "$defs": definitions}
    return input_type(tool).fields.get("x")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "String"),
        ({"type": "string", "enum": ["a"], "format": "date"}, "String"),
        ({"enum": ["a", "b"]}, "String"),
        ({"type": "integer"}, "Long"),
        ({"type": "number"}, "decimal"),
        ({"type": "boolean"}, "Bool"),
        ({"type": ["string", "null"]}, "String"),
        ({"type": ["null", "integer"]}, "Long"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "String"),
        ({"oneOf": [{"type": "null"}, {"type": "boolean"}]}, "Bool"),
        ({"type": "array", "items": {"type": "string"}}, SetType("String")),
        ({"type": "array", "items": {"type": "number"}}, SetType("decimal")),
        (
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array"}}},
            RecordType({"a": "String"}),
        ),
        ({"properties": {"a": {"type": "integer"}}}, RecordType({"a": "Long"})),
    ],
)
def test_schema_cedar_can_express_is_typed(schema: object, expected: object) -> None:
    assert field_type(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        None,
        "string",
        [],
        {"type": "null"},
        {"type": ["string", "integer"]},
        {"type": []},
        {"type": 7},
        {"type": "strange"},
        {"enum": ["a", 1]},
        {"enum": "a"},
        {"enum": None},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"anyOf": [{"type": "null"}]},
        {"anyOf": "string"},
        {"oneOf": []},
        {"anyOf": [True]},
        {"allOf": [{"type": "string"}]},
        {"type": "string", "allOf": [{"minLength": 1}]},
        {"type": "array"},
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": {"a": {"type": "null"}}},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#/properties/x"},
        {"$ref": "#anchor"},
        {"$ref": 7},
    ],
)
def test_schema_cedar_cannot_express_is_left_out(schema: object) -> None:
    assert field_type(schema) is None


def test_local_reference_is_followed() -> None:
    assert field_type({"$ref": "#/$defs/money"}, money={"type": "integer"}) == "Long"


def test_reference_with_escaped_segments_is_followed() -> None:
    assert field_type({"$ref": "#/$defs/a~1b~0c"}, **{"a/b~c": {"type": "string"}}) == "String"


def test_reference_to_a_reference_is_followed() -> None:
    definitions: dict[str, Any] = {"a": {"$ref": "#/$defs/b"}, "b": {"type": "boolean"}}
    assert field_type({"$ref": "#/$defs/a"}, **definitions) == "Bool"


def test_reference_through_something_that_is_no_object_leads_nowhere() -> None:
    assert field_type({"$ref": "#/$defs/a/0"}, a=[{"type": "string"}]) is None


def test_recursive_schema_ends_where_it_repeats() -> None:
    node = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "child": {"$ref": "#/$defs/node"}},
    }
    assert field_type({"$ref": "#/$defs/node"}, node=node) == RecordType({"name": "String"})


def test_same_reference_twice_side_by_side_is_no_recursion() -> None:
    tool = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/m"}, "b": {"$ref": "#/$defs/m"}},
        "$defs": {"m": {"type": "integer"}},
    }
    assert input_type(tool) == RecordType({"a": "Long", "b": "Long"})


@pytest.mark.parametrize("schema", [None, True, [], "object", 3, {}, {"type": "string"}])
def test_tool_without_typed_arguments_has_an_empty_record(schema: object) -> None:
    assert input_type(schema) == RecordType({})


@pytest.mark.parametrize("name", ["__entity", "__extn", "__expr", "\ud800"])
def test_argument_name_that_cannot_be_written_is_left_out_and_the_rest_is_kept(name: str) -> None:
    tool = {"type": "object", "properties": {name: {"type": "string"}, "ok": {"type": "string"}}}
    assert input_type(tool) == RecordType({"ok": "String"})


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


def test_record_nested_to_the_limit_is_typed() -> None:
    found: object = input_type(nested(MAXIMUM_SCHEMA_DEPTH))
    for _ in range(MAXIMUM_SCHEMA_DEPTH):
        assert isinstance(found, RecordType)
        found = found.fields["x"]
    assert found == "String"


def test_record_nested_beyond_the_limit_is_left_out() -> None:
    assert input_type(nested(MAXIMUM_SCHEMA_DEPTH + 1)) == RecordType({})


def test_fields_beyond_the_limit_are_left_out() -> None:
    properties = {f"f{n}": {"type": "string"} for n in range(MAXIMUM_SCHEMA_FIELDS + 1)}
    found = input_type({"type": "object", "properties": properties})
    assert len(found.fields) == MAXIMUM_SCHEMA_FIELDS
    assert f"f{MAXIMUM_SCHEMA_FIELDS}" not in found.fields


def test_shared_references_cannot_multiply_without_end() -> None:
    definitions = {
        f"d{n}": {
            "type": "object",
            "properties": {f"p{i}": {"$ref": f"#/$defs/d{n + 1}"} for i in range(40)},
        }
        for n in range(MAXIMUM_SCHEMA_DEPTH)
    } | {f"d{MAXIMUM_SCHEMA_DEPTH}": {"type": "string"}}
    assert isinstance(field_type({"$ref": "#/$defs/d1"}, **definitions), RecordType)


@pytest.mark.parametrize("text", ["", "a", "größe", "\U0001f600", "\ue000", "\ud7ff"])
def test_ordinary_text_can_be_represented(text: str) -> None:
    assert is_representable(text)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udbff!"])
def test_lone_surrogate_cannot_be_represented(text: str) -> None:
    assert not is_representable(text)
