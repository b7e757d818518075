"""The gateway's one key: how it proves itself to the authority, and what it can unseal.

An EC P-256 key in a file of mode 0600, kept over restarts and shared by the workers of a Gateway.
It signs client assertions (RFC 7523 §3) and DPoP proofs (RFC 9449 §4), decrypts static secrets
that were sealed to it, and yields symmetric keys for one purpose each. It signs no token.
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from token_exchange.identifiers import new_id
from token_exchange.proof_of_possession import access_token_hash
from token_exchange.token_types import (
    CLIENT_ASSERTION_TYP,
    DPOP_PROOF_TYP,
    SIGNING_ALGORITHM,
)

ASSERTION_LIFETIME_SECONDS: Final = 60  # RFC 7523 §3: as short as the round trip allows
_SCALAR_BYTES: Final = 32  # of a P-256 private key (RFC 7518 §6.2.2.1)
_SEALING: Final = ["ECDH-ES", "A256GCM"]

Random = Callable[[int], bytes]


class UnsealError(Exception):
    """A sealed secret is not for this key, or not one."""


class GatewayKey:
    """The private key, and the few things done with it."""

    def __init__(self, key: ECKey, random: Random) -> None:
        """Take the key and the source of unique ids."""
        self._key = key
        self._random = random
        self.public_jwk: dict[str, Any] = dict(key.as_dict(private=False))
        self.thumbprint: str = key.thumbprint()

    @classmethod
    def load_or_create(cls, path: Path, random: Random) -> "GatewayKey":
        """The key of `path`; written there, readable by its owner only, if there is none.

        Raises:
            PermissionError: others may read the file.
            ValueError: it holds no P-256 private key.
        """
        if not path.exists():
            _create(path)
        return cls(_load(path), random)

    def client_assertion(self, *, client_id: str, issuer: str, now: int) -> str:
        """A `private_key_jwt` client assertion; its audience is the issuer alone."""
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": issuer,
            "jti": new_id("jti", self._random),
            "iat": now,
            "exp": now + ASSERTION_LIFETIME_SECONDS,
        }
        return self._sign({"typ": CLIENT_ASSERTION_TYP, "kid": self.thumbprint}, claims)

    def dpop_proof(
        self, *, method: str, uri: str, now: int, access_token: str | None = None
    ) -> str:
        """A proof for one request; with `ath` when a token goes along (RFC 9449 §4.2)."""
        claims: dict[str, Any] = {
            "jti": new_id("jti", self._random),
            "htm": method,
            "htu": uri,
            "iat": now,
        }
        if access_token is not None:
            claims["ath"] = access_token_hash(access_token)
        return self._sign({"typ": DPOP_PROOF_TYP, "jwk": self.public_jwk}, claims)

    def derived(self, purpose: bytes) -> bytes:
        """32 bytes for `purpose` alone: every worker of this key, and nobody else, has them.

        HKDF-SHA256 (RFC 5869) over the private scalar, so that no two purposes share a key.

        Raises:
            ValueError: this is a public key.
        """
        if self._key.private_key is None:
            raise ValueError("the key has no private part")
        scalar = self._key.private_key.private_numbers().private_value
        secret = scalar.to_bytes(_SCALAR_BYTES, "big")
        return HKDF(SHA256(), length=32, salt=None, info=purpose).derive(secret)

    def unseal(self, sealed: str) -> bytes:
        """The plaintext of a compact JWE to this key.

        Raises:
            UnsealError: it is for another key, or not such a JWE.
        """
        try:
            plaintext = jwe.decrypt_compact(sealed, self._key, algorithms=_SEALING).plaintext
        except (JoseError, ValueError) as error:
            raise UnsealError from error
        if plaintext is None:
            raise UnsealError
        return plaintext

    def _sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        payload = json.dumps(claims, separators=(",", ":")).encode()
        return jws.serialize_compact(
            {"alg": SIGNING_ALGORITHM, **header}, payload, self._key, [SIGNING_ALGORITHM]
        )


def _create(path: Path) -> None:
    """Write a new key whole or not at all; of several workers that try, one wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(ECKey.generate_key("P-256").as_pem(private=True))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _load(path: Path) -> ECKey:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise PermissionError(f"{path} must be readable by its owner only (mode 0600)")
        text = file.read()
    try:
        key = ECKey.import_key(text)
    except (JoseError, ValueError) as error:
        raise ValueError(f"{path} holds no EC private key") from error
    if not key.is_private or key.curve_name != "P-256":
        raise ValueError(f"{path} holds no P-256 private key")
    return key
