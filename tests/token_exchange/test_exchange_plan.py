"""A plan may be made smaller, by whoever carries it out, and never larger."""

from dataclasses import replace

import msgspec
import pytest

from tests.token_exchange.exchanges import CALL, exchange, planned, subject
from tests.token_exchange.signing import NOW
from token_exchange.exchange_plan import ExchangePlan
from token_exchange.exchange_refusals import REFUSALS


@pytest.mark.parametrize(
    ("ttl_seconds", "scopes", "lifetime", "scope"),
    [
        (None, None, 300, "a b mcp:tools"),
        (60, None, 60, "a b mcp:tools"),
        (300, None, 300, "a b mcp:tools"),
        (301, None, 300, "a b mcp:tools"),
        (1, None, 1, "a b mcp:tools"),
        (None, ["b", "a"], 300, "a b"),
        (None, ["a", "z"], 300, "a"),
        (10, ("mcp:tools",), 10, "mcp:tools"),
    ],
)
def test_plan_narrowed_is_the_smaller_of_both(
    ttl_seconds: int | None, scopes: list[str] | None, lifetime: int, scope: str
) -> None:
    plan = planned(exchange(subject=subject(scope="mcp:tools a b")))

    narrowed = plan.narrowed_to(ttl_seconds, scopes)

    assert isinstance(narrowed, ExchangePlan)
    assert (narrowed.lifetime_seconds, narrowed.scope) == (lifetime, scope)
    assert replace(narrowed, expires_at=plan.expires_at, scope=plan.scope) == plan


def test_plan_narrowed_to_no_lifetime_is_refused() -> None:
    plan = planned(exchange())

    assert plan.narrowed_to(0) == REFUSALS["exchange.lifetime"]
    assert plan.narrowed_to(-1) == REFUSALS["exchange.lifetime"]


def test_plan_narrowed_to_no_scope_is_refused() -> None:
    plan = planned(exchange())

    assert plan.narrowed_to(scopes=()) == REFUSALS["exchange.scope_narrowed"]
    assert plan.narrowed_to(scopes=["other"]) == REFUSALS["exchange.scope_narrowed"]


def test_plan_without_scope_may_be_narrowed() -> None:
    plan = replace(planned(exchange()), scope="")

    assert plan.narrowed_to(60, []) == replace(plan, expires_at=NOW + 60)


@pytest.mark.requirement("attack-17")
def test_plan_takes_nothing_the_gateway_sent_into_who_acts_for_whom() -> None:
    honest = planned(exchange())
    other = planned(exchange(details=(msgspec.structs.replace(CALL, tool="get_balance"),)))

    assert (other.actor, other.subject, other.agent, other.audience) == (
        honest.actor,
        honest.subject,
        honest.agent,
        honest.audience,
    )
