"""What it costs to compare details of somebody else's choosing: counted in calls, not in time."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import pytest

from tests.token_exchange.exchanges import CRM, exchange, subject
from token_exchange.claims import AuthorizationDetail
from token_exchange.exchange import plan_exchange
from token_exchange.exchange_plan import ExchangePlan
from token_exchange.narrowing import details_cover, details_intersection

CALLS_A_PATTERN = 40  # each with each would be hundreds


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called, of Python and of C."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def tools(*patterns: str) -> AuthorizationDetail:
    return AuthorizationDetail("mcp_tool", "crm", patterns, ("call",))


NAMES = [f"{number:04}" for number in range(300)]
DISJOINT = (tools(*NAMES),)
NESTED = (tools(*(f"{'x' * length}*" for length in range(128)), *NAMES),)
# Many details, each of them but for one tool the same as the one before.
ALIKE = tuple(tools(*NAMES[:60], name) for name in NAMES[60:92])


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize("ours", [(tools("*"),), DISJOINT, NESTED], ids=["all", "many", "nested"])
@pytest.mark.parametrize("asked", [DISJOINT, NESTED, ALIKE], ids=["many", "nested", "alike"])
def test_details_of_any_shape_are_compared_in_proportion_to_their_patterns(
    ours: tuple[AuthorizationDetail, ...], asked: tuple[AuthorizationDetail, ...]
) -> None:
    patterns = sum(len(detail.tools) for detail in (*ours, *asked))

    intersection = calls_of(lambda: details_intersection(ours, asked))
    coverage = calls_of(lambda: details_cover(ours, asked))

    assert patterns < intersection < CALLS_A_PATTERN * patterns
    assert coverage < CALLS_A_PATTERN * patterns


@pytest.mark.requirement("attack-30")
def test_exchange_of_a_large_token_costs_in_proportion_to_its_patterns() -> None:
    named = ["get_account", *NAMES]
    many = [{"type": "mcp_tool", "server": "crm", "tools": named, "actions": ["call"]}] * 2
    target = replace(CRM, approved_tools=frozenset(named))
    request = exchange(
        subject=subject(authorization_details=many),
        targets={"crm": target},
        agent_tools={"support-bot": tuple(f"crm/{name}" for name in named)},
    )
    plans = list[object]()

    calls = calls_of(lambda: plans.append(plan_exchange(request)))

    (plan,) = plans
    assert isinstance(plan, ExchangePlan)
    assert plan.details == (tools(*sorted(named)),)
    assert calls < CALLS_A_PATTERN * 3 * len(NAMES)
