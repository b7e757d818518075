"""A target's credential in the gateway's hands: where it goes, and how to tell it leaked. Pure.

`Credential.traces` are the byte sequences that must never appear in anything sent to an agent:
the secret as it is, and as JSON, percent-encoding and base64 would show it.
"""

import base64
import binascii
import json
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final
from urllib.parse import quote

import msgspec

from mcp_gateway.upstream.protocol import SessionIdentity
from registry.blocks import Subject, agents_of_chain
from token_exchange.claims import AccessTokenClaims

MINIMUM_TRACE_LENGTH: Final = 6  # below this a secret is a common word, and no secret
MINIMUM_KEY_LENGTH: Final = 16  # a shorter user name is a name, and a reply may well contain it
MAXIMUM_SECRET_BYTES: Final = 16_384
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")  # RFC 9110 §5.6.2
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
# What frames or routes the request is ours; a credential header may not replace it.
_OURS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SCHEME: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9-]{1,19}) +(?P<secret>\S.*)")
_JWT: Final = re.compile(r"[\w-]+\.[\w-]*\.(?P<signature>[\w-]{40,})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """One header for the target. `expires_at` is NumericDate seconds; None: not stated."""

    header: str
    value: str = field(repr=False)
    expires_at: int | None
    traces: tuple[bytes, ...] = field(repr=False)
    is_secret: bool = False  # a secret of the target's own, not a token that we issued
    session: SessionIdentity | None = None

    def after(self, earlier: Iterable["Credential"]) -> "Credential":
        """The same, with the traces of those the server was given before and may still echo."""
        traces = dict.fromkeys(self.traces)
        for credential in earlier:
            traces.update(dict.fromkeys(credential.traces))
        return replace(self, traces=tuple(traces))

    def for_sessions_of(
        self, principal: Hashable, subjects: frozenset[Subject], holder: str = ""
    ) -> "Credential":
        """The same, and for whom a server may keep a session: this principal with this secret.

        A token is renewed within one session; another secret is another identity.
        """
        secret = sha256(self.value.encode()).digest() if self.is_secret else b""
        return replace(self, session=SessionIdentity((principal, secret), subjects, holder))


class _StaticSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    header: str
    value: str


def holder_of(claims: AccessTokenClaims) -> str:
    """Whose share a session counts against: the person with the agent that acts for them.

    Neither client nor the rest of the chain: of those one person may have any number.
    """
    acting = agents_of_chain(claims.act, claims.agent)[:1]
    return sha256(msgspec.json.encode((claims.iss, claims.sub, acting))).hexdigest()


def bearer_credential(token: str, expires_at: int | None) -> Credential | None:
    """The credential of an issued access token; None when it cannot stand in a header."""
    return _credential("Authorization", f"Bearer {token}", expires_at)


def static_credential(plaintext: bytes, expires_at: int | None) -> Credential | None:
    """The credential of an unsealed `{"header", "value"}`; None when it is not one."""
    try:
        secret = msgspec.json.decode(plaintext, type=_StaticSecret)
    except msgspec.MsgspecError:
        return None
    credential = _credential(secret.header, secret.value, expires_at)
    return None if credential is None else replace(credential, is_secret=True)


def _credential(header: str, value: str, expires_at: int | None) -> Credential | None:
    lower = header.lower()
    is_usable = (
        _HEADER_NAME.fullmatch(header) is not None
        and _HEADER_VALUE.fullmatch(value) is not None
        and len(value) <= MAXIMUM_SECRET_BYTES
        and lower not in _OURS
        and not lower.startswith("mcp-")
    )
    traces = traces_of(value) if is_usable else ()
    # INVARIANT: what cannot be searched for in replies is not used.
    return Credential(header, value, expires_at, traces) if traces else None


def traces_of(value: str) -> tuple[bytes, ...]:
    """Every spelling of the secrets inside a header value that a search must find."""
    found: set[bytes] = set()
    for secret in _secrets_of(value):
        found |= _spellings(secret)
    return tuple(sorted(found))


def _secrets_of(value: str) -> set[str]:
    scheme = _SCHEME.fullmatch(value)
    secret = value if scheme is None else scheme["secret"]
    if scheme is not None and scheme["scheme"].lower() == "basic":
        return {secret, *_basic_secrets(secret)}
    jwt = _JWT.fullmatch(secret)
    # Without its signature a token is worth nothing, and header and payload alone may be quoted
    # without harm; so the signature is what is looked for.
    return {secret if jwt is None else jwt["signature"]}


def _basic_secrets(encoded: str) -> set[str]:
    """RFC 7617 §2: user, colon, password. A long user is a key with an empty or idle password."""
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return set()
    user, _, password = decoded.partition(":")
    is_key = len(user) >= MINIMUM_KEY_LENGTH or len(password) < MINIMUM_TRACE_LENGTH
    return {decoded, password, *((user,) if is_key else ())}


def _spellings(secret: str) -> set[bytes]:
    if len(secret) < MINIMUM_TRACE_LENGTH:
        return set()
    raw = secret.encode()
    in_json = json.dumps(secret)[1:-1]
    percent = quote(secret, safe="")
    return {
        raw,
        in_json.encode(),
        in_json.replace("/", "\\/").encode(),
        percent.encode(),
        re.sub(r"%[0-9A-F]{2}", lambda match: match.group().lower(), percent).encode(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
        *_base64_traces(raw),
    }


def _base64_traces(raw: bytes) -> set[bytes]:
    """The secret inside any base64 text, whatever stands before it: three alignments."""
    found: set[bytes] = set()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        # Characters that also depend on the neighbouring bytes are left out on both sides.
        start = (0, 2, 3)[shift]
        end = (shift + len(raw)) * 8 // 6
        inner = encoded[start:end]
        if len(inner) >= MINIMUM_TRACE_LENGTH:
            found.update((inner, inner.replace(b"+", b"-").replace(b"/", b"_")))
    return found
