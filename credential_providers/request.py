"""What is asked of a credential provider and what it answers. Frozen values only.

A provider never signs: for a token of ours it answers the complete claims, and the token endpoint
checks blocks once more, writes the audit event and signs. Everything else comes back as a value
already sealed to the gateway that asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from registry.snapshot import CredentialProviderEntry
from token_exchange.claims import AccessTokenClaims, Refusal
from token_exchange.exchange_plan import ExchangePlan

BEARER: Final = "Bearer"
NOT_APPLICABLE: Final = "N_A"  # RFC 8693 §2.2.1: what is issued is no OAuth access token


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRequest:
    """One exchange that the ladder and the policies allowed.

    `plan` is already narrowed; `provider` is the entry of the server it names. `issuer` is ours.
    `recipient_key` is the public JWK the asking gateway authenticated with: what is no token of
    ours is sealed to it.
    """

    issuer: str
    provider: CredentialProviderEntry
    plan: ExchangePlan
    recipient_key: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCredential:
    """What a target will get.

    `claims` describe it completely: signed as `at+jwt` when `credential_value` is None, otherwise
    only what blocks and the audit need. INVARIANT: `claims.sub` may be pairwise, so blocks and
    epochs are checked against the *inbound* token, never against these claims.
    `credential_value` is a compact JWE to the gateway's key.
    """

    claims: AccessTokenClaims
    issued_token_type: str
    token_type: str
    credential_value: str | None = None


class CredentialProvider(Protocol):
    """One declared CredentialProvider object, ready to issue."""

    async def issue(self, request: CredentialRequest) -> IssuedCredential | Refusal:
        """Make the credential, or say why not. Never raises for a request's content."""
