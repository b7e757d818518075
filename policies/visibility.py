"""Which tools a list may show, before any argument is known.

Derived from the set itself: grants forget the conditions that read arguments, guards that read
them are left out. That can only show too much. There are two versions of a grant, because a
forgotten condition may have kept a later one from erring: `precise` forgets the conditions that
read arguments, `wide` also every condition after the first of them. Where the precise set errs,
the wide one answers: it errs only where the call itself would.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from cedarpy import pst

from policies.conditions import conjuncts
from policies.reads import reads_arguments
from policies.slices import CompiledPolicy, PolicySlices


@dataclass(frozen=True, slots=True)
class Visibility:
    """Both versions of a set, as slices."""

    precise: PolicySlices
    wide: PolicySlices


def visibility_of(policies: Mapping[str, CompiledPolicy]) -> Visibility:
    """The sets that answer what may be listed."""
    precise: dict[str, CompiledPolicy] = {}
    wide: dict[str, CompiledPolicy] = {}
    for policy in policies.values():
        if policy.is_grant:
            clauses = conjuncts(policy.template)
            precise[policy.id] = _with_clauses(policy, [c for c in clauses if _is_knowable(c)])
            wide[policy.id] = _with_clauses(policy, list(takewhile(_is_knowable, clauses)))
        elif all(map(_is_knowable, policy.template.clauses)):
            precise[policy.id] = wide[policy.id] = policy
    return Visibility(PolicySlices(precise), PolicySlices(wide))


def _is_knowable(clause: pst.Clause) -> bool:
    return not reads_arguments(clause.expr)


def _with_clauses(policy: CompiledPolicy, clauses: list[pst.Clause]) -> CompiledPolicy:
    return replace(policy, template=replace(policy.template, clauses=tuple(clauses)))
