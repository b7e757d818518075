import cedarpy
import pytest

from policies.entities import ToolFacts
from policies.input_types import RecordType, SetType
from policies.schema import (
    BASE_SCHEMA,
    ServerCatalogue,
    ToolDefinition,
    TypedTool,
    action_above,
    quoted,
    schema_text,
    typed_tools,
)
from tests.policies.story import INTEGER, TEXT, call, compiled, inputs

ODD_NAMES = ["", "if", "a-b.c", 'quote"', "back\\slash", "tab\t", "nul\x00", "größe", "\U0001f600"]


def test_base_schema_is_valid_by_itself() -> None:
    assert str(cedarpy.Schema.from_str(BASE_SCHEMA))


def test_string_is_quoted_for_cedar() -> None:
    assert quoted('a "b"\\\n~\x7fé') == '"a \\u{22}b\\u{22}\\u{5c}\\u{a}~\\u{7f}\\u{e9}"'


@pytest.mark.parametrize(("read_only", "parent"), [(True, "call_read"), (False, "call_write")])
def test_tool_is_under_call_read_only_if_the_operator_says_so(
    *, read_only: bool, parent: str
) -> None:
    facts = ToolFacts("crm", "x", read_only)
    assert action_above(facts) == parent
    text = schema_text([TypedTool(facts, RecordType({}))])
    assert f'action "crm/x" in ["{parent}"]' in text


def test_input_is_written_as_a_type_with_optional_fields() -> None:
    of = RecordType({"a": "Long", "b": SetType("String"), "c": RecordType({"d": "decimal"})})
    text = schema_text([TypedTool(ToolFacts("crm", "x"), of)])
    assert 'input: { "a"?: Long, "b"?: Set<String>, "c"?: { "d"?: decimal } }' in text
    assert text.startswith(BASE_SCHEMA)
    cedarpy.Schema.from_str(text)


@pytest.mark.requirement("trap-odd-names")
def test_odd_names_of_tools_and_arguments_fail_nothing() -> None:
    arguments = inputs(**dict.fromkeys(ODD_NAMES, TEXT))
    server = ServerCatalogue("odd", (), [(name, arguments, False, 0) for name in ODD_NAMES])
    policies = compiled(
        '@id("a") permit (principal, action == Action::"odd/if", resource)'
        ' when { context.input has "größe" && context.input["größe"] == "x" };',
        servers=(server,),
    )
    for name in ODD_NAMES:
        asked = call(name, dict.fromkeys(ODD_NAMES, "x"), server=server)
        assert policies.decide_call(asked).allowed is (name == "if")


def test_tool_whose_name_cannot_be_written_is_left_out_and_the_rest_is_kept() -> None:
    tools: list[ToolDefinition] = [("\ud800", {}, False, 0), ("ok", {}, False, 0)]
    assert list(typed_tools([ServerCatalogue("s", (), tools)])) == ["s/ok"]


def test_second_tool_of_one_name_is_ignored() -> None:
    tools = [("x", inputs(a=INTEGER), True, 1), ("x", inputs(b=TEXT), False, 0)]
    found = typed_tools([ServerCatalogue("s", (), tools)])
    assert found == {"s/x": TypedTool(ToolFacts("s", "x", True, 1), RecordType({"a": "Long"}))}
