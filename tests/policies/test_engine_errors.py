"""An engine error never allows: whatever errs, in whatever way, the answer is a deny."""

from typing import Any

import cedarpy
import pytest

from policies.decide import Category, Code, Decision
from tests.policies.story import BOT, RUN, THURSDAY_NOON_MS, call, compiled, issue, story, tool

ALLOW = '@id("allow") permit (principal, action, resource);'
OVERFLOW = f"context.run.chain_depth + {2**63 - 1} + 1 > 0"


@pytest.mark.requirement("trap-skipped-guard")
def test_guard_that_errs_denies_although_the_engine_skips_it() -> None:
    policies = compiled(
        ALLOW, f'@id("guard") forbid (principal, action, resource) when {{ {OVERFLOW} }};'
    )
    decision = policies.decide_call(call("refund"))
    assert (decision.allowed, decision.code) == (False, Code.POLICY_ERROR)
    assert decision.category is Category.TEMPORARILY_BLOCKED
    assert decision.policies == ("allow",)
    assert decision.reasons == ("The policies could not be evaluated.",)
    assert "guard" in decision.failed_conditions[0]


@pytest.mark.requirement("trap-skipped-guard")
def test_grant_that_errs_denies_even_beside_one_that_allows() -> None:
    policies = compiled(
        ALLOW, f'@id("other") permit (principal, action, resource) when {{ {OVERFLOW} }};'
    )
    assert policies.decide_call(call("refund")).code == Code.POLICY_ERROR
    assert policies.decide_issue(issue()).code == Code.POLICY_ERROR


@pytest.mark.requirement("trap-skipped-guard")
def test_policy_that_cannot_apply_cannot_err() -> None:
    policies = compiled(
        ALLOW,
        '@id("other") forbid (principal == Agent::"else", action, resource)'
        f" when {{ {OVERFLOW} }};",
    )
    assert policies.decide_call(call("refund")).allowed


class PanicError(BaseException):
    """As the engine's panics: no Exception."""


@pytest.mark.parametrize("error", [ValueError, RuntimeError, MemoryError, PanicError])
def test_engine_that_fails_denies(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    policies = story()
    monkeypatch.setattr(cedarpy, "is_authorized", fails)
    assert policies.decide_call(call("list_hours")) == Decision(
        allowed=False,
        code=Code.POLICY_ERROR,
        category=Category.TEMPORARILY_BLOCKED,
        reasons=("The policies could not be evaluated.",),
        failed_conditions=(error.__name__,),
    )
    assert policies.decide_issue(issue()).code == Code.POLICY_ERROR
    assert policies.visible(BOT, None, RUN, THURSDAY_NOON_MS, [tool("refund")]) == ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_wish_to_stop_the_process_is_not_taken_for_an_engine_failure(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: object) -> None:
        raise error

    policies = story()
    monkeypatch.setattr(cedarpy, "is_authorized", stops)
    with pytest.raises(error):
        policies.decide_call(call("list_hours"))


def answer(decision: str, *, errors: list[str], reasons: list[str]) -> Any:
    """What the engine returns."""
    return cedarpy.AuthzResult(
        {"decision": decision, "diagnostics": {"errors": errors, "reason": reasons}}
    )


@pytest.mark.requirement("trap-no-decision")
def test_no_decision_is_a_deny(monkeypatch: pytest.MonkeyPatch) -> None:
    given = answer("NoDecision", errors=["context"], reasons=[])
    policies = story()
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_: given)
    decision = policies.decide_call(call("list_hours"))
    assert (decision.allowed, decision.code) == (False, Code.REQUEST_INVALID)
    assert decision.failed_conditions == ("context",)


@pytest.mark.requirement("trap-no-decision")
def test_no_decision_without_any_error_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = answer("NoDecision", errors=[], reasons=[])
    policies = story()
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_: given)
    assert policies.decide_call(call("list_hours")).code == Code.REQUEST_INVALID
    assert policies.visible(BOT, None, RUN, THURSDAY_NOON_MS, [tool("refund")]) == ()


def test_every_evaluation_checks_the_request_against_the_schema(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, schemas = cedarpy.is_authorized, []

    def recorded(request: Any, policies: Any, entities: Any, schema: Any) -> Any:
        schemas.append(schema)
        return real(request, policies, entities, schema)

    guarded = compiled(
        f'@id("a") permit (principal, action == Action::"crm/refund", resource)'
        f" when {{ context.input has amount && {OVERFLOW} }};"
        '@id("b") permit (principal, action == Action::"crm/list_hours", resource);'
        '@id("g") @remedy("wait:day") forbid (principal, action, resource) when'
        " { principal.level == 1 };"
    )
    monkeypatch.setattr(cedarpy, "is_authorized", recorded)
    assert guarded.decide_call(call("list_hours")).remedies == ("wait:day",)  # asks twice
    story().decide_call(call("delete_account"))
    story().decide_call(call("get_account", user=None))  # asks twice
    guarded.visible(BOT, None, RUN, THURSDAY_NOON_MS, [tool("refund")])  # asks twice
    assert len(schemas) == 7
    assert all(isinstance(each, cedarpy.Schema) for each in schemas)


def test_remedy_is_not_offered_when_asking_for_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = compiled(
        ALLOW, '@id("g") @remedy("approval:x") forbid (principal, action, resource);'
    )
    answers = [
        answer("Deny", errors=[], reasons=["g"]),
        answer("Allow", errors=["allow"], reasons=["allow"]),
    ]
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_: answers.pop(0))
    decision = policies.decide_call(call("refund"))
    assert (decision.code, decision.remedies) == (Code.FORBIDDEN, ())


def test_allow_with_an_error_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given = answer("Allow", errors=["allow"], reasons=["allow"])
    policies = compiled(ALLOW)
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_: given)
    assert policies.visible(BOT, None, RUN, THURSDAY_NOON_MS, [tool("refund")]) == ()
