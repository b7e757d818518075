"""`spiffe`: workloads of one trust domain, by JWT-SVID or X.509-SVID.

One TrustProvider is one trust domain and one source of its bundle. A JWT-SVID goes: the bundle now
→ algorithm of the explicit list → `kid` among the keys the bundle marks `jwt-svid` → signature →
our issuer as its only audience → `exp` and `iat`, not too far apart → `sub` is a SPIFFE ID of this
very trust domain (draft-ietf-oauth-spiffe-client-auth §3, JWT-SVID §3 and §4). X.509-SVIDs are
`spiffe_x509`.

There is no replay check: SPIRE gives one JWT-SVID out many times. So a stolen one is good, with
whatever key its thief has, until it ends: audience, life and epochs (`iat`) bound it, and nothing
else. The level is 2: a platform signed it for us, and it says nothing of the token's key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from idp_connectors.evidence import Evidence
from idp_connectors.workload.spiffe_bundle import BundleError, SpiffeBundle
from idp_connectors.workload.spiffe_bundle_sources import BundleEndpoint, BundleFile, BundleSource
from idp_connectors.workload.spiffe_id import (
    SpiffeId,
    is_trust_domain,
    parse_spiffe_id,
    trust_domain_issuer,
)
from idp_connectors.workload.spiffe_workload_api import WorkloadApiBundle
from idp_connectors.workload.spiffe_x509 import verify_x509_svid
from idp_connectors.workload.unix_process import evidence_digest
from idp_connectors.workload.verifier import WorkloadParts
from outbound.fetcher import FetchPolicy
from token_exchange.claims import Refusal
from token_exchange.verify import unverified_claims, verify_jwt

JWT_SVID: Final = "jwt-svid"
X509_SVID: Final = "x509-svid"
LEVEL: Final = 2
LEEWAY_SECONDS: Final = 5
# JWT-SVID §2.1. HMAC and `none` are not in it, and no key of a bundle could serve them.
ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
)
TYPES: Final = frozenset(("JWT", "JOSE", None))  # JWT-SVID §2.3

_REQUIRED: Final = ("exp", "iat", "sub")
_SOURCES: Final = ("bundle_file", "bundle_endpoint", "workload_api")


class SpiffeSettings(BaseModel):
    """Settings of a TrustProvider of type `spiffe`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trust_domain: str = Field(description="Its name, such as prod.example.com.")
    bundle_file: str | None = Field(
        default=None,
        max_length=1024,
        pattern="^/",
        description="A SPIFFE bundle document on this machine; read again when it changes.",
    )
    bundle_endpoint: str | None = Field(
        default=None,
        max_length=2048,
        pattern=r"^https://[^\s#]+$",
        description="The https URL where the trust domain publishes its bundle (https_web).",
    )
    workload_api: str | None = Field(
        default=None,
        max_length=1024,
        pattern="^unix:///",
        description="The Workload API's socket; the agent must know or federate with the domain.",
    )
    ca_bundle: str | None = Field(
        default=None, max_length=1024, pattern="^/", description="Authorities of the endpoint."
    )
    private_hosts: tuple[str, ...] = Field(
        default=(), max_length=16, description="host or host:port of the endpoint, when private."
    )
    jwt_issuer: str | None = Field(
        default=None, max_length=2048, description="What `iss` must be, where SVIDs have one."
    )
    maximum_svid_seconds: int = Field(
        default=3600, ge=30, le=86_400, description="A JWT-SVID made for longer is refused."
    )

    @field_validator("trust_domain")
    @classmethod
    def _is_trust_domain(cls, name: str) -> str:
        if not is_trust_domain(name):
            raise ValueError("not the name of a trust domain: a-z, 0-9, dot, dash, underscore")
        return name

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if sum(getattr(self, name) is not None for name in _SOURCES) != 1:
            raise ValueError(f"exactly one of {', '.join(_SOURCES)}")
        return self


def bundle_source(settings: SpiffeSettings, parts: WorkloadParts) -> BundleSource:
    """Where this provider's bundle comes from."""
    if settings.bundle_file is not None:
        return BundleFile(Path(settings.bundle_file))
    if settings.bundle_endpoint is not None:
        policy = FetchPolicy(frozenset(settings.private_hosts), settings.ca_bundle)
        return BundleEndpoint(settings.bundle_endpoint, policy, parts.fetcher, parts.clock)
    return WorkloadApiBundle(settings.workload_api or "", settings.trust_domain, parts.clock)


