"""The MCP route as raw ASGI: feeds the pipeline's seam and enforces the limits of one exchange.

A body has `BODY_SECONDS` to arrive and `MAXIMUM_REQUEST_BYTES` to be; a peer has `WRITE_SECONDS`
to take what it was sent. Only a call that asks to be told (`Reply.on_closed`) costs a watcher.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import structlog

from mcp_gateway import errors
from mcp_gateway.admission import MAXIMUM_REQUEST_BYTES
from mcp_gateway.http_message import (
    BodyProblem,
    Headers,
    InboundRequest,
    PeerLeftError,
    RawHeaders,
    Reply,
)
from mcp_gateway.relay import send as send_answer

BODY_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 30.0  # a peer that takes nothing for this long is gone
# Set by our HTTP protocol (`web_server`): trailers are dropped before the application sees them.
TRAILER_SAFE: Final = "countersign.trailer_safe"
TARGET_ORIGIN: Final = "countersign.target_origin"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[InboundRequest, Reply], Awaitable[None]]

_logger = structlog.get_logger(__name__)


class McpRoute:
    """An ASGI application around one handler of the seam."""

    def __init__(self, handler: Handler, *, body_seconds: float = BODY_SECONDS) -> None:
        """Take the pipeline, and how long a body may take."""
        self._handler = handler
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        reply = _AsgiReply(receive, send)
        try:
            await self._handler(self._request(scope, receive), reply)
        except PeerLeftError:
            pass
        except Exception:  # the outermost handler: whatever it was, it becomes one error
            _logger.exception("request_failed")
            if not reply.is_started:
                await send_answer(reply, errors.internal_error())
        finally:
            await reply.close()

    def _request(self, scope: Scope, receive: Receive) -> InboundRequest:
        extensions = scope.get("extensions") or {}
        raw_path = scope.get("raw_path") or scope["path"].encode("utf-8")

        async def read_body() -> bytes | BodyProblem:
            return await _read_body(receive, self._body_seconds)

        return InboundRequest(
            method=scope["method"],
            path=raw_path.decode("latin-1"),
            headers=Headers(scope["headers"]),
            read_body=read_body,
            target_origin=extensions.get(TARGET_ORIGIN),
            is_trailer_safe=TRAILER_SAFE in extensions,
        )


class _AsgiReply:
    """The Reply of one ASGI exchange."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None
        self.status = 0

    @property
    def is_started(self) -> bool:
        return self.status > 0

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Nothing to do: to close the stream is the only way to cancel here."""

    def on_closed(self, callback: Callable[[], None]) -> None:
        # Owned here and ended by `close`: it lives no longer than the exchange.
        self._watcher = asyncio.create_task(self._watch(callback))

    async def start(self, status: int, headers: RawHeaders) -> None:
        self.status = status
        await self._bounded(
            {"type": "http.response.start", "status": status, "headers": list(headers)}
        )

    async def write(self, chunk: bytes) -> None:
        if chunk:
            await self._bounded({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, last: bytes = b"") -> None:
        await self._bounded({"type": "http.response.body", "body": last, "more_body": False})

    def abort(self) -> None:
        """Nothing to do: a response that ends without `finish` is cut by the server."""

    async def close(self) -> None:
        """End the watcher."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def _bounded(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS) as deadline:
                await self._send(message)
        except TimeoutError as error:
            if deadline.expired():
                raise PeerLeftError from error
            raise
        except OSError as error:
            raise PeerLeftError from error

    async def _watch(self, callback: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        callback()


async def _read_body(receive: Receive, seconds: float) -> bytes | BodyProblem:
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return BodyProblem(400, "The body did not arrive.")
                body += message.get("body", b"")
                if len(body) > MAXIMUM_REQUEST_BYTES:
                    text = f"The body may have at most {MAXIMUM_REQUEST_BYTES} bytes."
                    return BodyProblem(413, text)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return BodyProblem(408, "The body took too long.")
