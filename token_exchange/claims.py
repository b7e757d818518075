"""What a Countersign access token says, as frozen values.

These structs are the wire format (RFC 9068 with the claims of the blended token). Decoding one
proves its *shape* only. That a signature, issuer, audience and lifetime were checked is said by
`VerifiedClaims`, which only `token_exchange.verify` makes.
"""

from dataclasses import dataclass
from typing import Any, NewType

import msgspec

JwkThumbprint = NewType("JwkThumbprint", str)  # RFC 7638, base64url SHA-256


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """One party that acts, and inside it the party that acted before (RFC 8693 §4.1).

    `agent` is the registered Agent's name; a gateway in a target token has none.
    """

    iss: str
    sub: str
    sub_profile: str
    agent: str | None = None
    act: "Actor | None" = None


class Confirmation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key a token is bound to (RFC 7800, RFC 9449 §6.1)."""

    jkt: JwkThumbprint


class AuthorizationDetail(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One RFC 9396 authorization detail of the three types this product defines.

    `mcp_tool`: `server`, `tools` (patterns: a literal, or one with a single trailing `*`),
    `actions`. `mcp_tool_call`: `server`, `tool`, `args_sha256`, `decision`. `mcp_discovery`:
    `server`.
    """

    type: str
    server: str
    tools: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    tool: str | None = None
    args_sha256: str | None = None
    decision: str | None = None


class Attestation(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the workload proved itself; `evidence` is the digest of what the audit keeps.

    `iat` and `exp` are NumericDate seconds.
    """

    provider: str
    method: str
    level: int
    iat: int
    exp: int
    evidence: str


class UserContext(msgspec.Struct, frozen=True, omit_defaults=True):
    """Attributes of the person, cut to what the server declared (`person_attributes`)."""

    name: str | None = None
    acr: str | None = None
    auth_time: int | None = None
    groups: tuple[str, ...] | None = None
    purpose: str | None = None
    ticket: str | None = None


class AccessTokenClaims(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Every claim of every access token we sign. Times are NumericDate seconds."""

    iss: str
    aud: str
    jti: str
    iat: int
    exp: int
    sub: str
    sub_profile: str
    client_id: str
    nbf: int = 0
    scope: str = ""
    agent: str | None = None
    act: Actor | None = None
    cnf: Confirmation | None = None
    authorization_details: tuple[AuthorizationDetail, ...] = ()
    sid: str | None = None
    gid: str | None = None
    txn: str | None = None
    inv: str | None = None
    attn: Attestation | None = None
    uctx: UserContext | None = None


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """Claims whose signature, `typ`, issuer, audience and times were checked."""

    token: AccessTokenClaims
    key_id: str


@dataclass(frozen=True, slots=True)
class VerifiedJwt:
    """The claims of some other JWT (attestation, client assertion) after full verification."""

    header: dict[str, Any]
    claims: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was refused.

    `code` is an OAuth or DPoP error code, `description` is safe to send, `detail` is for the
    audit and the log only, `rule` is a stable id of the rule (such as `exchange.target`).
    """

    code: str
    description: str
    detail: str
    rule: str
