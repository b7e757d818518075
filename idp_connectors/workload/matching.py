"""Which declared Agent some verified evidence is. Pure.

Exactly one, or none: a rule set that fits two Agents names neither, for either could then act as
the other. The level is looked at last, so that lowering it never hides an ambiguity.
"""

from collections.abc import Mapping

from idp_connectors.evidence import Evidence
from registry.snapshot import AgentRecord
from token_exchange.claims import Refusal


def match_agent(evidence: Evidence, agents: Mapping[str, AgentRecord]) -> AgentRecord | Refusal:
    """The one Agent whose provider, claims and level this evidence meets."""
    matching = [
        agent
        for agent in agents.values()
        if evidence.provider in agent.providers and fits(agent, evidence.claims)
    ]
    if not matching:
        return _refused("agent.unknown", f"no agent matches {evidence.subject}")
    if len(matching) > 1:
        names = ", ".join(sorted(agent.entry.name for agent in matching))
        return _refused("agent.ambiguous", f"{evidence.subject} matches {names}")
    agent = matching[0]
    if evidence.level < agent.entry.minimum_level:
        return _refused(
            "agent.level",
            f"{agent.entry.name} wants level {agent.entry.minimum_level}, is {evidence.level}",
        )
    return agent


def fits(agent: AgentRecord, claims: Mapping[str, str]) -> bool:
    """Whether every match rule of the agent equals the claim, byte for byte.

    INVARIANT: an agent without rules fits nothing.
    """
    return bool(agent.match) and all(
        claims.get(name) == wanted for name, wanted in agent.match.items()
    )


def _refused(rule: str, detail: str) -> Refusal:
    return Refusal(
        code="invalid_client",
        description="The workload's evidence does not name one registered agent.",
        detail=detail,
        rule=rule,
    )