class SpiffeVerifier:
    """Verifies the SVIDs of one trust domain."""

    def __init__(
        self, name: str, settings: SpiffeSettings, issuer: str, source: BundleSource
    ) -> None:
        self.issuer = trust_domain_issuer(settings.trust_domain)
        self._name = name
        self._settings = settings
        self._audience = issuer
        self._source = source

    async def verify(self, unverified_assertion: str, now: int) -> Evidence | Refusal:
        """Check a JWT-SVID. `now` is NumericDate."""
        unverified = unverified_claims(unverified_assertion, require_issuer=False)
        if isinstance(unverified, Refusal):
            return unverified
        bundle = await self._bundle(unverified.header.get("kid"))
        if isinstance(bundle, Refusal):
            return bundle
        verified = verify_jwt(
            unverified_assertion,
            keys=bundle.jwt_keys,
            algorithms=ALGORITHMS,
            typ=TYPES,
            issuer=self._settings.jwt_issuer,
            audience=self._audience,
            now=now,
            leeway_seconds=LEEWAY_SECONDS,
            maximum_lifetime_seconds=self._settings.maximum_svid_seconds,
            require=_REQUIRED,
        )
        if isinstance(verified, Refusal):
            return verified
        return self._evidence_of(verified.claims, now)

    async def verify_certificates(
        self, unverified_chain: Sequence[bytes], now: int
    ) -> Evidence | Refusal:
        """Check an X.509-SVID whose key its peer has proved by TLS; DER, the leaf first."""
        bundle = await self._bundle(None)
        if isinstance(bundle, Refusal):
            return bundle
        verified = verify_x509_svid(
            unverified_chain,
            trust_domain=self._settings.trust_domain,
            authorities=bundle.x509_authorities,
            now=now,
        )
        if isinstance(verified, Refusal):
            return verified
        return self._evidence(
            X509_SVID, verified.spiffe_id, verified.issued_at, verified.expires_at
        )

    async def x509_authorities(self) -> Sequence[bytes]:
        """The certificates, in DER, that sign X.509-SVIDs of this trust domain; may be none."""
        bundle = await self._bundle(None)
        if isinstance(bundle, Refusal):
            return ()
        return tuple(each.public_bytes(Encoding.DER) for each in bundle.x509_authorities)

    async def _bundle(self, key_id: object) -> SpiffeBundle | Refusal:
        try:
            return await self._source.bundle(key_id=key_id)
        except BundleError as error:
            return _refused("spiffe.bundle", f"{self._name}: {error}")

    def _evidence_of(self, claims: Mapping[str, Any], now: int) -> Evidence | Refusal:
        spiffe_id = parse_spiffe_id(claims["sub"])
        # INVARIANT: a trust domain's keys speak for that trust domain alone.
        if spiffe_id is None or spiffe_id.trust_domain != self._settings.trust_domain:
            return _refused("spiffe.subject", "sub is no SPIFFE ID of this trust domain")
        if claims["exp"] <= now:  # within the leeway: too late for a token to rest on it
            return _refused("jwt.expired", "the SVID ends now")
        return self._evidence(JWT_SVID, spiffe_id, claims["iat"], claims["exp"])

    def _evidence(
        self, method: str, spiffe_id: SpiffeId, issued_at: int, expires_at: int
    ) -> Evidence:
        claims = {
            "spiffe.id": str(spiffe_id),
            "spiffe.trust_domain": spiffe_id.trust_domain,
            "spiffe.path": spiffe_id.path,
        }
        return Evidence(
            provider=self._name,
            method=method,
            level=LEVEL,
            issuer=self.issuer,
            subject=str(spiffe_id),
            claims=claims,
            digest=evidence_digest(self.issuer, str(spiffe_id), claims),
            issued_at=issued_at,
            expires_at=expires_at,
        )


def _refused(rule: str, detail: str) -> Refusal:
    return Refusal("invalid_client", "The SVID is not acceptable.", detail, rule)
