"""What an operator says of an OpenID provider. Everything that can be wrong is said at `apply`."""

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from idp_connectors.workforce.claim_tables import IGNORED
from outbound.destination import destination_of
from outbound.fetcher import FetchPolicy

FETCH_SECONDS: Final = 5.0

SecretName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)
]
ClaimName = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")]
Scope = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,128}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.:\[\]_-]{1,260}$")]
Printable = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,256}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
# RFC 8725 §3.1: an explicit list. Nothing symmetric, nothing with SHA-1, never `none`.
Algorithm = Literal["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]

# Claims that decide whether a token is accepted: none of them can be a list of groups.
_PROTOCOL_CLAIMS: Final = frozenset(
    ("acr", "amr", "aud", "auth_time", "azp", "exp", "iat", "iss", "jti", "nbf", "nonce", "sub")
)


class OidcSettings(BaseModel):
    """Settings of an IdentityProvider of type `oidc`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(description="The provider's issuer, byte for byte as in its metadata.")
    client_id: Printable = Field(description="What we are registered as at the provider.")
    client_secret: SecretName | None = Field(
        default=None, description="Name of the secret in the vault; without one, a public client."
    )
    client_authentication: Literal["basic", "post"] = Field(
        default="basic", description="Where the secret is sent: in a header, or in the form."
    )
    scopes: tuple[Scope, ...] = Field(
        default=("openid", "profile"),
        description="Asked for at login. `offline_access` where a refresh token takes it.",
    )
    groups_claim: ClaimName | None = Field(
        default="groups", description="The claim that lists a person's groups."
    )
    userinfo: bool = Field(
        default=False, description="Ask the userinfo endpoint for name and groups as well."
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("ES256", "PS256", "RS256"), min_length=1, description="Accepted signatures."
    )
    maximum_login_age_seconds: int | None = Field(
        default=28_800,
        ge=60,
        le=31_536_000,
        description="The provider must have seen the person log in so recently. Null: any; "
        "`auth_time` is then unknown where the provider does not say it.",
    )
    claims_seconds: int = Field(
        default=900,
        ge=60,
        le=28_800,
        description="How long name and groups are believed. Then the provider is asked again, or, "
        "without a refresh token, the person's session ends.",
    )
    acr_values: tuple[Printable, ...] = Field(
        default=(), description="Asked for, and one of them required of every login."
    )
    label: Label | None = Field(default=None, description="What the button on the login page says.")
    private_hosts: tuple[Host, ...] = Field(
        default=(),
        description="`host` or `host:port` that may be at a private or loopback address.",
    )
    ca_bundle: str | None = Field(
        default=None, pattern=r"^/", description="PEM file with the authorities of its hosts."
    )

    @field_validator("issuer")
    @classmethod
    def _is_an_issuer(cls, issuer: str) -> str:
        parts = urlsplit(issuer)
        # RFC 8414 §2; http is for loopback literals that are listed, judged with them below.
        if parts.scheme not in ("https", "http") or parts.query or "?" in issuer or "#" in issuer:
            raise ValueError("an issuer is an https URL without query and fragment")
        return issuer

    @field_validator("scopes")
    @classmethod
    def _ask_for_openid(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes:
            raise ValueError("openid must be among the scopes")
        return scopes

    @field_validator("groups_claim")
    @classmethod
    def _lists_groups(cls, claim: str | None) -> str | None:
        if claim in IGNORED or claim in _PROTOCOL_CLAIMS:
            message = f"{claim} says nothing about groups that can be relied on"
            raise ValueError(message)
        return claim

    @model_validator(mode="after")
    def _may_be_fetched(self) -> "OidcSettings":
        if destination_of(self.issuer, frozenset(self.private_hosts)) is None:
            raise ValueError(
                "issuer: must be an https URL with a host name; http is for a loopback address "
                "that private_hosts lists"
            )
        return self

    @property
    def policy(self) -> FetchPolicy:
        """How this provider's endpoints are connected to."""
        return FetchPolicy(
            private_hosts=frozenset(self.private_hosts),
            ca_bundle=self.ca_bundle,
            total_seconds=FETCH_SECONDS,
        )
