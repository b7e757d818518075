"""Compiles what is stored into the immutable snapshot, and a snapshot into one Gateway's view.

`compile_snapshot` reads everything in one transaction and hands it to the pure `build_snapshot`.
`enforcement_view` is the part that leaves the authorization
server: it holds only what the Gateway's own servers need, and public members of keys only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from registry.blocks import BlockState
from registry.clients import clients_of
from registry.counters import REGISTRY_VERSION, value_of
from registry.declared import DeclaredSet, ObjectKey, ParsedObject, Problem, SettingsModels
from registry.enrolment import EnrolledKey, enrolled_keys
from registry.history import moved_servers
from registry.object_rows import StoredObject, stored_objects
from registry.objects import SubjectTokens
from registry.policy_sets import live_set, waiting_set
from registry.public_keys import public_jwk
from registry.snapshot import (
    AdminRoleRecord,
    AgentEntry,
    AgentRecord,
    CredentialProviderEntry,
    EnforcementView,
    GatewayEntry,
    PolicySetEntry,
    ProviderRecord,
    RegistrySnapshot,
    ServerEntry,
    SubjectTokenRule,
    ToolEntry,
)
from registry.tool_definitions import ApprovedTool, approved_tools


class UnpublishableRegistryError(Exception):
    """Stored objects are not valid for this release; nothing can be published."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(
            "; ".join(f"{each.kind}/{each.name} {each.field}: {each.message}" for each in problems)
        )
        self.problems = problems


@dataclass(frozen=True, slots=True)
class StoredRegistry:
    """Everything stored that a snapshot is made of."""

    version: int
    objects: Mapping[ObjectKey, StoredObject]
    tools: Mapping[str, tuple[ApprovedTool, ...]]
    keys: tuple[EnrolledKey, ...]
    policies: PolicySetEntry
    waiting_for: tuple[str, ...]
    moved: Mapping[str, int]  # server → when it came to its url, Unix milliseconds


def read_stored(connection: Connection) -> StoredRegistry:
    """One consistent picture of the database."""
    waiting = waiting_set(connection)
    return StoredRegistry(
        version=value_of(connection, REGISTRY_VERSION),
        objects=stored_objects(connection),
        tools=approved_tools(connection),
        keys=enrolled_keys(connection),
        policies=live_set(connection),
        waiting_for=() if waiting is None else waiting.waiting_for,
        moved=moved_servers(connection),
    )


def compile_snapshot(
    connection: Connection, *, issuer: str, settings_models: SettingsModels
) -> RegistrySnapshot:
    """The snapshot of what is stored now.

    Raises:
        UnpublishableRegistryError: A stored object is not valid for this release.
    """
    stored = read_stored(connection)
    specs = {key: each.spec for key, each in stored.objects.items()}
    declared, problems = DeclaredSet.of(specs, settings_models)
    if problems:
        raise UnpublishableRegistryError(problems)
    return build_snapshot(declared, stored, issuer)


def build_snapshot(declared: DeclaredSet, stored: StoredRegistry, issuer: str) -> RegistrySnapshot:
    """Compile valid objects for lookup. Pure; every reference must have been checked."""
    agents = {name: _agent(each) for name, each in declared.of_kind("Agent").items()}
    gateways = {
        name: _gateway(each, stored.keys) for name, each in declared.of_kind("Gateway").items()
    }
    return RegistrySnapshot(
        version=stored.version,
        issuer=issuer,
        agents=agents,
        clients=clients_of(declared, agents, gateways),
        servers={
            name: _server(each, declared, stored)
            for name, each in declared.of_kind("McpServer").items()
        },
        gateways=gateways,
        trust_providers=_providers(declared, "TrustProvider"),
        identity_providers=_providers(declared, "IdentityProvider"),
        admin_roles=tuple(
            AdminRoleRecord(each.spec.identity_provider, each.spec.subject, each.spec.role)
            for each in declared.of_kind("AdminRole").values()
        ),
        policies=stored.policies,
        waiting_for=stored.waiting_for,
    )


def enforcement_view(  # noqa: PLR0917 - the fields of one view
    snapshot: RegistrySnapshot,
    gateway: str,
    blocks: BlockState,
    token_keys: Iterable[Mapping[str, Any]],
    now: int,
    lease: float,
) -> EnforcementView | None:
    """What the Gateway may know, None when it is not declared. `now` is NumericDate seconds.

    Raises:
        InvalidKeyError: One of `token_keys` is not a public ES256 key.
    """
    entry = snapshot.gateways.get(gateway)
    if entry is None:
        return None
    return EnforcementView(
        version=snapshot.version,
        issued_at=now,
        issuer=snapshot.issuer,
        gateway=entry,
        token_keys=tuple(public_jwk(key) for key in token_keys),
        servers=tuple(_without_settings(snapshot.servers[name]) for name in entry.servers),
        agents=tuple(
            record.entry
            for record in snapshot.agents.values()
            if _uses_any(record.entry, entry.servers)
        ),
        policies=snapshot.policies,
        sequence=blocks.sequence,
        blocks=tuple(blocks.entries.values()),
        lease_seconds=lease,
    )


