"""The immutable picture of the registry that every process decides on. No database here.

`RegistrySnapshot` is what the AS process holds; `EnforcementView` is the part one Gateway gets,
signed by the control key. Neither can carry a secret, a hash or a private key: the types have no
place for one, and a test walks the schema. A new snapshot replaces the old by one reference.
"""

from typing import Any

import msgspec

from registry.blocks import BlockEntry


class ToolEntry(msgspec.Struct, frozen=True):
    """One approved tool. `definition` is the MCP Tool object as observed, verbatim."""

    name: str
    digest: str
    definition: dict[str, Any]
    read_only: bool = False
    sensitivity: int = 0


class CredentialProviderEntry(msgspec.Struct, frozen=True):
    """How a server's credential is made; `settings` are the type's own and hold no secret."""

    name: str
    type: str
    binding: str
    lifetime_seconds: int
    version: int
    audience: str | None = None
    settings: dict[str, Any] = {}


class ServerEntry(msgspec.Struct, frozen=True):
    """One MCP server: `url` is its RFC 8707 resource, `audience` the `aud` of its tokens.

    `protocol` is the era it is spoken to in: `auto` (it is asked), `modern` or `legacy`.
    `url_since` is when it came to be at this `url` (NumericDate seconds), 0 where it always was:
    what a person agreed to before was meant for another place.
    """

    name: str
    url: str
    audience: str
    require_bound: bool
    person_attributes: tuple[str, ...]
    credential: CredentialProviderEntry
    tools: tuple[ToolEntry, ...]
    timeout_seconds: float
    maximum_response_bytes: int
    approve: str = "review"
    protocol: str = "auto"
    url_since: int = 0


class AgentEntry(msgspec.Struct, frozen=True):
    """What decisions need of an Agent."""

    name: str
    groups: tuple[str, ...]
    tools: tuple[str, ...]
    environment: str
    minimum_level: int


class PolicyDocument(msgspec.Struct, frozen=True):
    """One named Cedar text."""

    name: str
    cedar: str


class PolicySetEntry(msgspec.Struct, frozen=True):
    """The live policy set; `version` 0 and no documents means deny all."""

    version: int
    documents: tuple[PolicyDocument, ...] = ()


class GatewayEntry(msgspec.Struct, frozen=True):
    """A Gateway: an endpoint is `{base_url}/{server}/mcp`, byte for byte (`endpoint_of`).

    `client_id` is its OAuth client; `jwks` the public keys that enrolled into it.
    """

    name: str
    base_url: str
    client_id: str
    servers: tuple[str, ...]
    allowed_origins: tuple[str, ...] = ()
    jwks: tuple[dict[str, Any], ...] = ()


class EnforcementView(msgspec.Struct, frozen=True, kw_only=True):
    """What one Gateway may know. `sequence`: the last revocation it already contains."""

    version: int
    issued_at: int
    issuer: str
    gateway: GatewayEntry
    token_keys: tuple[dict[str, Any], ...]
    servers: tuple[ServerEntry, ...]
    agents: tuple[AgentEntry, ...]
    policies: PolicySetEntry
    sequence: int
    blocks: tuple[BlockEntry, ...]
    lease_seconds: float


class SubjectTokenRule(msgspec.Struct, frozen=True):
    """Which tokens of one identity provider an agent may present for a person."""

    identity_provider: str
    client_ids: tuple[str, ...]
    types: tuple[str, ...]
    max_age_seconds: int


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All of an Agent that the authorization server needs.

    `by_mandate`: the tokens of `subject_tokens` need no stored consent of the person.
    """

    entry: AgentEntry
    owner: str
    providers: tuple[str, ...]
    match: dict[str, str]
    may_act_alone: bool
    acts_for_groups: tuple[str, ...]
    consent_days: int
    client_ids: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    invocation_seconds: int
    subject_tokens: tuple[SubjectTokenRule, ...] = ()
    by_mandate: bool = False


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An OAuth client: declared, an agent's implicit one, a gateway's or the built-in CLI's.

    `agent` names the Agent it belongs to. `loopback_redirects`: RFC 8252 §7.3 any-port rule.
    `kind`: agent | gateway | cli | declared | document; the last one is never in a snapshot, it
    describes itself at the https URL that is its id: `document_digest` says as which document.
    `is_native`: its redirects on loopback match on any port. `wants_refresh`: its document asks for
    refresh tokens.
    """

    client_id: str
    kind: str
    display_name: str
    redirect_uris: tuple[str, ...]
    # workload_assertion | workload_certificate | private_key_jwt | none
    authentication: tuple[str, ...]
    grant_types: tuple[str, ...]
    agent: str | None = None
    gateway: str | None = None
    jwks: tuple[dict[str, Any], ...] = ()
    jwks_uri: str | None = None
    document_digest: str | None = None
    is_native: bool = False
    wants_refresh: bool = False


class ProviderRecord(msgspec.Struct, frozen=True):
    """A TrustProvider or IdentityProvider: its type and its validated settings."""

    name: str
    type: str
    settings: dict[str, Any]
    groups: tuple[str, ...] = ("*",)


class AdminRoleRecord(msgspec.Struct, frozen=True):
    """Who holds which role."""

    identity_provider: str
    subject: str
    role: str


class RegistrySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything declared, compiled for lookup. Built by `registry.publisher` only."""

    version: int
    issuer: str
    agents: dict[str, AgentRecord]
    clients: dict[str, ClientRecord]
    servers: dict[str, ServerEntry]
    gateways: dict[str, GatewayEntry]
    trust_providers: dict[str, ProviderRecord]
    identity_providers: dict[str, ProviderRecord]
    admin_roles: tuple[AdminRoleRecord, ...]
    policies: PolicySetEntry
    waiting_for: tuple[str, ...] = ()

    def endpoint_audiences(self) -> dict[str, tuple[str, str]]:
        """Every endpoint audience, with the (gateway, server) it belongs to."""
        return {
            endpoint_of(gateway.base_url, server): (gateway.name, server)
            for gateway in self.gateways.values()
            for server in gateway.servers
        }


def endpoint_of(base_url: str, server: str) -> str:
    """The endpoint of a server at a Gateway, which is also its only audience."""
    return f"{base_url}/{server}/mcp"
