"""A legacy session as the string its agent carries: everything is in it, and only we can read it.

AES-256-GCM under a key derived from the gateway's own (`GatewayKey.derived`): no key derivation
per request, no seed to configure, and an id outlives a restart and serves every worker of the
key. Nonces are random; 2^32 sessions of one key stay within NIST SP 800-38D §8.3. An id has one
spelling. It names a session and proves nothing about who presents it.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_gateway.caller import Caller
from mcp_gateway.eras.legacy import ClientInfo
from registry.blocks import agents_of_chain

PURPOSE: Final = b"countersign/legacy-session/v1"
MAXIMUM_ID_LENGTH: Final = 4_096  # more than any endpoint and client name need
_NONCE_BYTES: Final = 12

_encode = msgspec.json.Encoder().encode


class Session(msgspec.Struct, frozen=True, array_like=True):
    """What an id says. `issued_at` is Unix seconds; `uid` differs between any two sessions.

    `owner` is the one worker that serves it where several do; empty where one serves the Gateway.
    `principal` may use it; `holder` is whose share of the places it takes (`holder_of`).
    """

    uid: str
    principal: str
    endpoint: str
    version: str
    issued_at: int
    client: ClientInfo | None
    owner: str = ""
    holder: str = ""


_decode = msgspec.json.Decoder(Session).decode


def principal_of(caller: Caller) -> str:
    """Who owns a session: a digest over issuer, subject, client and every agent of the chain.

    Not the token, its key or its run: those change when an agent refreshes or proves itself anew.
    """
    claims = caller.claims
    chain = agents_of_chain(claims.act, claims.agent)
    named = _encode((claims.iss, claims.sub, claims.client_id, chain))
    return base64.urlsafe_b64encode(hashlib.sha256(named).digest()).decode("ascii")


class SessionSeal:
    """Seals sessions and opens what this gateway sealed."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        """Take 32 bytes of key and the source of nonces."""
        self._cipher = AESGCM(key)
        self._random = random

    def seal(self, session: Session) -> str:
        """The id of a session: visible ASCII (2025-11-25, "Session Management")."""
        nonce = self._random(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, _encode(session), PURPOSE)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    def open(self, sealed_id: str) -> Session | None:
        """The session of an id; None for whatever this key did not seal, byte for byte."""
        if len(sealed_id) > MAXIMUM_ID_LENGTH:
            return None
        try:
            sealed = base64.b64decode(sealed_id + "=" * (-len(sealed_id) % 4), b"-_", validate=True)
            if base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii") != sealed_id:
                return None
            opened = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], PURPOSE)
            return _decode(opened)
        except (binascii.Error, ValueError, InvalidTag, msgspec.MsgspecError):
            return None
