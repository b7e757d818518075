"""`unix_process`: local processes, attested by the kernel through a Unix socket.

Two halves. The listener (`attestation_listener`) identifies a peer and signs what it saw, bound
to the agent's key, for a minute. The verifier here checks such an attestation when it comes back
as a client assertion: signature by our attestation key only, `typ`, issuer, audience, times,
shape. Left out: replay (the token endpoint consumes `Evidence.proof_id`) and whether the DPoP
proof is by the attested key (it compares `Evidence.key_thumbprint`).

Level 1 when the kernel named the process by pidfd, else 0. `unix.exe` and `unix.script_digest`
tell honest processes of one user apart; only user and unit are a boundary against a hostile one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from idp_connectors.evidence import Evidence
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.process_facts import ProcessFacts
from idp_connectors.workload.verifier import WorkloadParts
from token_exchange.claims import Refusal
from token_exchange.compact_jws import decode_base64url, encode_base64url
from token_exchange.token_types import ATTESTATION_TYP, SIGNING_ALGORITHM
from token_exchange.verify import verify_jwt

METHOD: Final = "unix_process"
# With the verifier's leeway an attestation is good for 60 s at the very most.
ATTESTATION_SECONDS: Final = 55
LEEWAY_SECONDS: Final = 5
MAXIMUM_LEVEL: Final = 1  # local kernel evidence is never more
MAXIMUM_CLAIMS: Final = 16
MAXIMUM_CLAIM_LENGTH: Final = 4096  # a path

_REQUIRED: Final = ("exp", "iat", "jti", "sub", "cnf", "evidence", "level")
_THUMBPRINT_BYTES: Final = 32


class UnixProcessSettings(BaseModel):
    """Settings of a TrustProvider of type `unix_process`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    demo: bool = Field(
        default=False,
        description="Also attest the digest of the running script, which its user can fake.",
    )
    evidence_seconds: int = Field(
        default=900, ge=60, le=86_400, description="How long tokens may rest on one attestation."
    )


class AttestationSigner(Protocol):
    """Signs with the attestation key, and nothing else with it."""

    def sign(self, claims: object) -> str:
        """A compact JWS by ES256, `typ: countersign-attestation+jwt` in its header."""


def attestation_issuer(issuer: str, provider: str) -> str:
    """The `iss` of a provider's attestations; it selects exactly one verifier."""
    return f"{issuer}/attest/{provider}"


def subject_of(process: ProcessFacts, host: str) -> str:
    """`unix:HOST/UID/UNIT`; outside systemd units the control group, and `-` at its root."""
    unit = process.unit or process.cgroup.strip("/") or "-"
    return f"unix:{quote(host, safe='')}/{process.uid}/{quote(unit, safe='@')}"


def claims_of(process: ProcessFacts, *, demo: bool) -> dict[str, str]:
    """The attested claims an Agent's match rules compare; what is unknown is left out."""
    optional = {
        "unix.unit": process.unit,
        "unix.exe": process.exe,
        "unix.script_digest": process.script_digest if demo else None,
    }
    return {
        "unix.uid": str(process.uid),
        "unix.gid": str(process.gid),
        "unix.cgroup": process.cgroup,
        "unix.pid": str(process.pid),
        "unix.start_time": str(process.start_time),
        **{name: value for name, value in optional.items() if value is not None},
    }


def attestation_claims(
    peer: PeerIdentity, *, issuer: str, provider: str, host: str, demo: bool
) -> dict[str, Any]:
    """Every claim about the peer; the issuer of the JWT adds times, `jti` and `cnf`."""
    return {
        "iss": attestation_issuer(issuer, provider),
        "sub": subject_of(peer.process, host),
        "aud": issuer,
        "level": MAXIMUM_LEVEL if peer.is_pinned else 0,
        "evidence": claims_of(peer.process, demo=demo),
    }


class UnixProcessVerifier:
    """Verifies the attestations of one declared provider."""

    def __init__(self, name: str, settings: UnixProcessSettings, parts: WorkloadParts) -> None:
        self.issuer = attestation_issuer(parts.issuer, name)
        self._name = name
        self._settings = settings
        self._parts = parts

    async def verify(self, unverified_assertion: str, now: int) -> Evidence | Refusal:
        """Check everything but replay and the proof of possession. `now` is NumericDate."""
        verified = verify_jwt(
            unverified_assertion,
            keys=self._parts.attestation_keys(),
            algorithms=frozenset((SIGNING_ALGORITHM,)),
            typ=ATTESTATION_TYP,
            issuer=self.issuer,
            audience=self._parts.issuer,
            now=now,
            leeway_seconds=LEEWAY_SECONDS,
            maximum_lifetime_seconds=ATTESTATION_SECONDS,
            require=_REQUIRED,
        )
        return verified if isinstance(verified, Refusal) else self._evidence(verified.claims)

    def _evidence(self, claims: Mapping[str, Any]) -> Evidence | Refusal:
        attested, level, confirmation = claims["evidence"], claims["level"], claims["cnf"]
        key_thumbprint = confirmation.get("jkt") if isinstance(confirmation, dict) else None
        if not is_flat(attested) or type(level) is not int or not 0 <= level <= MAXIMUM_LEVEL:
            return _refused("attestation.shape", "The attestation has another shape.")
        if not is_thumbprint(key_thumbprint):
            return _refused("attestation.key", "The attestation is not bound to a key.")
        if not self._settings.demo and "unix.script_digest" in attested:
            # Signed while the provider was in demo mode: the operator has ended that.
            return _refused("attestation.demo", "The attestation rests on a demonstration mode.")
        issued_at: int = claims["iat"]
        return Evidence(
            provider=self._name,
            method=METHOD,
            level=level,
            issuer=self.issuer,
            subject=claims["sub"],
            claims=attested,
            digest=evidence_digest(self.issuer, claims["sub"], attested),
            issued_at=issued_at,
            expires_at=issued_at + self._settings.evidence_seconds,
            proof_id=claims["jti"],
            key_thumbprint=key_thumbprint,
        )


def evidence_digest(issuer: str, subject: str, claims: Mapping[str, str]) -> str:
    """`sha-256:<base64url>` over the canonical JSON of what was attested."""
    document = json.dumps(
        {"iss": issuer, "sub": subject, "claims": dict(claims)},
        sort_keys=True,
        separators=(",", ":"),
    )
    return "sha-256:" + encode_base64url(hashlib.sha256(document.encode()).digest())


def is_flat(claims: object) -> bool:
    """Whether these are a few texts by name."""
    return (
        isinstance(claims, dict)
        and 0 < len(claims) <= MAXIMUM_CLAIMS
        and all(
            isinstance(value, str) and len(value) <= MAXIMUM_CLAIM_LENGTH
            for value in claims.values()
        )
    )


def is_thumbprint(text: object) -> bool:
    """Whether this is an RFC 7638 thumbprint in its one spelling."""
    data = decode_base64url(text) if isinstance(text, str) else None
    return data is not None and len(data) == _THUMBPRINT_BYTES


def _refused(rule: str, description: str) -> Refusal:
    return Refusal(code="invalid_client", description=description, detail=description, rule=rule)
