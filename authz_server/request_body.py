"""Reads a request body once, within a size and a time."""

from typing import Final

import anyio
from starlette.requests import ClientDisconnect, Request

BODY_WAIT_SECONDS: Final = 10.0  # whoever is honest sends it at once


class BodyError(Exception):
    """There is no whole body; the text says why and may be logged."""


async def body_of(request: Request, maximum_bytes: int) -> bytes:
    """The whole body.

    Raises:
        BodyError: It is longer than `maximum_bytes`, too slow, or cut off.
    """
    body = bytearray()
    try:
        with anyio.fail_after(BODY_WAIT_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > maximum_bytes:
                    raise BodyError("body too long")
    except TimeoutError:
        raise BodyError("body too slow") from None
    except ClientDisconnect:
        raise BodyError("body cut off") from None
    return bytes(body)
