"""Policies that compile and never match: misspelt arguments and groups nobody is in."""

from dataclasses import replace

import pytest

from policies.schema import ServerCatalogue
from policies.warnings import policy_warnings
from tests.policies.story import CRM, STORY_DOCUMENT, Document, compiled

GROUPS = {"local": {"local/support", "local/staff"}}
UNION = {"oneOf": [{"type": "string"}, {"type": "integer"}]}


def warnings(condition: str, *, action: str = '== Action::"crm/refund"') -> list[str]:
    text = f'@id("p") forbid (principal, action {action}, resource)\nunless {{ {condition} }};'
    compiled(text)  # it is allowed
    return [
        f"{each.document}:{each.line} {each.message}"
        for each in policy_warnings([Document("d", text)], [CRM], GROUPS)
    ]


@pytest.mark.requirement("operator-warnings")
def test_misspelt_argument_is_named_with_its_line_and_the_one_that_was_meant() -> None:
    assert warnings("context.input has ammount && context.input.ammount <= 500") == [
        "d:2 no approved tool under it has an argument 'ammount'; did you mean 'amount'?"
    ]


@pytest.mark.requirement("operator-warnings")
def test_argument_of_the_tool_and_policies_that_read_none_are_right() -> None:
    assert warnings("context.input has amount && context.input.amount <= 500") == []
    assert warnings("principal.level >= 2", action="") == []
    assert policy_warnings([STORY_DOCUMENT], [CRM], GROUPS) == ()


def test_argument_that_cannot_be_typed_is_said_to_be_so() -> None:
    server = replace(
        CRM, tools=(("refund", {"type": "object", "properties": {"to": UNION}}, False, 0),)
    )
    text = (
        '@id("p") forbid (principal, action == Action::"crm/refund", resource) '
        "unless { context.input has to };"
    )
    (found,) = policy_warnings([Document("d", text)], [server], {})
    assert found.message == "the argument 'to' has no type in Cedar; read it by context.args"


def test_nothing_is_said_of_arguments_before_a_tool_is_approved() -> None:
    text = (
        '@id("p") forbid (principal, action == Action::"crm/refund", resource) '
        "unless { context.input has amount };"
    )
    bare = ServerCatalogue("crm", tools=(("refund", {"properties": 7}, False, 0),))
    assert policy_warnings([Document("d", text)], [replace(CRM, tools=())], {}) == ()
    assert len(policy_warnings([Document("d", text)], [bare], {})) == 1


@pytest.mark.requirement("operator-warnings")
def test_group_nobody_is_in_is_named() -> None:
    in_group = 'context.run has user && context.run.user in Group::"{}"'
    assert warnings(in_group.format("local/suport")) == [
        "d:2 nobody is in the group 'local/suport'; did you mean 'local/support'?"
    ]
    assert warnings(in_group.format("local/support")) == []
    assert warnings(in_group.format("keycloak/anything")) == []
