"""Client assertions and DPoP proofs in quantity: each is used once, so each run needs new ones.

Signed by `cryptography` directly, because a run needs thousands and nothing is measured here.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

_ECDSA: Final = ec.ECDSA(SHA256())
ASSERTION_TYP: Final = "client-authentication+jwt"
ASSERTION_SECONDS: Final = 60


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """A client's own ES256 key."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        point = self._private.public_key().public_numbers()
        x, y = (base64url(number.to_bytes(32, "big")) for number in (point.x, point.y))
        self.public_jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        canonical = json.dumps(self.public_jwk, separators=(",", ":"))  # RFC 7638: already sorted
        self.thumbprint = base64url(hashlib.sha256(canonical.encode()).digest())
        self._proof = self._header({"typ": "dpop+jwt", "jwk": self.public_jwk})
        self._assertion = self._header({"typ": ASSERTION_TYP, "kid": self.thumbprint})

    def assertion(self, *, client_id: str, audience: str, now: int) -> str:
        """A client assertion (RFC 7523 §3) with an id of its own."""
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        return self._signed(self._assertion, claims)

    def proof(self, *, method: str, uri: str, now: int, token: str | None = None) -> str:
        """A DPoP proof (RFC 9449 §4.2), for the token if there is one."""
        claims = {"htm": method, "htu": uri, "iat": now, "jti": secrets.token_urlsafe(16)}
        if token is not None:
            claims["ath"] = base64url(hashlib.sha256(token.encode()).digest())
        return self._signed(self._proof, claims)

    @staticmethod
    def _header(more: Mapping[str, Any]) -> str:
        return base64url(json.dumps({"alg": "ES256", **more}, separators=(",", ":")).encode())

    def _signed(self, header: str, claims: Mapping[str, Any]) -> str:
        payload = base64url(json.dumps(claims, separators=(",", ":")).encode())
        signing_input = f"{header}.{payload}"
        r, s = decode_dss_signature(self._private.sign(signing_input.encode(), _ECDSA))
        return f"{signing_input}.{base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
