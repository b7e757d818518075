"""Reads a JSON request body once, within a size and a time, into a typed frozen value."""

from typing import TypeVar

import msgspec
from starlette.requests import Request

from authz_server.request_body import BodyError, body_of
from token_exchange.claims import Refusal

T = TypeVar("T")


async def json_of(request: Request, shape: type[T], maximum_bytes: int) -> T | Refusal:
    """The body as `shape`, or why it is not one. The values are still the caller's word."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return _malformed("content type")
    try:
        return msgspec.json.decode(await body_of(request, maximum_bytes), type=shape)
    except BodyError as error:
        return _malformed(str(error))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # The problem's own text could repeat what was sent.
        return _malformed("not JSON of the expected shape")


def _malformed(detail: str) -> Refusal:
    return Refusal("invalid_request", "The request cannot be read.", detail, "body.form")
