"""Reads a JSON request body once, within a size and a time, into a typed frozen value.

A large one is decoded in a thread: the event loop has heartbeats to send meanwhile.
"""

from functools import partial
from typing import Final, TypeVar

import msgspec
from anyio import to_thread
from starlette.requests import Request

from authz_server.request_body import BodyError, body_of
from token_exchange.claims import Refusal

LARGE_BYTES: Final = 65_536  # decoded in well under a millisecond

T = TypeVar("T")


async def json_of(request: Request, shape: type[T], maximum_bytes: int) -> T | Refusal:
    """The body as `shape`, or why it is not one. The values are still the caller's word."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return _malformed("content type")
    try:
        body = await body_of(request, maximum_bytes)
        if len(body) <= LARGE_BYTES:
            return decode(body, shape)
        return await to_thread.run_sync(partial(decode, body, shape))
    except BodyError as error:
        return _malformed(str(error))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # The problem's own text could repeat what was sent.
        return _malformed("not JSON of the expected shape")


def decode(body: bytes, shape: type[T]) -> T:
    """The body as `shape`.

    Raises:
        MsgspecError, UnicodeDecodeError, RecursionError: It is not one.
    """
    return msgspec.json.decode(body, type=shape)


def _malformed(detail: str) -> Refusal:
    return Refusal("invalid_request", "The request cannot be read.", detail, "body.form")
