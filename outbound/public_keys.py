"""The public keys of somebody else's JWK Set that may verify a signature (RFC 7517 §5).

Unlike our own keys (`token_exchange.keys`) others' are RSA too, and beside keys we cannot use. Of
each key, in this order: private members, `use`, kind, *size before any arithmetic* (a huge key is
a way to keep us busy), then the import. What is not usable is not there; a `kid` that two
different keys claim is neither's. A key has one algorithm, its own: what it says, or the usual one
of its kind; never a token's choice (RFC 8725 §3.1).
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

MAXIMUM_KEYS: Final = 64
MAXIMUM_KEY_ID_LENGTH: Final = 256
MINIMUM_RSA_BITS: Final = 2048  # RFC 7518 §3.3
MAXIMUM_RSA_BITS: Final = 4096
SIGNATURE_USES: Final[frozenset[str | None]] = frozenset(("sig", None))

_MAXIMUM_MEMBER: Final = 684  # 4096 bits in base64url
_MINIMUM_EXPONENT: Final = 3
_MAXIMUM_EXPONENT: Final = 2**32
_PRIVATE_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_RSA_ALGORITHMS: Final = ("RS256", "PS256", "RS384", "RS512", "PS384", "PS512")
_EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_REGISTRY: Final = JWSRegistry(algorithms=[*_RSA_ALGORITHMS, *_EC_ALGORITHMS.values()])


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One verification key and the one algorithm it is used with."""

    key: RSAKey | ECKey
    algorithm: str

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's, by its own algorithm."""
        return _REGISTRY.get_alg(self.algorithm).verify(signing_input, signature, self.key)


@dataclass(frozen=True, slots=True)
class ForeignKeys:
    """The usable keys of one set, by `kid`. Immutable."""

    by_key_id: Mapping[str, ForeignKey]

    @classmethod
    def of(
        cls, jwks: Iterable[object], *, uses: frozenset[str | None] = SIGNATURE_USES
    ) -> "ForeignKeys":
        """The usable keys among a set's `keys`; `uses` are the accepted values of `use`."""
        found: dict[str, ForeignKey] = {}
        doubtful: set[str] = set()
        for _, jwk in zip(range(MAXIMUM_KEYS), jwks, strict=False):
            key = _usable(jwk, uses)
            if key is None or not isinstance(jwk, Mapping):
                continue
            key_id = jwk.get("kid")
            if not isinstance(key_id, str) or not 1 <= len(key_id) <= MAXIMUM_KEY_ID_LENGTH:
                continue
            if key_id in found:
                doubtful.add(key_id)
            found[key_id] = key
        return cls(MappingProxyType({k: v for k, v in found.items() if k not in doubtful}))

    def find(self, key_id: object) -> ForeignKey | None:
        """The key of exactly this `kid`. A table look-up: never a path, a query or a URL."""
        return self.by_key_id.get(key_id) if isinstance(key_id, str) else None


def _usable(jwk: object, uses: frozenset[str | None]) -> ForeignKey | None:
    if not isinstance(jwk, Mapping) or not _PRIVATE_MEMBERS.isdisjoint(jwk):
        return None
    use, operations = jwk.get("use"), jwk.get("key_ops", ["verify"])
    if not (use is None or isinstance(use, str)) or use not in uses:
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    algorithm = _algorithm_of(jwk)
    if algorithm is None:
        return None
    try:
        return ForeignKey(_imported(jwk), algorithm)
    except (ValueError, TypeError, JoseError):
        return None


def _algorithm_of(jwk: Mapping[str, Any]) -> str | None:
    """The key's one algorithm, or None if we verify with no such key."""
    kind, stated = jwk.get("kty"), jwk.get("alg")
    if kind == "RSA":
        chosen = "RS256" if stated is None else stated
        return chosen if chosen in _RSA_ALGORITHMS and _is_rsa_size(jwk) else None
    curve = jwk.get("crv")
    if kind != "EC" or not isinstance(curve, str) or curve not in _EC_ALGORITHMS:
        return None
    usual = _EC_ALGORITHMS[curve]
    is_sized = all(_is_short(jwk.get(name)) for name in ("x", "y"))
    return usual if stated in (None, usual) and is_sized else None


def _is_short(member: object) -> bool:
    return isinstance(member, str) and 1 <= len(member) <= _MAXIMUM_MEMBER


def _is_rsa_size(jwk: Mapping[str, Any]) -> bool:
    modulus, exponent = _number(jwk.get("n")), _number(jwk.get("e"))
    if not MINIMUM_RSA_BITS <= modulus.bit_length() <= MAXIMUM_RSA_BITS:
        return False
    # RFC 8017 §3.1: odd and at least 3; a long one only makes verifying slow.
    return exponent % 2 == 1 and _MINIMUM_EXPONENT <= exponent <= _MAXIMUM_EXPONENT


def _number(member: object) -> int:
    """A Base64urlUInt (RFC 7518 §2), or 0 if it is none or longer than any we accept."""
    if not isinstance(member, str) or not _is_short(member) or not member.isascii():
        return 0
    try:
        data = base64.b64decode(member + "=" * (-len(member) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return 0
    return int.from_bytes(data, "big")


def _imported(jwk: Mapping[str, Any]) -> RSAKey | ECKey:
    if jwk["kty"] == "EC":
        return ECKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "y")})
    return RSAKey.import_key({name: jwk[name] for name in ("kty", "n", "e")})
