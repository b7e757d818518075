"""Typing a tool is total, its schema is always valid, and what it types always fits it."""

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.arguments import (
    TooManyArgumentsError,
    leaves,
    tag_at,
    tag_of,
    tags,
    typed_record,
)
from policies.decide import Code
from policies.input_types import input_type
from policies.schema import ServerCatalogue, schema_text, typed_tools
from tests.policies.story import call, compiled

ALLOW = '@id("allow") permit (principal, action, resource);'
READS_ALL = """@id("guard") forbid (principal, action in Action::"call_tool", resource)
    when { context.args.unmapped.contains("/never") && context.args.hasTag(principal.method) &&
           context.input == context.input };"""

ANY_NAME = st.text(max_size=8)
KEYS = st.one_of(st.sampled_from(["a", "b", "if", "__entity", "a/b~c", "0", "*"]), ANY_NAME)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=5)

TYPES = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null"])
SCHEMAS = st.recursive(
    st.one_of(
        JSON,
        st.builds(lambda name: {"type": name}, TYPES),
        st.builds(lambda path: {"$ref": f"#/{path}"}, st.sampled_from(["", "properties/a", "x"])),
    ),
    lambda inner: st.one_of(
        st.builds(lambda of: {"type": "array", "items": of}, inner),
        st.builds(
            lambda of: {"type": "object", "properties": of},
            st.dictionaries(KEYS, inner, max_size=4),
        ),
        st.builds(lambda of: {"anyOf": [of, {"type": "null"}]}, inner),
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(ANY_NAME, SCHEMAS, max_size=4))
def test_any_tools_give_a_valid_schema(tools: dict[str, dict[str, object]]) -> None:
    server = ServerCatalogue("s", (), [(name, of, False, 0) for name, of in tools.items()])
    found = typed_tools([server])
    assert set(found) == {f"s/{name}" for name in tools}
    cedarpy.Schema.from_str(schema_text(found.values()))


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, OBJECTS)
def test_any_arguments_of_any_tool_are_judged(
    of: dict[str, object], arguments: dict[str, object]
) -> None:
    server = ServerCatalogue("s", (), [("t", of, False, 0)])
    policies = compiled(ALLOW, READS_ALL, servers=(server,))
    decision = policies.decide_call(call("t", arguments, server=server))
    unmapped: set[str] = set()
    typed_record(arguments, input_type(of), "", unmapped)
    untagged = [each for each in leaves(arguments) if each.value is not None and not tag_of(each)]
    sets = [each.value for each in untagged if isinstance(each.value, list)]
    holds_text = any(isinstance(element, str) for each in sets for element in each)
    if len(sets) < len(untagged) or holds_text:
        assert decision.code == Code.REQUEST_INVALID
    elif not unmapped:
        assert decision.code == Code.ALLOWED, decision
    else:
        assert decision.code in {Code.ALLOWED, Code.REQUEST_INVALID}, decision


@given(OBJECTS)
def test_tag_at_each_pointer_is_the_tag_of_the_whole(arguments: dict[str, object]) -> None:
    for pointer, tag in tags(arguments).items():
        assert tag_at(arguments, pointer) == tag


@given(OBJECTS, st.lists(KEYS, max_size=4))
def test_pointer_without_a_tag_in_the_whole_has_none(
    arguments: dict[str, object], segments: list[str]
) -> None:
    pointer = "".join("/" + each.replace("~", "~0").replace("/", "~1") for each in segments)
    assert tag_at(arguments, pointer) == tags(arguments).get(pointer)


@given(JSON)
def test_typing_any_json_as_a_schema_never_fails(schema: object) -> None:
    assert input_type(schema) is not None


def test_too_many_is_an_error_of_its_own() -> None:
    with pytest.raises(TooManyArgumentsError):
        tags({"x": list(range(10_001))})
