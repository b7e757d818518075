"""Public keys that may verify something: ES256 only, immutable, found by `kid`.

A key gets in only in its one canonical form (RFC 7518 §6.2.1), so that one key has one
RFC 7638 thumbprint. Private members are refused, not dropped: whoever sends them has leaked a key.
Algorithms are a property of the key here, never of a token (RFC 8725 §3.1). Left out: fetching,
rotation and private keys.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from token_exchange.claims import JwkThumbprint, Refusal
from token_exchange.compact_jws import decode_base64url, encode_base64url
from token_exchange.token_types import SIGNING_ALGORITHM

MAXIMUM_KEY_ID_LENGTH: Final = 128  # ours are 43 characters

_COORDINATE_BYTES: Final = 32  # RFC 7518 §6.2.1.2: the full size of a P-256 coordinate
# RFC 7518 §6.2.2, §6.3.2, §6.4: whatever is private or symmetric.
_PRIVATE_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_ES256: Final = JWSRegistry(algorithms=[SIGNING_ALGORITHM]).get_alg(SIGNING_ALGORITHM)

_DESCRIPTIONS: Final = {
    "key.form": "The key is not a JSON Web Key.",
    "key.private": "The key contains private members.",
    "key.type": "The key is not an EC key on P-256.",
    "key.purpose": "The key is not meant for ES256 signatures.",
    "key.coordinates": "The key's coordinates are not in canonical form.",
    "key.point": "The key is not a point of its curve.",
}


class VerifyingKey(Protocol):
    """A public key and the one algorithm it verifies with; others' keys may be other than ES256."""

    @property
    def algorithm(self) -> str:
        """The JWS `alg` this key is used with, whatever a token says."""

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's."""


class KeyTable(Protocol):
    """The keys of exactly one issuer."""

    def find(self, key_id: object) -> VerifyingKey | None:
        """The key of exactly this `kid`: a table look-up."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One ES256 verification key and its RFC 7638 thumbprint."""

    thumbprint: JwkThumbprint
    key: ECKey
    algorithm: str = SIGNING_ALGORITHM

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` (r and s, 64 bytes) is this key's (RFC 7518 §3.4)."""
        return _ES256.verify(signing_input, signature, self.key)


def public_key_of(unverified_jwk: object) -> PublicKey | Refusal:
    """The key of a JWK, or why it is none we verify with (RFC 7517 §4, RFC 7518 §6.2.1).

    Only `kty`, `crv`, `x` and `y` are taken over; the refusal's code is `invalid_request`.
    """
    if not isinstance(unverified_jwk, Mapping):
        return _refusal("key.form")
    problem = _problem_of(unverified_jwk)
    if problem is not None:
        return _refusal(problem)
    x, y = _coordinate(unverified_jwk.get("x")), _coordinate(unverified_jwk.get("y"))
    if x is None or y is None:
        return _refusal("key.coordinates")
    try:
        key = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    except (ValueError, JoseError):
        return _refusal("key.point")
    # RFC 7638 §3.2: the required members, in lexicographic order, without whitespace.
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    digest = hashlib.sha256(canonical.encode("ascii")).digest()
    return PublicKey(JwkThumbprint(encode_base64url(digest)), key)


@dataclass(frozen=True, slots=True)
class VerificationKeys:
    """The keys that may have signed something, by `kid`. Immutable."""

    by_key_id: Mapping[str, PublicKey]

    @classmethod
    def of(cls, jwks: Iterable[Mapping[str, object]]) -> "VerificationKeys":
        """The keys of a JWK Set's `keys` (RFC 7517 §5).

        A key without `kid` is found by its thumbprint.

        Raises:
            ValueError: a key is not a public ES256 key, or two different keys share a `kid`. A set
                that is partly wrong is not used at all.
        """
        found: dict[str, PublicKey] = {}
        for jwk in jwks:
            key = public_key_of(jwk)
            if isinstance(key, Refusal):
                raise ValueError(key.description)  # noqa: TRY004 - a value's content, not its type
            key_id = jwk.get("kid", key.thumbprint)
            if not isinstance(key_id, str) or not 1 <= len(key_id) <= MAXIMUM_KEY_ID_LENGTH:
                raise ValueError("a key's kid is not a short text")
            if found.setdefault(key_id, key).thumbprint != key.thumbprint:
                raise ValueError("two keys have the same kid")
        return cls(MappingProxyType(found))

    def find(self, key_id: object) -> PublicKey | None:
        """The key of exactly this `kid`. A table look-up: never a path, a query or a URL."""
        return self.by_key_id.get(key_id) if isinstance(key_id, str) else None

    @staticmethod
    def thumbprint_of(jwk: Mapping[str, object]) -> JwkThumbprint:
        """The RFC 7638 thumbprint of a public ES256 key.

        Raises:
            ValueError: it is not such a key.
        """
        key = public_key_of(jwk)
        if isinstance(key, Refusal):
            raise ValueError(key.description)  # noqa: TRY004 - a value's content, not its type
        return key.thumbprint


def _refusal(rule: str) -> Refusal:
    return Refusal("invalid_request", _DESCRIPTIONS[rule], _DESCRIPTIONS[rule], rule)


def _problem_of(jwk: Mapping[str, object]) -> str | None:
    if not _PRIVATE_MEMBERS.isdisjoint(jwk):
        return "key.private"
    if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256":
        return "key.type"
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", SIGNING_ALGORITHM) != SIGNING_ALGORITHM:
        return "key.purpose"
    return None


def _coordinate(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    data = decode_base64url(value)
    return value if data is not None and len(data) == _COORDINATE_BYTES else None
