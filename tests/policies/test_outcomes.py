"""Reasons, remedies, bounds and failed conditions of decisions."""

import pytest

from policies.decide import Category, Code, Decision
from policies.evaluate import MAXIMUM_NEAR_GRANTS
from tests.policies.story import (
    THURSDAY_NOON_MS,
    call,
    compiled,
)

ALLOW = '@id("allow") permit (principal, action, resource);'


def test_bounds_of_all_matching_grants_are_combined() -> None:
    policies = compiled(
        '@id("b") @ttl("600") @scope("b.two a") permit (principal, action, resource);'
        '@id("a") @ttl("60") permit (principal, action, resource);'
        '@id("c") @scope("c") permit (principal, action, resource);'
        '@id("d") @ttl("1") @scope("d") permit (principal, action, resource) when { false };'
    )
    assert policies.decide_call(call("refund")) == Decision(
        allowed=True,
        code=Code.ALLOWED,
        policies=("a", "b", "c"),
        ttl_seconds=60,
        scopes=("a", "b.two", "c"),
    )


def guard(policy_id: str, remedy: str, condition: str = "true", reason: str = "Ask.") -> str:
    return (
        f'@id("{policy_id}") @remedy("{remedy}") @reason("{reason}")'
        f" forbid (principal, action, resource) when {{ {condition} }};"
    )


@pytest.mark.parametrize(
    ("remedy", "category"),
    [
        ("approval:finance-lead", Category.NEEDS_APPROVAL),
        ("stepup:mfa", Category.NEEDS_STEP_UP),
        ("approval:finance:lead", Category.NEEDS_APPROVAL),
        ("wait:day", Category.QUOTA),
        ("retry:posture", Category.TEMPORARILY_BLOCKED),
        ("review:tool", Category.TEMPORARILY_BLOCKED),
    ],
)
def test_remedy_is_offered_where_it_would_help(remedy: str, category: Category) -> None:
    assert compiled(ALLOW, guard("g", remedy)).decide_call(call("refund")) == Decision(
        allowed=False,
        code=Code.FORBIDDEN,
        category=category,
        policies=("g",),
        reasons=("Ask.",),
        remedies=(remedy,),
    )


def test_remedies_of_all_guards_are_offered_once_each_in_the_order_of_their_ids() -> None:
    decision = compiled(
        ALLOW,
        guard("g2", "stepup:mfa", reason="Who?"),
        guard("g1", "approval:x"),
        guard("g3", "approval:x"),
    ).decide_call(call("refund"))
    assert decision.policies == ("g1", "g2", "g3")
    assert decision.remedies == ("approval:x", "stepup:mfa")
    assert decision.reasons == ("Ask.", "Who?")
    assert decision.category is Category.NEEDS_APPROVAL


def test_remedy_is_not_offered_without_a_grant() -> None:
    decision = compiled(guard("g", "approval:x")).decide_call(call("refund"))
    assert (decision.remedies, decision.category) == ((), Category.NOT_PERMITTED)
    assert decision.code == Code.FORBIDDEN


def test_remedy_is_not_offered_beside_a_guard_without_one() -> None:
    hard = '@id("hard") forbid (principal, action, resource);'
    decision = compiled(ALLOW, hard, guard("g", "approval:x")).decide_call(call("refund"))
    assert (decision.policies, decision.remedies) == (("g", "hard"), ())
    assert decision.reasons == ("Ask.", "A policy forbids this.")


def test_remedy_is_not_offered_when_the_rest_would_err() -> None:
    """The remaining guard errs only once the remedied one is gone: overflow is never checked."""
    overflow = f"context.run.chain_depth + {2**63 - 1} + 1 > 0"
    policies = compiled(
        ALLOW,
        guard("g", "approval:x"),
        f'@id("e") forbid (principal, action, resource) when {{ {overflow} }};',
    )
    assert policies.decide_call(call("refund")).code == Code.POLICY_ERROR


def test_nearest_grants_are_named_first_and_not_too_many() -> None:
    no = "principal.level == 9"
    texts = [
        f'@id("far") permit (principal, action, resource) when {{ {no} && {no} }};',
        *(
            f'@id("near-{n}") permit (principal, action, resource) when {{ {no} }};'
            for n in range(MAXIMUM_NEAR_GRANTS)
        ),
    ]
    decision = compiled(*texts).decide_call(call("refund"))
    assert decision.failed_conditions == tuple(
        f"near-{n}: {no}" for n in range(MAXIMUM_NEAR_GRANTS)
    )


def test_conditions_of_guards_and_of_grants_for_others_are_not_near() -> None:
    policies = compiled(
        '@id("guard") forbid (principal, action, resource) when { principal.level == 9 };',
        '@id("other") permit (principal == Agent::"x", action, resource) when { false };',
    )
    assert policies.decide_call(call("refund")).failed_conditions == ()


def test_condition_that_holds_is_not_a_failed_one() -> None:
    policies = compiled(
        '@id("a") permit (principal, action, resource)'
        ' when { principal.level == 1 } unless { principal.method == "unix_process" };'
    )
    assert policies.decide_call(call("refund")).failed_conditions == (
        'a: unless principal.method == "unix_process"',
    )


def test_time_is_part_of_the_request_and_not_of_the_set() -> None:
    policies = compiled(
        '@id("a") permit (principal, action, resource) when {'
        ' context.run.clock.now.toTime() < duration("13h") };'
    )
    assert policies.decide_call(call("refund")).allowed
    assert not policies.decide_call(call("refund", now_ms=THURSDAY_NOON_MS + 3_600_000)).allowed
