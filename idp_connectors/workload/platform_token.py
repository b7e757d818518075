"""`platform_token`: a JWT that a platform signs for its workloads, by OpenID Connect's rules.

The base of every platform that speaks JWT: Kubernetes, continuous integration, clouds. One
TrustProvider is one issuer. A token goes: the issuer's keys (its metadata, a JWK Set's address, or
keys in the settings) → algorithm of the explicit list → `typ` → `kid` → signature → `iss`, its one
audience → `exp` and `iat`, life and age → a `cnf` only if it is a key's thumbprint, which the
request must then prove → the named claims, flattened to texts → those that must have a value.

Which claims identify a workload for ever only the operator knows: map immutable ids, not names.
Where the platform promises a fresh token for each request, `single_use` uses its `jti` up.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from idp_connectors.evidence import Evidence
from idp_connectors.workload.unix_process import (
    MAXIMUM_CLAIM_LENGTH,
    MAXIMUM_CLAIMS,
    evidence_digest,
    is_thumbprint,
)
from idp_connectors.workload.verifier import WorkloadParts
from outbound.discovery import DiscoveryCache
from outbound.fetcher import FetchError, FetchPolicy
from outbound.public_keys import ForeignKeys
from token_exchange.claims import Refusal
from token_exchange.verify import unverified_claims, verify_jwt

METHOD: Final = "platform-token"
LEEWAY_SECONDS: Final = 5
MAXIMUM_PROOF_ID: Final = 256
ALGORITHMS: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
                               "ES256", "ES384", "ES512"))  # fmt: skip
TYPES: Final = frozenset(("JWT", None))

# Whatever another connector of ours says of a workload is not for a platform to say.
_RESERVED: Final = ("unix.", "spiffe.")
_PRIVATE_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))

Url = Annotated[str, StringConstraints(pattern=r"^https://[^\s#]+$", max_length=2048)]
ClaimName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$", max_length=128)
]
Pointer = Annotated[str, StringConstraints(pattern="^/", max_length=512)]


class PlatformTokenSettings(BaseModel):
    """Settings of a TrustProvider of type `platform_token`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(min_length=1, max_length=2048, description="The exact `iss`.")
    audience: str | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="The one `aud`. Default: our issuer; with another one the level is 1 at most.",
    )
    jwks_uri: Url | None = Field(
        default=None, description="Its JWK Set. Default: found in the issuer's metadata."
    )
    jwks: dict[str, Any] | None = Field(
        default=None, description="Its keys themselves, for an issuer nobody can reach."
    )
    algorithms: frozenset[str] = Field(default=frozenset(("RS256", "ES256")), min_length=1)
    claims: dict[ClaimName, Pointer] = Field(
        default_factory=dict,
        max_length=MAXIMUM_CLAIMS - 1,
        description="Name to match on → where it is in the token, as a JSON pointer.",
    )
    require: dict[ClaimName, str] = Field(
        default_factory=dict, description="Of those, what every token must say, whoever asks."
    )
    maximum_lifetime_seconds: int = Field(default=3600, ge=30, le=86_400)
    maximum_age_seconds: int = Field(
        default=3600, ge=5, le=86_400, description="An older token is refused, whatever its exp."
    )
    single_use: bool = Field(
        default=False, description="The platform makes a token for each request: use its jti up."
    )
    level: int = Field(default=1, ge=0, le=2, description="What such a token is worth.")
    ca_bundle: str | None = Field(default=None, max_length=1024, pattern="^/")
    private_hosts: tuple[str, ...] = Field(default=(), max_length=16)

    @model_validator(mode="after")
    def _keys_are_found_in_one_way(self) -> Self:
        if self.jwks is not None and self.jwks_uri is not None:
            raise ValueError("jwks or jwks_uri, not both")
        if self.jwks is None and self.jwks_uri is None and urlsplit(self.issuer).scheme != "https":
            raise ValueError("an issuer that is no https URL needs jwks_uri or jwks")
        if self.jwks is not None:
            _require_public_keys(self.jwks)
        return self

    @model_validator(mode="after")
    def _rules_are_sound(self) -> Self:
        unknown = self.algorithms - ALGORITHMS
        if unknown:
            raise ValueError(f"not an algorithm with a public key: {', '.join(sorted(unknown))}")
        if any(name.startswith(_RESERVED) for name in self.claims):
            raise ValueError("unix.* and spiffe.* are other connectors' claims")
        if not self.require.keys() <= self.claims.keys() | {"platform.sub"}:
            raise ValueError("require names a claim that `claims` does not")
        if self.audience is not None and self.level > 1:
            # INVARIANT: level 2 is a proof made for us; another audience's is everybody's.
            raise ValueError("level 2 needs our issuer as the audience")
        return self


