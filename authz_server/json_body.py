"""Reads a JSON request body once, within a size and a time, into a typed frozen value.

On the event loop: the decoder would hold the interpreter's lock in a thread as well. A body of
megabytes has a bound on its values, and a shape that leaves its parts as they are
(`reported_tools`).
"""

from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from authz_server.request_body import BodyError, body_of
from token_exchange.claims import Refusal

# What decoding raises for a body that is not one.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


async def json_of(
    request: Request, shape: type[T], maximum_bytes: int, *, maximum_commas: int | None = None
) -> T | Refusal:
    """The body as `shape`, or why it is not one. The values are still the caller's word.

    Every value of a list or an object but its first has a comma before it; those in texts count.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return malformed("content type")
    try:
        body = await body_of(request, maximum_bytes)
        if maximum_commas is not None and body.count(b",") > maximum_commas:
            return malformed("too many values")
        return msgspec.json.decode(body, type=shape)
    except BodyError as error:
        return malformed(str(error))
    except UNREADABLE:
        # The problem's own text could repeat what was sent.
        return malformed("not JSON of the expected shape")


def malformed(detail: str) -> Refusal:
    """The refusal of a body that is not what it should be; `detail` is for the audit alone."""
    return Refusal("invalid_request", "The request cannot be read.", detail, "body.form")
