"""Takes a compact JWS apart, strictly, before anything in it is believed (RFC 7515 §7.1).

Order: type and size, the alphabet, canonical base64url, then the header as JSON. One JWS has one
spelling: whitespace, padding, stray bits, duplicate members and other JSON dialects are refused,
so that no two parsers can read different things (RFC 8725 §2.6). Left out: whether any of it is
true. Nothing here looks at a key.
"""

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from token_exchange.claims import Refusal
from token_exchange.token_types import MAXIMUM_TOKEN_BYTES

MAXIMUM_JSON_DEPTH: Final = 16  # a full actor chain needs 6

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# A string ends at its quote or at the end of the text: one pass, whatever is unterminated.
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
# What JSON can spell but UTF-8 or a database text cannot hold.
_UNUSABLE_TEXT: Final = re.compile("[\x00\ud800-\udfff]")

_DESCRIPTIONS: Final = {
    "jws.type": "The token is not a text.",
    "jws.size": "The token is too long.",
    "jws.form": "The token is not a compact JWS.",
    "jws.header": "The token's header is not acceptable JSON.",
}


@dataclass(frozen=True, slots=True)
class UnverifiedJws:
    """The parts of a well-formed compact JWS. Nothing in it has been verified."""

    header: dict[str, Any]
    payload: bytes
    signing_input: bytes
    signature: bytes


def parse_compact_jws(
    unverified_jws: object, *, refuse_as: str, maximum_bytes: int = MAXIMUM_TOKEN_BYTES
) -> UnverifiedJws | Refusal:
    """The parts of a compact JWS, or why it is none (RFC 7515 §5.2 steps 1-5).

    `refuse_as` is the OAuth error code of a refusal.
    """
    if not isinstance(unverified_jws, str):
        return _refusal("jws.type", refuse_as)
    if len(unverified_jws) > maximum_bytes:
        return _refusal("jws.size", refuse_as)
    if _COMPACT.fullmatch(unverified_jws) is None:
        return _refusal("jws.form", refuse_as)
    header_part, payload_part, signature_part = unverified_jws.split(".")
    header = decode_base64url(header_part)
    payload = decode_base64url(payload_part)
    signature = decode_base64url(signature_part)
    if header is None or payload is None or signature is None:
        return _refusal("jws.form", refuse_as)
    members = parse_json_object(header)
    if members is None:
        return _refusal("jws.header", refuse_as)
    signing_input = f"{header_part}.{payload_part}".encode("ascii")
    return UnverifiedJws(members, payload, signing_input, signature)


def decode_base64url(text: str) -> bytes | None:
    """The bytes of unpadded base64url, or None unless `text` is their only spelling.

    A second spelling of the same bytes would be a second token id, thumbprint or cache key for
    the same thing (RFC 7515 §2).
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if encode_base64url(data) == text else None


def encode_base64url(data: bytes) -> str:
    """Unpadded base64url (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def parse_json_object(data: bytes) -> dict[str, Any] | None:
    """The members of a JSON object, or None if it is anything else; strict as `parse_json`."""
    value = parse_json(data)
    return value if isinstance(value, dict) else None


def parse_json(data: bytes) -> object | None:
    """The value of a JSON text, or None if it is not acceptable (or is `null`).

    Refused: text that is not UTF-8, duplicate members (RFC 7519 §4), NaN and infinities (also by
    overflow), nesting deeper than `MAXIMUM_JSON_DEPTH`, NUL and lone surrogates in texts.
    """
    if _is_too_deep(data):
        return None
    try:
        value: object = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_members,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except ValueError:
        return None
    # Only an escape can spell what UTF-8 cannot hold.
    return None if b"\\u" in data and not _is_usable(value) else value


def _refusal(rule: str, code: str) -> Refusal:
    return Refusal(code, _DESCRIPTIONS[rule], _DESCRIPTIONS[rule], rule)


def _is_too_deep(data: bytes) -> bool:
    if data.count(b"{") + data.count(b"[") <= MAXIMUM_JSON_DEPTH:
        return False  # the usual case, without looking at the strings
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        found = match.group()
        if found in b"[{":
            depth += 1
            if depth > MAXIMUM_JSON_DEPTH:
                return True
        elif found in b"]}":
            depth -= 1
    return False


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _is_usable(value: object) -> bool:
    if isinstance(value, str):
        return _UNUSABLE_TEXT.search(value) is None
    if isinstance(value, dict):
        return all(_is_usable(name) and _is_usable(member) for name, member in value.items())
    if isinstance(value, list):
        return all(_is_usable(item) for item in value)
    return True
