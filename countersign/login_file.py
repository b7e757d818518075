"""The operator's own key and the token bound to it, kept between commands.

One directory per configuration, 0700; the key never leaves it and the token is worth nothing
without it (RFC 9449). Written atomically, so that two commands at once never see half a file.
"""

import json
import os
import secrets
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from token_exchange.token_types import DPOP_PROOF_TYP, SIGNING_ALGORITHM


@dataclass(frozen=True, slots=True)
class ProofKey:
    """A P-256 key that signs DPoP proofs (RFC 9449 §4.2)."""

    key: ECKey
    clock: Callable[[], float]

    @property
    def thumbprint(self) -> str:
        """RFC 7638."""
        return self.key.thumbprint()

    @property
    def public_jwk(self) -> dict[str, Any]:
        """The public half, with nothing but what RFC 7638 needs."""
        return public_half(self.key)

    def proof(
        self, method: str, url: str, access_token: str | None = None, nonce: str | None = None
    ) -> str:
        """A fresh proof for one request; bound to `access_token` when one is sent.

        `nonce` is what the server asked for last (RFC 9449 §8).
        """
        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url.split("?", 1)[0],
            "iat": int(self.clock()),
        }
        if access_token is not None:
            digest = sha256(access_token.encode()).digest()
            claims["ath"] = urlsafe_b64encode(digest).rstrip(b"=").decode()
        if nonce is not None:
            claims["nonce"] = nonce
        header = {"typ": DPOP_PROOF_TYP, "alg": SIGNING_ALGORITHM, "jwk": self.public_jwk}
        return jwt.encode(header, claims, self.key)


def public_half(key: ECKey) -> dict[str, Any]:
    """The public JWK of an EC key, reduced to its required members."""
    whole = key.as_dict(private=False)
    return {name: whole[name] for name in ("kty", "crv", "x", "y")}


def load_or_create_key(path: Path, clock: Callable[[], float]) -> ProofKey:
    """The key in `path`, made and stored 0600 the first time."""
    try:
        return ProofKey(ECKey.import_key(json.loads(path.read_text())), clock)
    except (JoseError, ValueError, TypeError) as error:
        raise OSError(f"{path} holds no private P-256 key as JWK") from error
    except FileNotFoundError:
        key = ECKey.generate_key("P-256")
        write_private(path, json.dumps(key.as_dict(private=True)))
        return ProofKey(key, clock)


def write_private(path: Path, text: str) -> None:
    """Replace `path` by a file of ours, 0600, in one step."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class SavedLogin:
    """Who is logged in at which issuer. `expires_at` is NumericDate seconds."""

    issuer: str
    access_token: str
    expires_at: int


class LoginDirectory:
    """`~/.config/countersign`: the operator's key and last login."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._directory = directory.expanduser()
        self._clock = clock

    def key(self) -> ProofKey:
        """The operator's key, made the first time it is needed."""
        return load_or_create_key(self._directory / "key.json", self._clock)

    def save(self, login: SavedLogin) -> None:
        """Keep a login for the next command."""
        text = {
            "issuer": login.issuer,
            "access_token": login.access_token,
            "expires_at": login.expires_at,
        }
        write_private(self._directory / "login.json", json.dumps(text))

    def load(self, issuer: str) -> SavedLogin | None:
        """The login at `issuer`, unless there is none or it has expired."""
        saved = self._saved(issuer)
        return None if saved is None or saved.expires_at <= self._clock() else saved

    def has_expired(self, issuer: str) -> bool:
        """Whether there was a login at `issuer` that is over."""
        saved = self._saved(issuer)
        return saved is not None and saved.expires_at <= self._clock()

    def _saved(self, issuer: str) -> SavedLogin | None:
        try:
            saved = SavedLogin(**json.loads((self._directory / "login.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return saved if saved.issuer == issuer else None
