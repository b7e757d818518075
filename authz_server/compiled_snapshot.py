"""What the token endpoint looks things up in: the snapshot, indexed, and its policies compiled.

Made once per registry version, in a thread, by whichever request needs it first; the others wait
for that one. A request always decides on the snapshot that was live when it looked: there is no
falling back to an older policy set. A set that does not compile denies everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import structlog
from anyio import to_thread

from authz_server.log_events import LogEvent
from policies.compile import CompileProblems, compile_policy_set
from policies.decide import CompiledPolicySet
from registry.policy_compiler import catalogue_of
from registry.snapshot import ClientRecord, RegistrySnapshot, ServerEntry
from token_exchange.exchange import Target
from token_exchange.keys import VerificationKeys
from token_exchange.token_types import AudienceClass

_LOG: Final = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledSnapshot:
    """A registry snapshot, ready to decide on.

    `endpoints`: audience → (gateway, server). `targets`: server → its target. `reserved`: every
    url and audience of a target. `client_keys`: client id → its public keys. `agent_groups`:
    agent → its groups. `agent_tools`: agent → what it may ever use, as `server/pattern`.
    `policies` is None when the set did not compile: deny all.
    """

    snapshot: RegistrySnapshot
    endpoints: Mapping[str, tuple[str, str]]
    targets: Mapping[str, Target]
    reserved: frozenset[str]
    client_keys: Mapping[str, VerificationKeys]
    agent_groups: Mapping[str, tuple[str, ...]]
    agent_tools: Mapping[str, tuple[str, ...]]
    policies: CompiledPolicySet | None

    def audience_class(self, value: str) -> AudienceClass | None:
        """What an audience or resource is for (docs/architecture.md, "Who may hold what")."""
        if value in self.endpoints:
            return AudienceClass.ENDPOINT
        if value in self.reserved:
            return AudienceClass.TARGET
        return {
            control_audience(self.snapshot.issuer): AudienceClass.CONTROL,
            admin_audience(self.snapshot.issuer): AudienceClass.ADMIN,
        }.get(value)


def control_audience(issuer: str) -> str:
    """The audience of the control channel."""
    return f"{issuer}/control/v1"


def admin_audience(issuer: str) -> str:
    """The audience of the administration interface."""
    return f"{issuer}/admin"


class SnapshotCompiler:
    """Keeps the newest compiled snapshot of one process."""

    def __init__(self) -> None:
        self._compiled: CompiledSnapshot | None = None
        self._compiling = anyio.Lock()

    async def compiled(self, snapshot: RegistrySnapshot) -> CompiledSnapshot:
        """`snapshot`, compiled; without waiting when it is the one compiled last."""
        known = self._compiled
        if known is not None and known.snapshot is snapshot:
            return known
        async with self._compiling:
            known = self._compiled
            if known is None or known.snapshot is not snapshot:
                known = await to_thread.run_sync(compile_snapshot, snapshot, known)
                self._compiled = known
            return known


def compile_snapshot(
    snapshot: RegistrySnapshot, before: CompiledSnapshot | None = None
) -> CompiledSnapshot:
    """Index a snapshot and compile its policies; those of `before` serve when nothing changed."""
    targets = {name: _target(server) for name, server in snapshot.servers.items()}
    return CompiledSnapshot(
        snapshot=snapshot,
        endpoints=snapshot.endpoint_audiences(),
        targets=targets,
        reserved=frozenset(
            value for target in targets.values() for value in (target.url, target.audience)
        ),
        client_keys={
            client_id: _keys_of(client)
            for client_id, client in snapshot.clients.items()
            if client.jwks
        },
        agent_groups={name: agent.entry.groups for name, agent in snapshot.agents.items()},
        agent_tools={name: agent.entry.tools for name, agent in snapshot.agents.items()},
        policies=_policies(snapshot, before),
    )


def _keys_of(client: ClientRecord) -> VerificationKeys:
    """The client's keys; none when one is unusable, so that only this client is shut out."""
    try:
        return VerificationKeys.of(client.jwks)
    except ValueError:
        _LOG.exception(LogEvent.CLIENT_KEYS_UNUSABLE, client_id=client.client_id)
        return VerificationKeys.of(())


def _policies(
    snapshot: RegistrySnapshot, before: CompiledSnapshot | None
) -> CompiledPolicySet | None:
    if (
        before is not None
        and before.snapshot.policies == snapshot.policies
        and before.snapshot.servers == snapshot.servers
    ):
        return before.policies
    compiled = compile_policy_set(
        snapshot.policies.version,
        snapshot.policies.documents,
        [catalogue_of(server) for server in snapshot.servers.values()],
    )
    if isinstance(compiled, CompileProblems):
        _LOG.error(LogEvent.POLICY_SET_UNUSABLE, version=snapshot.policies.version)
        return None
    return compiled


def _target(server: ServerEntry) -> Target:
    return Target(
        url=server.url,
        audience=server.audience,
        provider_type=server.credential.type,
        binding=server.credential.binding,
        lifetime_seconds=server.credential.lifetime_seconds,
        person_attributes=server.person_attributes,
        approved_tools=frozenset(tool.name for tool in server.tools),
        url_since=server.url_since,
        require_bound=server.require_bound,
    )
