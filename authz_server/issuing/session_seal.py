"""Seals what belongs to one login session: AES-256-GCM, the session's id authenticated with it.

What another site gave us for a person (a refresh token) is as good as the person's login there. In
the database it is unreadable without the key-encryption key, and moved to another session's row it
does not open.
"""

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES: Final = 12

_PURPOSE: Final = b"countersign login session\0"


class SessionSeal:
    """`key` gives the 32 bytes of the active key; read at each use, kept nowhere."""

    def __init__(self, key: Callable[[], bytes], random: Callable[[int], bytes]) -> None:
        self._key = key
        self._random = random

    def seal(self, sid: str, secret: bytes) -> bytes:
        """`secret`, readable again only for this session."""
        nonce = self._random(NONCE_BYTES)
        return nonce + AESGCM(self._key()).encrypt(nonce, secret, _PURPOSE + sid.encode())

    def open(self, sid: str, sealed: bytes) -> bytes | None:
        """What was sealed for this session, or None: another's, altered, or another key's."""
        nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return AESGCM(self._key()).decrypt(nonce, content, _PURPOSE + sid.encode())
        except (InvalidTag, ValueError):
            return None
