"""Tokens nobody should accept, made as well as they can be: signed by the authority's real keys.

A refusal of a token with a broken signature proves little: anything is refused then. `RealKeys`
opens the authority's own keys (the test owns the machine, as no attacker does), so that a forged
token is wrong in exactly one respect and every other check would let it pass.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import ECKey

from authz_server.issuing.signing_keys import KeyPurpose, KeyRing
from authz_server.store.signing_keys import SigningKeyStore
from compose.demo.stack import Stack
from database.engine import Database


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(token: str, index: int) -> dict[str, Any]:
    """The header (0) or the claims (1) of a compact JWS, unverified."""
    text = token.split(".")[index]
    return dict(json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))


def without(claims: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if name not in names}


@dataclass(frozen=True)
class SigningKey:
    """A P-256 private key and its id; signs whatever it is given."""

    key: ec.EllipticCurvePrivateKey
    key_id: str

    @classmethod
    def new(cls, key_id: str = "unknown") -> "SigningKey":
        return cls(ec.generate_private_key(ec.SECP256R1()), key_id)

    @classmethod
    def of(cls, key: ECKey, key_id: str = "") -> "SigningKey":
        """A private key somebody holds."""
        assert isinstance(key.private_key, ec.EllipticCurvePrivateKey)
        return cls(key.private_key, key_id)

    @property
    def private_number(self) -> bytes:
        """The 32 bytes that make it."""
        return self.key.private_numbers().private_value.to_bytes(32, "big")

    @property
    def jwk(self) -> ECKey:
        return ECKey.import_key(self.key)

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """ES256 over exactly this header (with our `kid` unless it names one)."""
        body = _signing_input({"alg": "ES256", "kid": self.key_id} | header, claims)
        der = self.key.sign(body.encode(), ec.ECDSA(hashes.SHA256()))
        numbers = decode_dss_signature(der)
        return f"{body}.{b64(b''.join(number.to_bytes(32, 'big') for number in numbers))}"

    def sign_hs256(self, header: dict[str, Any], claims: dict[str, Any], form: str) -> str:
        """HS256 with the public key as the secret: the classic confusion (RFC 8725 §2.1)."""
        public = self.jwk.as_dict(private=False)
        secret = {
            "pem": self.jwk.as_pem(private=False),
            "jwk": json.dumps(public, separators=(",", ":"), sort_keys=True).encode(),
        }[form]
        body = _signing_input({"kid": self.key_id} | header | {"alg": "HS256"}, claims)
        return f"{body}.{b64(hmac.digest(secret, body.encode(), hashlib.sha256))}"


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    """`alg: none`, in the spelling of `header` (RFC 8725 §2.1)."""
    return f"{_signing_input({'alg': 'none'} | header, claims)}.{signature}"


Keys = dict[KeyPurpose, SigningKey]
Forge = Callable[[Keys, dict[str, Any]], str]  # from the claims of a good token


def signed(purpose: KeyPurpose, **header: Any) -> Forge:
    """The good claims, signed by the key of `purpose` under this header."""
    return lambda keys, claims: keys[purpose].sign(header, claims)


def saying(purpose: KeyPurpose, typ: str, **changes: Any) -> Forge:
    """The good claims with some set, made from the others (a function) or left out (None)."""

    def forge(keys: Keys, claims: dict[str, Any]) -> str:
        changed = {
            name: value(claims) if callable(value) else value for name, value in changes.items()
        }
        kept = without(claims | changed, *(name for name in changed if changed[name] is None))
        return keys[purpose].sign({"typ": typ}, kept)

    return forge


def real_keys(stack: Stack) -> Keys:
    """The authority's signing keys, opened with the key-encryption keys of the stack."""
    keys = stack.directory / "keys"
    database = Database.open(f"sqlite:///{stack.directory / 'data' / 'countersign.db'}")
    try:
        ring = asyncio.run(
            KeyRing.open(
                SigningKeyStore(database),
                signing_kek=(keys / "signing.kek").read_bytes(),
                vault_kek=(keys / "vault.kek").read_bytes(),
                random=lambda _: b"",  # every key is there already
                now_ms=0,
            )
        )
    finally:
        database.close()
    return {
        key.purpose: SigningKey(
            ec.derive_private_key(int.from_bytes(key.private, "big"), ec.SECP256R1()), key.key_id
        )
        for key in ring._keys
        if key.public_jwk
    }


def _signing_input(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(
        b64(json.dumps(each, separators=(",", ":")).encode()) for each in (header, claims)
    )