class PlatformTokenVerifier:
    """Verifies the tokens of one platform issuer."""

    def __init__(self, name: str, settings: PlatformTokenSettings, parts: WorkloadParts) -> None:
        self.issuer = settings.issuer
        self._name = name
        self._settings = settings
        self._audience = settings.audience or parts.issuer
        self._jwks = parts.jwks
        self._discovery = DiscoveryCache(parts.fetcher, parts.clock)
        self._policy = FetchPolicy(frozenset(settings.private_hosts), settings.ca_bundle)
        keys = None if settings.jwks is None else settings.jwks["keys"]
        self._own_keys = None if keys is None else ForeignKeys.of(keys)

    async def verify(self, unverified_assertion: str, now: int) -> Evidence | Refusal:
        """Check everything but replay. `now` is NumericDate."""
        unverified = unverified_claims(unverified_assertion)
        if isinstance(unverified, Refusal):
            return unverified
        settings = self._settings
        try:
            keys = await self._keys(unverified.header.get("kid"))
        except FetchError as error:
            return _refused("platform.keys", f"{self._name}: {error.code}")
        verified = verify_jwt(
            unverified_assertion,
            keys=keys,
            algorithms=settings.algorithms,
            typ=TYPES,
            issuer=self.issuer,
            audience=self._audience,
            now=now,
            leeway_seconds=LEEWAY_SECONDS,
            maximum_lifetime_seconds=settings.maximum_lifetime_seconds,
            require=("exp", "iat", "sub", *(("jti",) if settings.single_use else ())),
        )
        if isinstance(verified, Refusal):
            return verified
        problem = _problem(verified.claims, settings, now)
        return self._evidence(verified.claims) if problem is None else problem

    async def _keys(self, key_id: object) -> ForeignKeys:
        if self._own_keys is not None:
            return self._own_keys
        url = self._settings.jwks_uri
        if url is None:
            found = (await self._discovery.metadata(self.issuer, self._policy)).get("jwks_uri")
            if not isinstance(found, str):
                raise FetchError("issuer", "its metadata has no jwks_uri")
            url = found
        return await self._jwks.keys(url, self._policy, kid=key_id)

    def _evidence(self, claims: Mapping[str, Any]) -> Evidence | Refusal:
        settings, subject = self._settings, claims["sub"]
        attested = {"platform.sub": subject}
        for name, pointer in settings.claims.items():
            value = _text_at(claims, pointer)
            if value is not None:
                attested[name] = value
        if any(len(value) > MAXIMUM_CLAIM_LENGTH for value in attested.values()):
            return _refused("platform.claim", "a claim is too long")
        for name, wanted in settings.require.items():
            if attested.get(name) != wanted:
                return _refused("platform.required", f"{name} is not what it must be")
        confirmation = claims.get("cnf")
        return Evidence(
            provider=self._name,
            method=METHOD,
            level=settings.level,
            issuer=self.issuer,
            subject=subject,
            claims=attested,
            digest=evidence_digest(self.issuer, subject, attested),
            issued_at=claims["iat"],
            expires_at=claims["exp"],
            proof_id=claims["jti"] if settings.single_use else None,
            key_thumbprint=None if confirmation is None else confirmation["jkt"],
        )


def _problem(
    claims: Mapping[str, Any], settings: PlatformTokenSettings, now: int
) -> Refusal | None:
    if claims["exp"] <= now:  # within the leeway: too late for a token to rest on it
        return _refused("jwt.expired", "the token ends now")
    if now - claims["iat"] > settings.maximum_age_seconds:
        return _refused("platform.age", "the token is too old")
    if settings.single_use and len(claims["jti"]) > MAXIMUM_PROOF_ID:
        return _refused("platform.jti", "the jti is too long")
    confirmation = claims.get("cnf")
    # RFC 7800 §3.1: a token bound to what we cannot check is not one anybody may present.
    if confirmation is not None and not _is_thumbprint_alone(confirmation):
        return _refused("platform.cnf", "the token is bound to something else than a key by DPoP")
    return None


def _is_thumbprint_alone(confirmation: object) -> bool:
    return (
        isinstance(confirmation, dict)
        and set(confirmation) == {"jkt"}
        and is_thumbprint(confirmation["jkt"])
    )


def _text_at(claims: Mapping[str, Any], pointer: str) -> str | None:
    """What is at a JSON pointer (RFC 6901 §4), if that has one spelling as a text."""
    value: Any = claims
    for part in pointer[1:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _require_public_keys(jwks: Mapping[str, Any]) -> None:
    keys = jwks.get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError("jwks has no list of keys")
    if any(not _PRIVATE_MEMBERS.isdisjoint(key) for key in keys):
        raise ValueError("jwks has a private or symmetric key: whoever wrote it there leaked it")
    if len(ForeignKeys.of(keys).by_key_id) != len(keys) or not keys:
        raise ValueError("jwks has a key that verifies nothing, has no kid or shares one")


def _refused(rule: str, detail: str) -> Refusal:
    return Refusal("invalid_client", "The platform's token is not acceptable.", detail, rule)
