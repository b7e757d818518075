"""Decisions on issuing a server's credential, and the shipped base set."""

from dataclasses import replace

import pytest

from policies.decide import Code, Decision
from policies.entities import IssueRequest
from tests.policies.story import BASE, BOB, BOT, RUN, call, compiled, issue, story

ISSUE = 'principal, action == Action::"issue_credential", resource'
BASE_TEXT = BASE.cedar


def chain(length: int) -> IssueRequest:
    return issue(run=replace(RUN, chain=tuple(f"agent-{n}" for n in range(length))))


@pytest.mark.requirement("trap-details")
def test_base_set_permits_the_credential_of_a_server_the_token_names() -> None:
    assert compiled(BASE_TEXT).decide_issue(issue()) == Decision(
        allowed=True, code=Code.ALLOWED, policies=("base-issue-named-server",)
    )


@pytest.mark.requirement("trap-details")
def test_base_set_refuses_the_credential_of_a_server_the_token_does_not_name() -> None:
    decision = compiled(BASE_TEXT).decide_issue(issue(details_name_server=False))
    assert decision.code == Code.NO_PERMIT
    assert decision.failed_conditions == (
        "base-issue-named-server: context.grant.details_name_server",
    )


def test_base_set_permits_no_tool_call() -> None:
    assert compiled(BASE_TEXT).decide_call(call("list_hours")).code == Code.NO_PERMIT


@pytest.mark.parametrize(("upstream", "allowed"), [(0, True), (3, True), (4, False)])
def test_base_set_limits_the_chain_of_agents(upstream: int, *, allowed: bool) -> None:
    decision = compiled(BASE_TEXT).decide_issue(chain(upstream))
    assert decision.allowed is allowed
    if not allowed:
        assert decision.policies == ("base-guard-chain-depth",)
        assert decision.reasons == ("The chain of agents is too long.",)


def test_base_set_limits_the_chain_for_calls_too() -> None:
    run = replace(RUN, chain=("a", "b", "c", "d"))
    decision = story().decide_call(call("list_hours", run=run))
    assert decision.policies == ("base-guard-chain-depth",)


def test_empty_set_issues_nothing() -> None:
    assert compiled().decide_issue(issue()).code == Code.NO_PERMIT


def test_guards_that_read_arguments_do_not_apply_to_issuing() -> None:
    assert story().decide_issue(issue()).allowed


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("context.grant.ttl == 300", True),
        ("context.grant.ttl < 300", False),
        ('["crm.read", "crm.write", "x"].containsAll(context.grant.scopes)', True),
        ('["crm.read"].containsAll(context.grant.scopes)', False),
        ('context.grant.audience == "http://127.0.0.1:8711/mcp"', True),
        ('resource == CredentialProvider::"crm-token" && resource.type == "issued_token"', True),
        ('resource in McpServer::"crm"', True),
        ('resource in McpServer::"notes"', False),
        ("context.run.chain_depth == 0", True),
        ('context.run has user && context.run.user == User::"usr_alice"', True),
        ("context.run has user && principal.level == 1", True),
    ],
)
def test_condition_sees_the_credential_asked_for(condition: str, *, holds: bool) -> None:
    policies = compiled(f'@id("a") permit ({ISSUE}) when {{ {condition} }};')
    assert policies.decide_issue(issue()).allowed is holds


def test_operator_narrows_the_base_by_a_guard() -> None:
    guard = f'@id("g") forbid ({ISSUE} == CredentialProvider::"crm-token");'
    assert compiled(BASE_TEXT, guard).decide_issue(issue()).policies == ("g",)
    other = issue(server="notes", provider="notes-key", provider_type="static_secret")
    assert compiled(BASE_TEXT, guard).decide_issue(other).allowed


def test_grant_may_name_agent_server_and_the_persons_group() -> None:
    policies = compiled(
        """@id("a") permit (
            principal == Agent::"support-bot",
            action == Action::"issue_credential",
            resource in McpServer::"crm"
        ) when { context.run has user && context.run.user in Group::"local/support" &&
                 context.run.user has acr && resource.type == "issued_token" };"""
    )
    assert policies.decide_issue(issue()).allowed
    assert not policies.decide_issue(issue(user=BOB)).allowed
    assert not policies.decide_issue(issue(server="notes")).allowed
    assert not policies.decide_issue(issue(agent=replace(BOT, name="other"))).allowed
    assert not policies.decide_issue(issue(provider_type="static_secret")).allowed


def test_scopes_asked_for_are_cut_to_those_of_the_grants() -> None:
    bound = f'@id("a") @ttl("60") @scope("crm.admin crm.read") permit ({ISSUE});'
    decision = compiled(BASE_TEXT, bound).decide_issue(issue())
    assert decision.policies == ("a", "base-issue-named-server")
    assert (decision.ttl_seconds, decision.scopes) == (60, ("crm.read",))


def test_no_scope_is_left_when_grants_name_none_of_those_asked_for() -> None:
    bound = f'@id("a") @scope("crm.admin") permit ({ISSUE});'
    assert compiled(bound).decide_issue(issue()).scopes == ()


def test_agent_alone_can_be_given_a_credential() -> None:
    assert compiled(BASE_TEXT).decide_issue(issue(user=None)).allowed


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "\ud800"},
        {"agent": replace(BOT, level="1")},  # type: ignore[arg-type]  # what the test is about
        {"now_ms": 10**18},
        {"ttl_seconds": "300"},
        {"ttl_seconds": 2**64},
        {"details_name_server": 1},
    ],
)
def test_request_that_breaks_its_own_types_is_not_judged(changes: dict[str, object]) -> None:
    decision = compiled(BASE_TEXT).decide_issue(issue(**changes))
    assert (decision.allowed, decision.code) == (False, Code.REQUEST_INVALID)
    assert decision.failed_conditions[0] not in ("", "NoneType")


def test_server_and_provider_of_one_name_are_told_apart() -> None:
    same = issue(server="crm", provider="crm")
    assert compiled(BASE_TEXT).decide_issue(same).allowed
