import cedarpy
import pytest

from policies.entities import ToolFacts
from policies.scopes import ScopeIndex, admits, call_scope, issue_scope, named_in, uid

REFUND = ToolFacts("crm", "refund")
LOOKUP = ToolFacts("crm", "lookup", read_only=True)
SCOPE = call_scope("bot", ("support", "eu"), REFUND)


def matching(scope_text: str, tool: ToolFacts = REFUND) -> bool:
    """Whether the scope of one policy admits support's bot calling a tool."""
    text = f"permit ({scope_text});"
    parsed = cedarpy.policies_to_pst(text).static_policies
    return ScopeIndex(parsed).matching(call_scope("bot", ("support", "eu"), tool)) != ()


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("principal, action, resource", True),
        ('principal == Agent::"bot", action, resource', True),
        ('principal == Agent::"other", action, resource', False),
        ('principal in Agent::"bot", action, resource', True),
        ('principal in AgentGroup::"support", action, resource', True),
        ('principal in AgentGroup::"eu", action, resource', True),
        ('principal in AgentGroup::"us", action, resource', False),
        ('principal == AgentGroup::"support", action, resource', False),
        ("principal is Agent, action, resource", True),
        ("principal is User, action, resource", False),
        ('principal is Agent in AgentGroup::"support", action, resource', True),
        ('principal is Agent in AgentGroup::"us", action, resource', False),
        ('principal is User in AgentGroup::"support", action, resource', False),
        ('principal, action == Action::"crm/refund", resource', True),
        ('principal, action == Action::"crm/lookup", resource', False),
        ('principal, action == Action::"call_tool", resource', False),
        ('principal, action in Action::"call_write", resource', True),
        ('principal, action in Action::"call_read", resource', False),
        ('principal, action in Action::"call_tool", resource', True),
        ('principal, action in Action::"use", resource', True),
        ('principal, action in [Action::"crm/x", Action::"crm/refund"], resource', True),
        ('principal, action in [Action::"crm/x", Action::"call_read"], resource', False),
        ('principal, action == Action::"issue_credential", resource', False),
        ('principal, action, resource == Tool::"crm/refund"', True),
        ('principal, action, resource == Tool::"crm/lookup"', False),
        ('principal, action, resource in McpServer::"crm"', True),
        ('principal, action, resource in McpServer::"notes"', False),
        ('principal, action, resource == McpServer::"crm"', False),
        ("principal, action, resource is Tool", True),
        ("principal, action, resource is CredentialProvider", False),
        ('principal, action, resource is Tool in McpServer::"crm"', True),
        ('principal, action, resource is Tool in McpServer::"notes"', False),
    ],
)
def test_scope_admits_exactly_what_the_engine_would(scope: str, *, expected: bool) -> None:
    assert matching(scope) is expected


def test_read_only_tool_is_under_call_read() -> None:
    assert matching('principal, action in Action::"call_read", resource', LOOKUP)
    assert not matching('principal, action in Action::"call_write", resource', LOOKUP)


def test_issue_scope_is_the_provider_within_the_server() -> None:
    policies = cedarpy.policies_to_pst(
        """permit (principal in AgentGroup::"g", action == Action::"issue_credential",
                   resource in McpServer::"crm");
           permit (principal, action in Action::"use", resource == CredentialProvider::"key");
           permit (principal, action in Action::"call_tool", resource);
           permit (principal, action, resource in McpServer::"notes");"""
    ).static_policies
    found = ScopeIndex(policies).matching(issue_scope("bot", ("g",), "key", "crm"))
    assert found == ("policy0", "policy1")


def test_matching_policies_keep_the_order_of_the_set() -> None:
    policies = cedarpy.policies_to_pst(
        """permit (principal == Agent::"bot", action, resource);
           permit (principal, action, resource);
           permit (principal in AgentGroup::"support", action, resource);"""
    ).static_policies
    assert ScopeIndex(policies).matching(SCOPE) == ("policy0", "policy1", "policy2")
    renamed = dict(zip("cab", policies.values(), strict=True))
    assert ScopeIndex(renamed).matching(SCOPE) == ("c", "a", "b")


def test_constraint_of_a_later_engine_is_never_left_out() -> None:
    assert admits(object(), SCOPE.principal)  # type: ignore[arg-type]  # stands for a later node


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("principal", None),
        ("principal is Agent", None),
        ('principal == Agent::"a"', uid("Agent", "a")),
        ('principal in AgentGroup::"g"', uid("AgentGroup", "g")),
        ('principal is Agent in AgentGroup::"g"', uid("AgentGroup", "g")),
    ],
)
def test_entity_a_constraint_names(scope: str, expected: object) -> None:
    parsed = cedarpy.policies_to_pst(f"permit ({scope}, action, resource);").static_policies
    assert named_in(parsed["policy0"].principal) == expected
