"""Signs compact JWS with ES256, by hand on `cryptography`: the hot end of every issued token.

One signer has one key and one `typ`, so its header segment is a constant and nothing a caller
says can get into it (RFC 8725 §3.11). Verifying is a library's work (`token_exchange.verify`);
signing only needs two base64url encodings and the fixed-width form of the signature.
"""

from base64 import urlsafe_b64encode
from typing import Final, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from token_exchange.token_types import SIGNING_ALGORITHM

_COORDINATE_BYTES: Final = 32  # RFC 7518 §3.4: r and s of P-256, each at full width
_ECDSA: Final = ec.ECDSA(SHA256())
_encode: Final = msgspec.json.Encoder().encode


class Signer(Protocol):
    """Signs claims as one kind of JWT with whatever key is active now."""

    def sign(self, claims: object, *, typ: str | None = None) -> str:
        """The compact JWS of `claims` (a mapping or a struct)."""


class Es256Signer:
    """Signs one `typ` with one key."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey, *, key_id: str, typ: str) -> None:
        header = {"alg": SIGNING_ALGORITHM, "kid": key_id, "typ": typ}
        self._private_key = private_key
        self._typ = typ
        self._prefix = _base64url(_encode(header)) + b"."
        self.key_id = key_id

    def sign(self, claims: object, *, typ: str | None = None) -> str:
        """The compact JWS of `claims` (RFC 7515 §7.1).

        `typ` is for callers that want to say it: it can only be the signer's own.
        """
        if typ not in (None, self._typ):
            raise ValueError("this key signs another kind of token")
        signing_input = self._prefix + _base64url(_encode(claims))
        r, s = decode_dss_signature(self._private_key.sign(signing_input, _ECDSA))
        signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        return (signing_input + b"." + _base64url(signature)).decode("ascii")


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
