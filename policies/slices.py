"""The applicable part of a policy set for one scope: parsed once, with what it reads.

A slice is built when a request of its scope first appears and kept in a bounded cache; requests
whose scopes admit the same policies share one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Final

import cedarpy
from cedarpy import pst

from policies.conditions import condition_text, conjuncts, engine_set
from policies.entities import ToolFacts
from policies.readable import argument_reads
from policies.reads import ARGS, DECLARED, INPUT, UNMAPPED, USER, WEEKDAY, Path
from policies.requests import ArgumentNeeds
from policies.scopes import ScopeIndex, call_scope, issue_scope

MAXIMUM_SCOPES: Final = 4096  # remembered scopes: an (agent, its groups, tool) each
MAXIMUM_SLICES: Final = 512  # parsed sets: 10 to 14 KB for each policy in one

# Parts of the run that a decision may be remembered by, with the attribute of RunFacts.
_RUN_VALUES: Final[dict[str, str]] = {
    "session": "session",
    "invocation": "invocation",
    "transaction": "transaction",
    "purpose": "purpose",
    "ticket": "ticket",
    "chain": "chain",
    "chain_depth": "chain",
    "chain_groups": "chain_groups",
}


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """One policy with what its text says beyond its conditions.

    `ttl_seconds`, `scopes`: bounds of a grant. `reason`, `remedy`: what a guard tells.
    """

    template: pst.Template
    document: str
    line: int
    paths: frozenset[Path]
    reason: str | None = None
    remedy: str | None = None
    ttl_seconds: int | None = None
    scopes: tuple[str, ...] | None = None

    @property
    def id(self) -> str:
        """Its `@id`."""
        return self.template.id

    @property
    def is_grant(self) -> bool:
        """Whether it is a permit."""
        return self.template.effect == "permit"


@dataclass(frozen=True, slots=True)
class CachePlan:
    """What a remembered decision depends on, besides agent, user and tool.

    `run` names attributes of RunFacts, `declared` keys of it (None: all).
    """

    input_paths: tuple[Path, ...]
    pointers: tuple[str, ...]
    all_arguments: bool
    run: tuple[str, ...]
    declared: tuple[str, ...] | None
    weekday: bool


class PolicySlice:
    """A few policies, parsed; derived sets are made when first asked for."""

    def __init__(self, policies: tuple[CompiledPolicy, ...]) -> None:
        self.policies: Final = {policy.id: policy for policy in policies}
        self.engine_set: Final = engine_set(policy.template for policy in policies)
        paths = frozenset(path for policy in policies for path in policy.paths)
        self.needs: Final = argument_needs(paths)
        self.argument_reads: Final = argument_reads(paths)
        self.cache_plan: Final = cache_plan(paths, self.needs)

    @cached_property
    def without_remedied_guards(self) -> cedarpy.PolicySet:
        """The set as it would be were every guard with a remedy satisfied."""
        return engine_set(each.template for each in self.policies.values() if each.remedy is None)

    @cached_property
    def probes(self) -> tuple[dict[str, tuple[str, str]], cedarpy.PolicySet]:
        """Each condition of each grant as a permit of its own: probe → (policy, condition)."""
        named: dict[str, tuple[str, str]] = {}
        templates: list[pst.Template] = []
        for policy in self.policies.values():
            for clause in conjuncts(policy.template) if policy.is_grant else ():
                probe = replace(
                    policy.template, id=f"probe-{len(named)}", clauses=(clause,), annotations={}
                )
                named[probe.id] = (policy.id, condition_text(clause))
                templates.append(probe)
        return named, engine_set(templates)


class PolicySlices:
    """The slices of one policy set."""

    def __init__(self, policies: Mapping[str, CompiledPolicy]) -> None:
        self._policies = policies
        self._index = ScopeIndex({each.id: each.template for each in policies.values()})
        self.for_call = lru_cache(maxsize=MAXIMUM_SCOPES)(self._for_call)
        self.for_issue = lru_cache(maxsize=MAXIMUM_SCOPES)(self._for_issue)
        self._slice = lru_cache(maxsize=MAXIMUM_SLICES)(self._build)

    def _for_call(self, agent: str, agent_groups: tuple[str, ...], tool: ToolFacts) -> PolicySlice:
        return self._slice(self._index.matching(call_scope(agent, agent_groups, tool)))

    def _for_issue(
        self, agent: str, agent_groups: tuple[str, ...], provider: str, server: str
    ) -> PolicySlice:
        return self._slice(self._index.matching(issue_scope(agent, agent_groups, provider, server)))

    def _build(self, policy_ids: tuple[str, ...]) -> PolicySlice:
        return PolicySlice(tuple(self._policies[each] for each in policy_ids))


def argument_needs(paths: frozenset[Path]) -> ArgumentNeeds:
    """What of the arguments is read. Anything not understood reads everything."""
    everything = ("context",) in paths
    fields: set[str] = {path[2] for path in paths if path[:2] == INPUT and path != INPUT}
    pointers: set[str] = set()
    all_fields = everything or INPUT in paths
    unmapped = everything
    all_tags = everything
    for path in paths:
        if path[:2] != ARGS:
            continue
        if path == UNMAPPED:
            unmapped = True
        elif path != ARGS and path[2].startswith("["):
            pointers.add(path[2][1:-1])
        else:
            all_tags = unmapped = True
    return ArgumentNeeds(
        None if all_fields else frozenset(fields),
        None if all_tags else frozenset(pointers),
        unmapped,
    )


def cache_plan(paths: frozenset[Path], needs: ArgumentNeeds) -> CachePlan | None:
    """How decisions of a slice may be remembered; None when they may not be at all.

    INVARIANT: a path that is not known to be a plain value (the clock, whatever a later schema
    adds) makes the slice uncacheable. Agent, user and tool are always part of the key.
    """
    run: set[str] = set()
    declared: set[str] = set()
    all_declared = False
    for path in paths:
        if path[0] != "context" or path[:2] in (INPUT, ARGS) or path[:3] == USER or path == WEEKDAY:
            continue
        if path[:3] == DECLARED:
            declared.update(segment[1:-1] for segment in path[3:4])
            all_declared = all_declared or path == DECLARED
        elif path[:2] == ("context", "run") and path[2:3] and path[2] in _RUN_VALUES:
            run.add(_RUN_VALUES[path[2]])
        else:
            return None
    return CachePlan(
        input_paths=tuple(sorted(path[2:] for path in paths if path[:2] == INPUT)),
        pointers=tuple(sorted(needs.pointers or ())),
        all_arguments=needs.unmapped or needs.fields is None or needs.pointers is None,
        run=tuple(sorted(run)),
        declared=None if all_declared else tuple(sorted(declared)),
        weekday=WEEKDAY in paths,
    )
