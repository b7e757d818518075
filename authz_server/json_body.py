"""Reads a JSON request body once, within a size and a time, into a typed frozen value."""

from typing import Final, TypeVar

import anyio
import msgspec
from starlette.requests import ClientDisconnect, Request

from token_exchange.claims import Refusal

T = TypeVar("T")

BODY_WAIT_SECONDS: Final = 10.0


async def json_of(request: Request, shape: type[T], maximum_bytes: int) -> T | Refusal:
    """The body as `shape`, or why it is not one. The values are still the caller's word."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return _malformed("content type")
    body = bytearray()
    try:
        with anyio.fail_after(BODY_WAIT_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > maximum_bytes:
                    return _malformed("body too long")
    except TimeoutError:
        return _malformed("body too slow")
    except ClientDisconnect:
        return _malformed("body cut off")
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # The problem's own text could repeat what was sent.
        return _malformed("not JSON of the expected shape")


def _malformed(detail: str) -> Refusal:
    return Refusal("invalid_request", "The request cannot be read.", detail, "body.form")
