"""The kinds of object an operator declares, as pydantic models: `kind / name / spec`.

Shape only. What refers to what (a server's credential provider, an agent's trust provider), and
which settings a provider type takes, is checked by the store with the whole registry before it.
Secrets are never in a spec: only the name of a secret in the vault.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"  # a DNS label: names end up in URLs
LONGEST_TOKEN_AGE_SECONDS: Final = 3_600  # of a person's token that an agent may present

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s#]+$", max_length=2048)]
# A stdio server is named here and nowhere said how to start: that is the host's own settings.
ServerUrl = Annotated[
    str,
    StringConstraints(
        pattern=r"^(https?://[^\s#]+|stdio://[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$", max_length=2048
    ),
]
ToolPattern = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*/[A-Za-z0-9_.\-/]{0,127}\*?$", max_length=192),
]
GroupId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+/[^\s/][^\x00-\x1f]{0,127}$")]
ClientId = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,256}$")]
PersonAttribute = Literal["name", "groups", "acr", "auth_time", "purpose", "ticket"]


class Spec(BaseModel):
    """A spec: unknown fields are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TypedSpec(BaseModel):
    """A spec whose `type` selects the settings model of a connector or provider."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")] = Field(
        description="Which connector or provider; docs/objects.md lists them."
    )


class TrustProviderSpec(TypedSpec):
    """Attests workloads."""


class IdentityProviderSpec(TypedSpec):
    """Authenticates people."""

    groups: tuple[str, ...] = Field(
        default=("*",), description="Groups it may assert, without its prefix; `*` for all."
    )


class AttestationRule(Spec):
    """Which verified evidence is this agent."""

    providers: tuple[Name, ...] = Field(min_length=1)
    minimum_level: int = Field(default=1, ge=0, le=3)
    match: dict[str, str] = Field(
        min_length=1, description="Attested claims that must all be equal, such as unix.uid."
    )


class SubjectTokens(Spec):
    """Which tokens of one identity provider this agent may present for a person (RFC 8693)."""

    identity_provider: Name = Field(description="An IdentityProvider of an OpenID type.")
    client_ids: tuple[ClientId, ...] = Field(
        min_length=1, description="Clients at that provider; tokens of any other are refused."
    )
    types: tuple[Literal["id_token", "access_token"], ...] = Field(
        default=("id_token",),
        min_length=1,
        description="id_token: issued to one of the clients, and for them alone. access_token: "
        "issued to one of them, with our issuer among its audiences.",
    )
    max_age_seconds: int = Field(
        default=300,
        ge=5,
        le=LONGEST_TOKEN_AGE_SECONDS,
        description="How long after its issue one may be presented.",
    )


class ActsFor(Spec):
    """For whom an agent may act."""

    groups: tuple[GroupId, ...] = Field(min_length=1)
    consent: Literal["person", "mandate"] = Field(
        default="person",
        description="Of subject_tokens. person: only with a stored consent of that person. "
        "mandate: without one, for everybody in `groups`; each use is an audit event of its own.",
    )
    consent_days: int = Field(default=30, ge=1, le=365)
    subject_tokens: tuple[SubjectTokens, ...] = Field(
        default=(),
        max_length=16,
        description="Whose tokens the agent may present instead of having the person log in.",
    )


class AgentSpec(Spec):
    """A workload that calls tools, or (`unattested-clients`) all programs nobody vouches for."""

    owner: str = Field(min_length=1, max_length=256)
    environment: str = Field(default="production", max_length=64)
    attestation: AttestationRule | None = Field(
        default=None, description="How it proves itself; left out where only `clients` are it."
    )
    acts_for: ActsFor | None = None
    acts_alone: bool | None = Field(
        default=None, description="Default: true only when acts_for is absent."
    )
    groups: tuple[Name, ...] = ()
    clients: tuple[Name, ...] = Field(
        default=(),
        description="Further OAuth clients of it, by name: level 1 with a key, else level 0.",
    )
    redirect_uris: tuple[HttpUrl, ...] = Field(
        default=(), description="Of its implicit client. A loopback literal matches any port."
    )
    tools: tuple[ToolPattern, ...] = Field(
        description="The most this agent may ever use: server/tool or server/prefix*."
    )
    invocation_seconds: int = Field(default=900, ge=30, le=86_400)

    @property
    def may_act_alone(self) -> bool:
        """Whether a token without a person may be issued to it."""
        return self.acts_for is None if self.acts_alone is None else self.acts_alone


class GatewaySpec(Spec):
    """A place where agents connect, and the servers it guards."""

    base_url: HttpUrl
    servers: tuple[Name, ...] = Field(min_length=1)
    allowed_origins: tuple[str, ...] = ()


class ToolOverride(Spec):
    """What the operator says of a tool; never taken from the server."""

    read_only: bool = False
    sensitivity: int = Field(
        default=0,
        ge=0,
        le=3,
        description="The consent page says: 0 nothing, 1 needs care, 2 touches important data, "
        "3 cannot be undone. Policies may compare it.",
    )


class ServerCredential(Spec):
    """Which provider makes the credential for a server."""

    provider: Name


class McpServerSpec(Spec):
    """An MCP server behind the gateway."""

    url: ServerUrl = Field(
        description="Streamable HTTP, or stdio://NAME: a server of the gateway's stdio host."
    )
    held_by: Literal["gateway"] = "gateway"
    require_bound: bool = True
    person_attributes: tuple[PersonAttribute, ...] = ()
    credential: ServerCredential
    approve: Literal["review", "first_seen"] = "review"
    protocol: Literal["auto", "modern", "legacy"] = Field(
        default="auto", description="modern: MCP 2026-07-28; legacy: before; auto: it is asked."
    )
    tools: dict[str, ToolOverride] = Field(default_factory=dict)
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    maximum_response_bytes: int = Field(default=16_777_216, ge=1024)


class CredentialProviderSpec(TypedSpec):
    """Makes what a target accepts."""

    binding: Literal["run", "call"] = "run"
    lifetime_seconds: int = Field(default=300, ge=10, le=300)
    audience: HttpUrl | None = Field(default=None, description="Default: the server's url.")


class OAuthClientSpec(Spec):
    """A declared OAuth client that is not an agent's implicit one."""

    display_name: str = Field(min_length=1, max_length=128)
    redirect_uris: tuple[HttpUrl, ...] = ()
    token_endpoint_auth_method: Literal["none", "private_key_jwt"] = "none"  # noqa: S105 - a method's name
    jwks: dict[str, Any] | None = None
    grant_types: tuple[Literal["authorization_code", "client_credentials"], ...] = (
        "authorization_code",
    )

    @model_validator(mode="after")
    def _key_matches_method(self) -> "OAuthClientSpec":
        if (self.token_endpoint_auth_method == "private_key_jwt") != (self.jwks is not None):  # noqa: S105 - a method's name
            message = "jwks must be given exactly when the method is private_key_jwt"
            raise ValueError(message)
        return self


class PolicySpec(Spec):
    """Cedar policies of one document. Their ids are `@id` annotations."""

    cedar: str = Field(min_length=1, max_length=262_144)


class AdminRoleSpec(Spec):
    """Gives a person of an identity provider a role in the admin API."""

    identity_provider: Name
    subject: str = Field(min_length=1, max_length=256)
    role: Literal["viewer", "operator", "admin"]


KINDS: Final[dict[str, type[BaseModel]]] = {
    "TrustProvider": TrustProviderSpec,
    "IdentityProvider": IdentityProviderSpec,
    "Agent": AgentSpec,
    "Gateway": GatewaySpec,
    "McpServer": McpServerSpec,
    "CredentialProvider": CredentialProviderSpec,
    "OAuthClient": OAuthClientSpec,
    "Policy": PolicySpec,
    "AdminRole": AdminRoleSpec,
}


class DeclaredObject(BaseModel):
    """One document of a YAML file or of the admin API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal[
        "TrustProvider",
        "IdentityProvider",
        "Agent",
        "Gateway",
        "McpServer",
        "CredentialProvider",
        "OAuthClient",
        "Policy",
        "AdminRole",
    ]
    name: Name
    spec: dict[str, Any]
