from dataclasses import replace

import pytest

from policies.entities import ToolFacts, UserFacts
from tests.policies.story import (
    ALICE,
    BOB,
    BOT,
    CRM,
    RUN,
    THURSDAY_NOON_MS,
    call,
    compiled,
    story,
    tool,
)

TOOLS = [tool(name) for name, *_ in CRM.tools]
OVERFLOW = f"context.run.chain_depth + {2**63 - 1} + 1 > 0"
REFUND = 'principal, action == Action::"crm/refund", resource'


def shown(*cedar: str, user: UserFacts | None = ALICE) -> tuple[str, ...]:
    """Which of crm's tools a set shows support-bot."""
    return compiled(*cedar).visible(BOT, user, RUN, THURSDAY_NOON_MS, TOOLS)


def test_story_shows_each_person_what_they_might_call() -> None:
    policies = story()
    assert policies.visible(BOT, ALICE, RUN, THURSDAY_NOON_MS, TOOLS) == (
        "crm/get_account",
        "crm/list_hours",
        "crm/refund",
    )
    assert policies.visible(BOT, BOB, RUN, THURSDAY_NOON_MS, TOOLS) == ("crm/list_hours",)
    assert policies.visible(BOT, None, RUN, THURSDAY_NOON_MS, TOOLS) == ()


def test_tools_are_shown_in_the_order_given() -> None:
    policies = story()
    backwards = policies.visible(BOT, ALICE, RUN, THURSDAY_NOON_MS, TOOLS[::-1])
    assert backwards == ("crm/refund", "crm/list_hours", "crm/get_account")


def test_empty_set_shows_nothing() -> None:
    assert shown() == ()


def test_tool_that_is_not_the_approved_one_is_not_shown() -> None:
    allow = compiled('@id("a") permit (principal, action, resource);')
    unknown = [ToolFacts("crm", "nothing"), replace(tool("refund"), sensitivity=0), tool("refund")]
    assert allow.visible(BOT, ALICE, RUN, THURSDAY_NOON_MS, unknown) == ("crm/refund",)


def test_nothing_is_shown_when_the_request_cannot_be_judged() -> None:
    allow = compiled('@id("a") permit (principal, action, resource);')
    for_no_time = allow.visible(BOT, ALICE, RUN, 10**18, TOOLS)
    for_no_agent = allow.visible(replace(BOT, name="\ud800"), ALICE, RUN, 0, TOOLS)
    assert (for_no_time, for_no_agent) == ((), ())


def test_no_tools_show_nothing() -> None:
    assert story().visible(BOT, ALICE, RUN, THURSDAY_NOON_MS, []) == ()


@pytest.mark.parametrize(
    "condition",
    [
        "context.input has amount && context.input.amount < 5",
        'context.args.hasTag("/x")',
        "context.args.unmapped.isEmpty()",
        "principal.level == 1 && context.input has amount",
        "context.input has amount && principal.level == 1",
    ],
)
def test_grant_on_arguments_shows_the_tool(condition: str) -> None:
    assert shown(f'@id("a") permit ({REFUND}) when {{ {condition} }};') == ("crm/refund",)


@pytest.mark.parametrize(
    "condition",
    [
        "principal.level == 9 && context.input has amount",
        "context.input has amount && principal.level == 9",
        "context.input has amount && context.input.amount < 5 && principal.level == 9",
    ],
)
def test_condition_that_is_known_already_hides_the_tool_wherever_it_stands(condition: str) -> None:
    assert shown(f'@id("a") permit ({REFUND}) when {{ {condition} }};') == ()


def test_unless_on_arguments_is_forgotten_and_others_are_kept() -> None:
    blind = f'@id("a") permit ({REFUND}) unless {{ context.input has amount }};'
    known = f'@id("a") permit ({REFUND}) unless {{ principal.level == 1 }};'
    assert shown(blind) == ("crm/refund",)
    assert shown(known) == ()


def test_guard_on_arguments_hides_nothing_and_another_does() -> None:
    allow = f'@id("a") permit ({REFUND});'
    assert shown(allow, f'@id("g") forbid ({REFUND}) when {{ context.input has amount }};')
    assert not shown(allow, f'@id("g") forbid ({REFUND}) when {{ principal.level == 1 }};')
    mixed = f'@id("g") forbid ({REFUND}) when {{ true }} unless {{ context.input has amount }};'
    assert shown(allow, mixed)


@pytest.mark.requirement("trap-list-and-call")
def test_forgotten_condition_that_kept_a_later_one_from_erring_hides_nothing() -> None:
    """Without arguments the first grant errs; with them it never gets that far."""
    policies = compiled(
        f'@id("a") permit ({REFUND}) when {{ context.input has amount && {OVERFLOW} }};',
        f'@id("b") permit ({REFUND});',
    )
    assert policies.decide_call(call("refund")).allowed
    assert policies.visible(BOT, ALICE, RUN, THURSDAY_NOON_MS, TOOLS) == ("crm/refund",)


@pytest.mark.requirement("trap-list-and-call")
def test_condition_that_errs_at_every_call_hides_the_tool() -> None:
    policies = compiled(
        f'@id("a") permit ({REFUND}) when {{ {OVERFLOW} && context.input has amount }};',
        f'@id("b") permit ({REFUND});',
    )
    assert not policies.decide_call(call("refund")).allowed
    assert policies.visible(BOT, ALICE, RUN, THURSDAY_NOON_MS, TOOLS) == ()


def test_guard_that_errs_hides_the_tool() -> None:
    assert (
        shown(f'@id("a") permit ({REFUND});', f'@id("g") forbid ({REFUND}) when {{ {OVERFLOW} }};')
        == ()
    )
