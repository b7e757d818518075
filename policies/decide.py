"""May this call happen, may this credential be made, which tools may be shown: as values.

In order: the request is one this set knows; it becomes the engine's; the policies whose scope
admits it are evaluated (`policies.evaluate`); they could read what they looked at
(`policies.readable`); anything but a clean allow is a deny. An empty set
denies everything. No clock and no store here: time is in the request, the caches are bounded and
hold only what a request determines.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import cedarpy

from policies.decision import Category, Code, Decision
from policies.entities import AgentFacts, CallRequest, IssueRequest, RunFacts, ToolFacts, UserFacts
from policies.evaluate import argument_unreadable, is_shown, judge, request_invalid
from policies.readable import unreadable_argument
from policies.remember import cached_values, end_of_day_ms
from policies.requests import (
    EngineRequest,
    call_request,
    issue_request,
    listing_entities,
    parsed,
    provider_entities,
    tool_entities,
    tool_request,
    who_entities,
)
from policies.schema import TypedTool
from policies.slices import CompiledPolicy, PolicySlice, PolicySlices
from policies.visibility import visibility_of

__all__ = ["Category", "Code", "CompiledPolicySet", "Decision"]

MAXIMUM_BASES: Final = 512  # parsed (agent, user, tool) triples; about 20 KB each with ten groups

# What building an engine request may raise for a request that breaks its own types.
_UNJUDGEABLE: Final = (ValueError, TypeError, ArithmeticError, RecursionError)


class CompiledPolicySet:
    """A validated policy set over one tool catalogue. Made by `policies.compile` only."""

    def __init__(
        self,
        version: int,
        policies: Mapping[str, CompiledPolicy],
        tools: Mapping[str, TypedTool],
        schema: cedarpy.Schema,
    ) -> None:
        self.version: Final = version
        self.policies: Final = MappingProxyType(dict(policies))
        self.context_paths: Final = frozenset(
            ".".join(path[1:])
            for policy in policies.values()
            for path in policy.paths
            if path[0] == "context"
        )
        self._tools = dict(tools)
        self._schema = schema
        self._slices = PolicySlices(self.policies)
        self._visibility = visibility_of(self.policies)
        self._call_base = lru_cache(maxsize=MAXIMUM_BASES)(self._parse_call_base)
        self._issue_base = lru_cache(maxsize=MAXIMUM_BASES)(self._parse_issue_base)

    def decide_call(self, call: CallRequest) -> Decision:
        """Decide a tool call with its arguments."""
        tool = self._known(call.tool)
        if tool is None:
            return request_invalid("the tool is not in the catalogue of this policy set")
        part = self._call_slice(call.agent, tool)
        try:
            base = self._call_base(call.agent, call.user, tool.facts)
            asked = call_request(call, tool, base, part.needs)
        except _UNJUDGEABLE as error:
            return request_invalid(type(error).__name__)
        decision = judge(part, asked, self._schema)
        if not decision.allowed:
            return decision
        unreadable = unreadable_argument(call.arguments, tool.input, part.argument_reads)
        return decision if unreadable is None else argument_unreadable(unreadable)

    def decide_issue(self, issue: IssueRequest) -> Decision:
        """Decide the issue of a credential; `scopes` is what remains of those asked for."""
        part = self._slices.for_issue(
            issue.agent.name, issue.agent.groups, issue.provider, issue.server
        )
        try:
            base = self._issue_base(
                issue.agent, issue.user, issue.provider, issue.provider_type, issue.server
            )
            asked = issue_request(issue, base)
        except _UNJUDGEABLE as error:
            return request_invalid(type(error).__name__)
        decision = judge(part, asked, self._schema)
        if decision.scopes is None:
            return decision
        return replace(
            decision, scopes=tuple(each for each in issue.scopes if each in decision.scopes)
        )

    def visible(
        self,
        agent: AgentFacts,
        user: UserFacts | None,
        run: RunFacts,
        now_ms: int,
        tools: Iterable[ToolFacts],
    ) -> tuple[str, ...]:
        """The `server/tool` ids that some arguments might make callable, in the given order.

        An engine error hides a tool; so does a request that cannot be judged.
        """
        known = [tool for tool in map(self._known, tools) if tool is not None]
        try:
            entities = parsed(
                [*who_entities(agent, user), *listing_entities(known, run, user, now_ms)],
                self._schema,
            )
        except _UNJUDGEABLE:
            return ()
        return tuple(tool.facts.id for tool in known if self._is_visible(agent, tool, entities))

    def decision_key(self, call: CallRequest) -> Hashable | None:
        """What a remembered decision must be keyed by; None when it may not be remembered."""
        tool = self._known(call.tool)
        if tool is None:
            return None
        plan = self._call_slice(call.agent, tool).cache_plan
        if plan is None:
            return None
        try:
            values = cached_values(call, plan)
        except _UNJUDGEABLE:
            return None
        return (self.version, call.agent, call.user, tool.facts.id, values)

    def decision_valid_until_ms(self, call: CallRequest) -> int | None:
        """When a remembered decision ends by itself (Unix ms); None when time plays no part."""
        tool = self._known(call.tool)
        if tool is None:
            return None
        plan = self._call_slice(call.agent, tool).cache_plan
        if plan is None or not plan.weekday:
            return None
        return end_of_day_ms(call.now_ms)

    def _known(self, facts: ToolFacts) -> TypedTool | None:
        """The tool, if it is the one this set was compiled with."""
        tool = self._tools.get(facts.id)
        return tool if tool is not None and tool.facts == facts else None

    def _call_slice(self, agent: AgentFacts, tool: TypedTool) -> PolicySlice:
        return self._slices.for_call(agent.name, agent.groups, tool.facts)

    def _is_visible(self, agent: AgentFacts, tool: TypedTool, entities: cedarpy.Entities) -> bool:
        asked = EngineRequest(tool_request(agent, tool.facts, {}), entities)
        who = (agent.name, agent.groups, tool.facts)
        shown = is_shown(self._visibility.precise.for_call(*who), asked, self._schema)
        if shown is None:
            shown = is_shown(self._visibility.wide.for_call(*who), asked, self._schema)
        return shown is True

    def _parse_call_base(
        self, agent: AgentFacts, user: UserFacts | None, tool: ToolFacts
    ) -> cedarpy.Entities:
        entities = [*who_entities(agent, user), *tool_entities(self._tools[tool.id])]
        return parsed(entities, self._schema)

    def _parse_issue_base(
        self,
        agent: AgentFacts,
        user: UserFacts | None,
        provider: str,
        provider_type: str,
        server: str,
    ) -> cedarpy.Entities:
        entities = provider_entities(provider, provider_type, server)
        return parsed([*who_entities(agent, user), *entities], self._schema)
