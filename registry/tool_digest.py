"""The digest that pins a tool definition. Pure.

Two definitions have one digest exactly when a client would see the same tool: the JSON values are
equal, whatever the order of members. Numbers are compared as JSON text, so `1` and `1.0` differ:
a schema that changed its spelling is shown to the operator rather than judged equal.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MAXIMUM_DEFINITION_BYTES: Final = 65_536  # a description of that size is a prompt, not a tool

_ENCODER: Final = msgspec.json.Encoder(order="sorted")


def canonical_definition(definition: Mapping[str, Any]) -> bytes:
    """The bytes the digest is taken of: UTF-8 JSON, members sorted, no blanks."""
    return _ENCODER.encode(definition)


def tool_digest(definition: Mapping[str, Any]) -> str:
    """`sha-256:<base64url>` of the canonical definition."""
    digest = hashlib.sha256(canonical_definition(definition)).digest()
    return "sha-256:" + urlsafe_b64encode(digest).rstrip(b"=").decode()