def _without_settings(server: ServerEntry) -> ServerEntry:
    """How a credential is made is the authorization server's business alone."""
    credential = msgspec.structs.replace(server.credential, settings={})
    return msgspec.structs.replace(server, credential=credential)


def _uses_any(agent: AgentEntry, servers: tuple[str, ...]) -> bool:
    return any(pattern.partition("/")[0] in servers for pattern in agent.tools)


def _agent(parsed: ParsedObject) -> AgentRecord:
    spec, rule = parsed.spec, parsed.spec.attestation
    return AgentRecord(
        entry=AgentEntry(
            name=parsed.name,
            groups=spec.groups,
            tools=spec.tools,
            environment=spec.environment,
            minimum_level=rule.minimum_level if rule else 0,
        ),
        owner=spec.owner,
        providers=rule.providers if rule else (),
        match=rule.match if rule else {},
        may_act_alone=spec.may_act_alone,
        acts_for_groups=spec.acts_for.groups if spec.acts_for else (),
        consent_days=spec.acts_for.consent_days if spec.acts_for else 0,
        client_ids=(parsed.name, *spec.clients),
        redirect_uris=spec.redirect_uris,
        invocation_seconds=spec.invocation_seconds,
        subject_tokens=_subject_tokens(spec.acts_for.subject_tokens if spec.acts_for else ()),
        by_mandate=spec.acts_for is not None and spec.acts_for.consent == "mandate",
    )


def _subject_tokens(declared: Iterable[SubjectTokens]) -> tuple[SubjectTokenRule, ...]:
    return tuple(
        SubjectTokenRule(each.identity_provider, each.client_ids, each.types, each.max_age_seconds)
        for each in declared
    )


def _gateway(parsed: ParsedObject, keys: tuple[EnrolledKey, ...]) -> GatewayEntry:
    return GatewayEntry(
        name=parsed.name,
        base_url=parsed.spec.base_url,
        client_id=f"gateway:{parsed.name}",  # no declared name can contain a colon
        servers=parsed.spec.servers,
        allowed_origins=parsed.spec.allowed_origins,
        jwks=tuple(key.jwk for key in keys if key.gateway == parsed.name),
    )


def _server(parsed: ParsedObject, declared: DeclaredSet, stored: StoredRegistry) -> ServerEntry:
    spec = parsed.spec
    provider = declared.objects["CredentialProvider", spec.credential.provider]
    changed = stored.objects.get(("CredentialProvider", provider.name))
    return ServerEntry(
        name=parsed.name,
        url=spec.url,
        audience=provider.spec.audience or spec.url,
        require_bound=spec.require_bound,
        person_attributes=spec.person_attributes,
        credential=CredentialProviderEntry(
            name=provider.name,
            type=provider.spec.type,
            binding=provider.spec.binding,
            lifetime_seconds=provider.spec.lifetime_seconds,
            version=changed.version if changed else 0,
            audience=provider.spec.audience,
            settings=provider.settings,
        ),
        tools=tuple(_tool(tool, spec.tools) for tool in stored.tools.get(parsed.name, ())),
        timeout_seconds=spec.timeout_seconds,
        maximum_response_bytes=spec.maximum_response_bytes,
        approve=spec.approve,
        protocol=spec.protocol,
        url_since=stored.moved.get(parsed.name, 0) // 1000,
    )


def _tool(tool: ApprovedTool, overrides: Mapping[str, Any]) -> ToolEntry:
    # Read-only and sensitivity come from the operator alone, never from the definition.
    override = overrides.get(tool.name)
    return ToolEntry(
        name=tool.name,
        digest=tool.digest,
        definition=tool.definition,
        read_only=override is not None and override.read_only,
        sensitivity=0 if override is None else override.sensitivity,
    )


def _providers(declared: DeclaredSet, kind: str) -> dict[str, ProviderRecord]:
    return {
        name: ProviderRecord(
            name,
            each.spec.type,
            each.settings,
            groups=each.spec.groups if kind == "IdentityProvider" else ("*",),
        )
        for name, each in declared.of_kind(kind).items()
    }
