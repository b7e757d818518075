"""Decisions on tool calls, through the public set."""

from dataclasses import replace

import pytest

from policies.decide import Category, Code, Decision
from policies.entities import AgentFacts, ToolFacts, UserFacts
from tests.policies.story import (
    ALICE,
    BOB,
    BOT,
    NOTES,
    RUN,
    call,
    compiled,
    story,
)

ALLOW = '@id("allow") permit (principal, action, resource);'
REFUND = 'principal, action == Action::"crm/refund", resource'


@pytest.mark.requirement("C37")
def test_story_support_reads_an_account() -> None:
    assert story().decide_call(call("get_account", {"id": 17})) == Decision(
        allowed=True, code=Code.ALLOWED, policies=("grant-support-read",), ttl_seconds=900
    )


@pytest.mark.requirement("C37")
def test_story_bob_may_list_hours_and_not_read_accounts() -> None:
    assert story().decide_call(call("list_hours", user=BOB)).policies == ("grant-crm-hours",)
    assert story().decide_call(call("get_account", {"id": 17}, user=BOB)) == Decision(
        allowed=False,
        code=Code.NO_PERMIT,
        category=Category.NOT_PERMITTED,
        reasons=("No policy permits this.",),
        failed_conditions=('grant-support-read: context.run.user in Group::"local/support"',),
    )


@pytest.mark.requirement("C37")
@pytest.mark.parametrize("amount", [1, 100, 500])
def test_story_refund_up_to_the_limit_is_allowed(amount: int) -> None:
    assert story().decide_call(call("refund", {"amount": amount})) == Decision(
        allowed=True,
        code=Code.ALLOWED,
        policies=("grant-refund",),
        ttl_seconds=300,
        scopes=("crm.read", "crm.refund"),
    )


@pytest.mark.requirement("C37")
@pytest.mark.parametrize(
    "arguments",
    [{"amount": 501}, {"amount": 900}, {"amount": 2**63}, {"amount": 100.0}, {"amount": "100"},
     {"amount": True}, {"amount": None}, {}],
)  # fmt: skip
def test_story_refund_over_the_limit_or_of_no_known_amount_is_forbidden(
    arguments: dict[str, object],
) -> None:
    assert story().decide_call(call("refund", arguments)) == Decision(
        allowed=False,
        code=Code.FORBIDDEN,
        category=Category.NOT_PERMITTED,
        policies=("guard-refund-limit",),
        reasons=("Agents may not refund more than 500.",),
    )


def test_story_notes_are_for_staff() -> None:
    outsider = UserFacts("usr_eve", ("local/guests",))
    assert story().decide_call(call("search", server=NOTES)).allowed
    assert not story().decide_call(call("search", server=NOTES, user=outsider)).allowed


def test_story_agent_alone_and_other_agent_get_nothing() -> None:
    alone = story().decide_call(call("get_account", user=None))
    assert (alone.code, alone.failed_conditions[0]) == (
        Code.NO_PERMIT,
        "grant-support-read: context.run has user",
    )
    other = AgentFacts("other", (), "demo", 1, "unix_process")
    assert story().decide_call(call("get_account", agent=other)).code == Code.NO_PERMIT


@pytest.mark.requirement("trap-empty-set")
def test_empty_set_denies() -> None:
    decision = compiled().decide_call(call("refund"))
    assert (decision.allowed, decision.code) == (False, Code.NO_PERMIT)


@pytest.mark.requirement("trap-empty-set")
def test_set_without_grants_denies() -> None:
    decision = compiled('@id("a") forbid (principal, action, resource) when { false };')
    assert decision.decide_call(call("refund")).code == Code.NO_PERMIT


def test_set_with_a_grant_for_everything_allows() -> None:
    assert compiled(ALLOW).decide_call(call("refund")).allowed


def test_guard_wins_over_every_grant() -> None:
    policies = compiled(ALLOW, '@id("guard") forbid (principal, action, resource);')
    assert policies.decide_call(call("refund")) == Decision(
        allowed=False,
        code=Code.FORBIDDEN,
        category=Category.NOT_PERMITTED,
        policies=("guard",),
        reasons=("A policy forbids this.",),
    )


def test_grant_may_name_one_agent_in_its_scope() -> None:
    policies = compiled('@id("a") permit (principal == Agent::"support-bot", action, resource);')
    assert policies.decide_call(call("refund")).allowed
    other = replace(BOT, name="other")
    assert not policies.decide_call(call("refund", agent=other)).allowed


@pytest.mark.parametrize(
    "facts",
    [
        ToolFacts("crm", "nothing"),
        ToolFacts("nowhere", "refund", False, 2),
        ToolFacts("crm", "refund", True, 2),
        ToolFacts("crm", "refund", False, 1),
    ],
)
def test_tool_that_is_not_the_approved_one_is_not_judged(facts: ToolFacts) -> None:
    asked = replace(call("refund"), tool=facts)
    assert compiled(ALLOW).decide_call(asked) == Decision(
        allowed=False,
        code=Code.REQUEST_INVALID,
        category=Category.NOT_PERMITTED,
        reasons=("The request cannot be judged.",),
        failed_conditions=("the tool is not in the catalogue of this policy set",),
    )


@pytest.mark.parametrize(
    "asked",
    [
        call("refund", agent=replace(BOT, name="\ud800")),
        call("refund", agent=replace(BOT, level="3")),  # type: ignore[arg-type]
        call("refund", user=replace(ALICE, auth_time=10**15)),
        call("refund", user=replace(ALICE, acr=3)),  # type: ignore[arg-type]
        call("refund", run=replace(RUN, declared={"task": 1})),  # type: ignore[dict-item]
        call("refund", run=replace(RUN, declared={1: "x"})),  # type: ignore[dict-item]
        call("refund", now_ms=10**18),
        call("refund", {"amount": 5, "note": "\ud800"}),
    ],
)
def test_request_that_breaks_its_own_types_is_not_judged(asked: object) -> None:
    policies = compiled(
        ALLOW, f'@id("g") forbid ({REFUND}) when {{ context.input has note && false }};'
    )
    decision = policies.decide_call(asked)  # type: ignore[arg-type]
    assert (decision.allowed, decision.code) == (False, Code.REQUEST_INVALID)
    assert decision.failed_conditions[0] in {
        "ValueError", "TypeError", "OverflowError", "UnicodeEncodeError",
    }  # fmt: skip


def test_argument_no_policy_reads_cannot_make_a_request_invalid() -> None:
    assert compiled(ALLOW).decide_call(call("refund", {"note": "\ud800"})).allowed
