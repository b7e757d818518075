"""One evaluation of a slice, and what its answer means.

INVARIANT: only the engine's Allow without a single error is an allow. The engine skips a policy
that errs, so an error may be a guard that did not fire; and NoDecision is no deny in its enum.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import cedarpy

from policies.decision import Category, Code, Decision
from policies.requests import EngineRequest
from policies.slices import CompiledPolicy, PolicySlice

MAXIMUM_NEAR_GRANTS: Final = 3
NO_PERMIT_REASON: Final = "No policy permits this."
FORBIDDEN_REASON: Final = "A policy forbids this."
POLICY_ERROR_REASON: Final = "The policies could not be evaluated."
REQUEST_INVALID_REASON: Final = "The request cannot be judged."
ARGUMENT_UNREADABLE_REASON: Final = (
    "The policies cannot read an argument: it is of another type than the tool's schema says, "
    "or a number of too many digits."
)

REMEDY_CATEGORIES: Final[dict[str, Category]] = {
    "approval": Category.NEEDS_APPROVAL,
    "stepup": Category.NEEDS_STEP_UP,
    "wait": Category.QUOTA,
    "retry": Category.TEMPORARILY_BLOCKED,
    "review": Category.TEMPORARILY_BLOCKED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said. `is_valid` is False when it could not take the request at all."""

    is_valid: bool
    allows: bool
    policies: tuple[str, ...]
    errors: tuple[str, ...]

    @property
    def allows_cleanly(self) -> bool:
        """Allow, and nothing went wrong on the way."""
        return self.is_valid and self.allows and not self.errors


def ask(policies: cedarpy.PolicySet, asked: EngineRequest, schema: cedarpy.Schema) -> Answer:
    """One evaluation. A failure of the engine is an answer with an error, never an exception."""
    try:
        answer = cedarpy.is_authorized(asked.request, policies, asked.entities, schema)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of the engine is no Exception
        return Answer(True, False, (), (type(error).__name__,))
    return Answer(
        is_valid=answer.decision in (cedarpy.Decision.Allow, cedarpy.Decision.Deny),
        allows=answer.decision is cedarpy.Decision.Allow,
        policies=tuple(sorted(answer.diagnostics.reasons)),
        errors=tuple(answer.diagnostics.errors),
    )


def judge(part: PolicySlice, asked: EngineRequest, schema: cedarpy.Schema) -> Decision:
    """The decision of a slice for one request."""
    answer = ask(part.engine_set, asked, schema)
    if not answer.is_valid:
        return request_invalid(*answer.errors)
    if answer.errors:
        return policy_error(answer.errors, answer.policies)
    decided_by = [part.policies[each] for each in answer.policies]
    if answer.allows_cleanly:
        return _allowed(decided_by)
    if not decided_by:
        return _no_permit(near_conditions(part, asked, schema))
    return _forbidden(part, decided_by, asked, schema)


def is_shown(part: PolicySlice, asked: EngineRequest, schema: cedarpy.Schema) -> bool | None:
    """Whether a visibility slice shows a tool; None when an error leaves it open."""
    answer = ask(part.engine_set, asked, schema)
    return None if answer.errors else answer.allows_cleanly


def request_invalid(*details: str) -> Decision:
    """A request that no policy can be asked about."""
    return Decision(
        allowed=False,
        code=Code.REQUEST_INVALID,
        category=Category.NOT_PERMITTED,
        reasons=(REQUEST_INVALID_REASON,),
        failed_conditions=details,
    )


def argument_unreadable(pointer: str) -> Decision:
    """A call whose policies look at a value that Cedar has no form for."""
    return replace(
        request_invalid(f"the value at {pointer!r} has no form in Cedar"),
        reasons=(ARGUMENT_UNREADABLE_REASON,),
    )


def policy_error(details: tuple[str, ...], policies: tuple[str, ...] = ()) -> Decision:
    """A deny because the engine failed; the operator's fault, so it may pass."""
    return Decision(
        allowed=False,
        code=Code.POLICY_ERROR,
        category=Category.TEMPORARILY_BLOCKED,
        policies=policies,
        reasons=(POLICY_ERROR_REASON,),
        failed_conditions=details,
    )


def _allowed(grants: list[CompiledPolicy]) -> Decision:
    """The least lifetime wins; scopes are the union of the grants that name some."""
    lifetimes = [each.ttl_seconds for each in grants if each.ttl_seconds is not None]
    bounds = [each.scopes for each in grants if each.scopes is not None]
    return Decision(
        allowed=True,
        code=Code.ALLOWED,
        policies=tuple(each.id for each in grants),
        ttl_seconds=min(lifetimes, default=None),
        scopes=tuple(sorted({scope for each in bounds for scope in each})) if bounds else None,
    )


def _no_permit(failed_conditions: tuple[str, ...]) -> Decision:
    return Decision(
        allowed=False,
        code=Code.NO_PERMIT,
        category=Category.NOT_PERMITTED,
        reasons=(NO_PERMIT_REASON,),
        failed_conditions=failed_conditions,
    )


def _forbidden(
    part: PolicySlice,
    guards: list[CompiledPolicy],
    asked: EngineRequest,
    schema: cedarpy.Schema,
) -> Decision:
    remedies = _remedies(part, guards, asked, schema)
    category = Category.NOT_PERMITTED
    if remedies:
        category = REMEDY_CATEGORIES[remedies[0].partition(":")[0]]
    return Decision(
        allowed=False,
        code=Code.FORBIDDEN,
        category=category,
        policies=tuple(each.id for each in guards),
        reasons=_distinct(each.reason or FORBIDDEN_REASON for each in guards),
        remedies=remedies,
    )


def _remedies(
    part: PolicySlice,
    guards: list[CompiledPolicy],
    asked: EngineRequest,
    schema: cedarpy.Schema,
) -> tuple[str, ...]:
    """What would help: nothing, unless the request is allowed once every remedy was obtained."""
    offered = _distinct(each.remedy for each in guards if each.remedy is not None)
    if not offered or any(each.remedy is None for each in guards):
        return ()
    return offered if ask(part.without_remedied_guards, asked, schema).allows_cleanly else ()


def near_conditions(
    part: PolicySlice, asked: EngineRequest, schema: cedarpy.Schema
) -> tuple[str, ...]:
    """Which conditions of the grants in scope failed, the nearest grants first."""
    probes, probe_set = part.probes
    if not probes:
        return ()
    held = set(ask(probe_set, asked, schema).policies)
    failed: dict[str, list[str]] = {}
    for probe, (policy_id, condition) in probes.items():
        if probe not in held:
            failed.setdefault(policy_id, []).append(condition)
    nearest = sorted(failed.items(), key=lambda item: len(item[1]))[:MAXIMUM_NEAR_GRANTS]
    return tuple(f"{policy_id}: {each}" for policy_id, conditions in nearest for each in conditions)


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
