"""Why a request is allowed or not, and the smallest change after which it would be.

The decision is the policy set's own. A denial by a guard names its conditions, a denial for want of
a grant the nearest grants and what of each failed: a condition, or that it is for other agents.
The change is searched, not guessed: single changes (`policies.what_if`) first, then pairs and so
on, each decided by the engine, until one is allowed or the bounds are reached. For operators only:
an explanation names every policy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cedarpy import pst

from policies.conditions import condition_text, conjuncts
from policies.decide import CompiledPolicySet
from policies.decision import Code, Decision
from policies.entities import CallRequest
from policies.scopes import admits, call_scope, named_in
from policies.slices import CompiledPolicy
from policies.what_if import Change, changes_for, in_agent_group

MAXIMUM_CHANGES: Final = 4  # together; a longer list helps nobody
MAXIMUM_DECISIONS: Final = 400  # of one search: about 0.2 s
MAXIMUM_NEAR: Final = 5


@dataclass(frozen=True, slots=True)
class PolicyNote:
    """One policy: where it stands, and its conditions that decided.

    Of a guard that fired and of a grant that matched all conditions, of another grant those that
    failed; `scope` says for which agents it is when that is what failed.
    """

    id: str
    document: str
    line: int
    is_grant: bool
    conditions: tuple[str, ...]
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with the policies that made it, the nearest grants, and what would help.

    `changes` together turn a denial into an allow; None when none was found.
    """

    decision: Decision
    decided_by: tuple[PolicyNote, ...]
    nearest: tuple[PolicyNote, ...]
    changes: tuple[str, ...] | None


def explain_call(policies: CompiledPolicySet, request: CallRequest) -> Explanation:
    """Explain the decision on one tool call."""
    decision = policies.decide_call(request)
    decided_by = tuple(
        _note(policies.policies[each], _all_conditions(policies.policies[each]))
        for each in decision.policies
    )
    nearest: tuple[PolicyNote, ...] = ()
    if decision.code is Code.NO_PERMIT:
        nearest = _nearest(policies, request, decision)
    changes = None if decision.allowed else _smallest(policies, request)
    return Explanation(decision, decided_by, nearest, changes)


def _nearest(
    policies: CompiledPolicySet, request: CallRequest, decision: Decision
) -> tuple[PolicyNote, ...]:
    """Grants for this tool: first those for this agent, then those for others."""
    failed: dict[str, list[str]] = {}
    for each in decision.failed_conditions:
        policy_id, _, condition = each.partition(": ")
        failed.setdefault(policy_id, []).append(condition)
    near = [
        _note(policies.policies[policy_id], tuple(found)) for policy_id, found in failed.items()
    ]
    near += [
        _note(grant, (), scope=_principal_text(grant.template))
        for grant in _grants_for(policies, request)
        if not _is_for_agent(grant, request)
    ]
    return tuple(near[:MAXIMUM_NEAR])


def _smallest(policies: CompiledPolicySet, request: CallRequest) -> tuple[str, ...] | None:
    """Breadth first, so that what is found has the fewest changes."""
    reached: list[tuple[CallRequest, tuple[str, ...]]] = [(request, ())]
    seen: list[CallRequest] = [request]
    for _ in range(MAXIMUM_CHANGES):
        following: list[tuple[CallRequest, tuple[str, ...]]] = []
        for base, texts in reached:
            for change in _candidates(policies, base):
                if change.request in seen:
                    continue
                seen.append(change.request)
                so_far = (*texts, change.text)
                if policies.decide_call(change.request).allowed:
                    return so_far
                if len(seen) > MAXIMUM_DECISIONS:
                    return None
                following.append((change.request, so_far))
        reached = following
    return None


def _candidates(policies: CompiledPolicySet, request: CallRequest) -> Iterator[Change]:
    decision = policies.decide_call(request)
    if decision.code is Code.FORBIDDEN:
        for each in decision.policies:
            for clause in policies.policies[each].template.clauses:
                wanted = isinstance(clause, pst.Unless)  # a guard must not fire
                yield from changes_for(clause.expr, request, wanted=wanted)
    elif decision.code is Code.NO_PERMIT:
        # Those for this agent first: to be another kind of agent is the last thing to propose.
        grants = sorted(
            _grants_for(policies, request), key=lambda grant: not _is_for_agent(grant, request)
        )
        for grant in grants:
            if not _is_for_agent(grant, request):
                entity = named_in(grant.template.principal)
                if entity is not None and str(entity.type) == "AgentGroup":
                    yield from in_agent_group(entity.id, request)
                continue
            for clause in grant.template.clauses:
                wanted = isinstance(clause, pst.When)
                yield from changes_for(clause.expr, request, wanted=wanted)


def _grants_for(policies: CompiledPolicySet, request: CallRequest) -> Iterator[CompiledPolicy]:
    """The grants whose action and resource admit the tool, whoever they are for."""
    scope = call_scope(request.agent.name, request.agent.groups, request.tool)
    for policy in policies.policies.values():
        template = policy.template
        if (
            policy.is_grant
            and admits(template.action, scope.action)
            and admits(template.resource, scope.resource)
        ):
            yield policy


def _is_for_agent(policy: CompiledPolicy, request: CallRequest) -> bool:
    scope = call_scope(request.agent.name, request.agent.groups, request.tool)
    return admits(policy.template.principal, scope.principal)


def _principal_text(template: pst.Template) -> str:
    entity = named_in(template.principal)
    return "for other agents" if entity is None else f"for {entity.type} {entity.id}"


def _all_conditions(policy: CompiledPolicy) -> tuple[str, ...]:
    return tuple(condition_text(clause) for clause in conjuncts(policy.template))


def _note(policy: CompiledPolicy, conditions: tuple[str, ...], scope: str = "") -> PolicyNote:
    return PolicyNote(policy.id, policy.document, policy.line, policy.is_grant, conditions, scope)
