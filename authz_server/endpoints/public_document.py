"""A JSON document anybody may read and keep for a while: an ETag, a lifetime, any origin."""

import hashlib
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

MAXIMUM_AGE_SECONDS: Final = 300  # a key is published longer than this before it signs


def public_document(request: Request, body: bytes) -> Response:
    """`body` (JSON), or 304 when the caller has it already (RFC 9110 §13.1.2)."""
    entity_tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "Cache-Control": f"public, max-age={MAXIMUM_AGE_SECONDS}",
        "ETag": entity_tag,
        # Browser clients (MCP Inspector) discover from their own origin; nothing here is private.
        "Access-Control-Allow-Origin": "*",
        "X-Content-Type-Options": "nosniff",
    }
    known = {tag.strip().removeprefix("W/") for tag in _if_none_match(request)}
    if entity_tag in known or "*" in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _if_none_match(request: Request) -> list[str]:
    return request.headers.get("if-none-match", "").split(",")
