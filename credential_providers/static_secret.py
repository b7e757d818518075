"""`static_secret`: the target wants a fixed secret in a header, such as an API key.

Order: the settings say which secret and which header; the vault opens the secret; its value is
checked for what could break out of a header and for its length; the pair is sealed to the key the
asking gateway enrolled with. The secret is in memory only between opening and sealing, and in no
log, error or audit event. An agent cannot reach this: only gateways exchange.
"""

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from credential_providers.parts import CredentialParts
from credential_providers.request import (
    NOT_APPLICABLE,
    CredentialRequest,
    IssuedCredential,
)
from credential_providers.target_claims import target_claims
from credential_providers.vault.seal import UnusableKeyError, seal_credential
from token_exchange.claims import Refusal
from token_exchange.identifiers import new_id
from token_exchange.token_types import TOKEN_TYPE_STATIC_SECRET

SecretName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)
]
HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$", max_length=64)
]

# Headers that frame or route the message, or belong to MCP: a credential may not replace them.
RESERVED_HEADERS: Final = frozenset(
    {
        "accept",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "dpop",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "origin",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
RESERVED_PREFIXES: Final = ("mcp-", "proxy-", "sec-", "x-forwarded-")

# RFC 9110 §5.5 without obs-text and tabs: no CR, LF, NUL, and no space at either end.
_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_SCHEME_VALUE: Final = re.compile(r"[\x21-\x7e]+")  # what follows `Bearer ` has no spaces

# A shorter one is a common word: a reply that contains it says nothing.
MINIMUM_SECRET_LENGTH: Final = 6

_SCHEMES: Final = {"bearer": "Bearer", "basic": "Basic", "token": "Token"}


class StaticSecretSettings(BaseModel):
    """Settings of a `static_secret` provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secret: SecretName = Field(description="Name of the secret in the vault.")
    header: HeaderName = "Authorization"
    scheme: Literal["bearer", "basic", "token", "none"] | None = Field(
        default=None,
        description="Put before the secret. Default: bearer in Authorization, else none.",
    )

    @field_validator("header")
    @classmethod
    def _may_carry_a_credential(cls, header: str) -> str:
        lowered = header.lower()
        if lowered in RESERVED_HEADERS or lowered.startswith(RESERVED_PREFIXES):
            message = f"{header} cannot carry a credential"
            raise ValueError(message)
        return header

    @property
    def prefix(self) -> str | None:
        """The authentication scheme to write before the secret, if any."""
        scheme = self.scheme
        if scheme is None:
            scheme = "bearer" if self.header.lower() == "authorization" else "none"
        return _SCHEMES.get(scheme)


class StaticSecret:
    """Releases one secret of the vault, sealed to the gateway that asked."""

    def __init__(self, settings: StaticSecretSettings, parts: CredentialParts) -> None:
        self._settings = settings
        self._parts = parts

    async def issue(self, request: CredentialRequest) -> IssuedCredential | Refusal:
        """The sealed header for the target."""
        if request.recipient_key is None:
            return _refused("no key of the gateway to seal to", "static_secret.recipient")
        claims = target_claims(
            request,
            subject=request.plan.subject.sub,
            token_id=new_id("tok_", self._parts.random),
        )
        if isinstance(claims, Refusal):
            return claims
        value = await self._value()
        if isinstance(value, Refusal):
            return value
        try:
            sealed = seal_credential(self._settings.header, value, request.recipient_key)
        except UnusableKeyError:
            return _refused("the gateway's key is no EC P-256 key", "static_secret.recipient")
        return IssuedCredential(
            claims=claims,
            issued_token_type=TOKEN_TYPE_STATIC_SECRET,
            token_type=NOT_APPLICABLE,
            credential_value=sealed,
        )

    async def _value(self) -> str | Refusal:
        secret = await self._parts.secrets.open(self._settings.secret)
        if isinstance(secret, Refusal):
            return secret
        prefix = self._settings.prefix
        allowed = _FIELD_VALUE if prefix is None else _SCHEME_VALUE
        # INVARIANT: no value that could end the header or start another leaves the vault.
        if allowed.fullmatch(secret) is None:
            return _refused(
                f"secret {self._settings.secret} has characters a header cannot carry",
                "static_secret.value",
            )
        # INVARIANT: nothing leaves that a gateway could not search for in the target's replies.
        if len(secret) < MINIMUM_SECRET_LENGTH:
            return _refused(
                f"secret {self._settings.secret} has fewer than {MINIMUM_SECRET_LENGTH} characters",
                "static_secret.short",
            )
        return secret if prefix is None else f"{prefix} {secret}"


def _refused(detail: str, rule: str) -> Refusal:
    return Refusal(
        code="invalid_target",
        description="The credential for this target cannot be made.",
        detail=detail,
        rule=rule,
    )
