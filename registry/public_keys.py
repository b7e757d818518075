"""Public keys as the registry keeps and publishes them: EC P-256, public members only. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey

PUBLIC_MEMBERS: Final = ("kty", "crv", "x", "y", "kid", "use", "alg")  # RFC 7517 §4, RFC 7518 §6.2
CURVE: Final = "P-256"


class InvalidKeyError(ValueError):
    """Not a public ES256 key."""


def public_jwk(jwk: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a public ES256 key, `kid` being its RFC 7638 thumbprint.

    Raises:
        InvalidKeyError: Another type or curve, no point on it, or it has private members.
    """
    if jwk.get("kty") != "EC" or jwk.get("crv") != CURVE:
        raise InvalidKeyError("the key must be EC P-256")
    if set(jwk) - set(PUBLIC_MEMBERS):
        # Refused, not stripped: who sends a private key has a problem to know of.
        raise InvalidKeyError("the key must have public members only")
    required = {name: jwk.get(name) for name in ("kty", "crv", "x", "y")}
    if not all(isinstance(value, str) for value in required.values()):
        raise InvalidKeyError("x and y are missing")
    kid = thumbprint_of(required)
    return {**required, "kid": kid, "use": "sig", "alg": "ES256"}


def thumbprint_of(jwk: Mapping[str, Any]) -> str:
    """The RFC 7638 thumbprint of a public EC key.

    Raises:
        InvalidKeyError: It is no such key.
    """
    try:
        key = ECKey.import_key({name: str(jwk[name]) for name in ("kty", "crv", "x", "y")})
        # The point is checked when the key is first used, not when it is imported.
        key.public_key.public_numbers()
        return key.thumbprint()
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise InvalidKeyError("not a point of P-256") from error
