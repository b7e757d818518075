"""Whether the peer of the local admin socket is the operator: design of the break-glass door.

The peer must run as the server's own user, and neither it nor any process above it may be what an
Agent's rules describe. This stops the child an agent starts, and no more: it is no boundary inside
one user. An agent process of the server's own user leaves its description by `exec` of another
program (rules that name its program or script then describe nobody), its child by forking twice
(no process above it is the agent any more), and either could trace or debug an operator's shell.
Only a user of its own keeps an agent from this door, which is why `serve` warns otherwise.
"""

from collections.abc import Mapping

from idp_connectors.workload.matching import fits
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.unix_process import METHOD, UnixProcessSettings, claims_of
from registry.snapshot import AgentRecord, ProviderRecord
from token_exchange.claims import Refusal


def local_operator_refusal(
    peer: PeerIdentity,
    *,
    server_uid: int,
    agents: Mapping[str, AgentRecord],
    trust_providers: Mapping[str, ProviderRecord],
) -> Refusal | None:
    """Why this peer is not the local operator, or None if it is.

    `peer` must have been identified with its ancestors, and with scripts where a provider is in
    demo mode (`attests_scripts`).
    """
    if peer.uid != server_uid:
        return _refused("admin.local_user", f"uid {peer.uid} is not the server's")
    if not peer.ancestors and peer.process.parent_pid > 0:
        return _refused("admin.local_ancestors", "the peer's ancestors are not known")
    agent = descends_from_agent(peer, agents, trust_providers)
    if agent is not None:
        rules = ", ".join(f"{name}: {value}" for name, value in agents[agent].match.items())
        return _refused(
            "admin.local_agent",
            f"the peer is, or descends from, agent {agent}",
            f"This local process is, or descends from, what Agent {agent} describes ({rules}), so"
            " it may not administer the server. Log in as an admin, and match the agent by a user"
            " or a unix.unit of its own.",
        )
    return None


def descends_from_agent(
    peer: PeerIdentity,
    agents: Mapping[str, AgentRecord],
    trust_providers: Mapping[str, ProviderRecord],
) -> str | None:
    """The name of an Agent that the peer or a process above it is, at whatever level."""
    demo_of = {
        record.name: bool(record.settings.get("demo"))
        for record in trust_providers.values()
        if record.type == METHOD
    }
    for process in (peer.process, *peer.ancestors):
        for agent in agents.values():
            for provider in agent.providers:
                demo = demo_of.get(provider)
                if demo is not None and fits(agent, claims_of(process, demo=demo)):
                    return agent.entry.name
    return None


def attests_scripts(trust_providers: Mapping[str, ProviderRecord]) -> bool:
    """Whether any declared provider is in demo mode, so that scripts must be looked at."""
    return any(
        UnixProcessSettings.model_validate(record.settings).demo
        for record in trust_providers.values()
        if record.type == METHOD
    )


def _refused(
    rule: str, detail: str, description: str = "This local process may not administer the server."
) -> Refusal:
    return Refusal(
        code="access_denied",
        description=description,
        detail=detail,
        rule=rule,
    )
