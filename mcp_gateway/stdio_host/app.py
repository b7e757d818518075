"""The host as streamable HTTP of 2025-11-25 for the gateway beside it, as raw ASGI.

In order: the server the path names · POST or DELETE · a body that is one message · its session
(404 when it is not known, or when its process has ended or works for another credential) · the
process. A request that wants progress is answered with an event stream, every other with JSON.
A caller that goes away, or says so with `notifications/cancelled`, cancels its request.

Who may connect at all is decided before a byte is read (`server`).
"""

import asyncio
from contextlib import suppress
from typing import Final

from mcp_gateway.asgi import Receive, Scope, Send
from mcp_gateway.http_message import RawHeaders
from mcp_gateway.stdio_host.declared import StdioServer, credential_of
from mcp_gateway.stdio_host.messages import (
    SERVER_ENDED,
    Message,
    Request,
    answer_for,
    cancelled_id,
    decoded,
    error_for,
    request_of,
)
from mcp_gateway.stdio_host.process import Call, ProcessEndedError
from mcp_gateway.stdio_host.sessions import HostSession, NotNowError, Sessions
from mcp_gateway.upstream.protocol import HOLDER_HEADER

MAXIMUM_BODY_BYTES: Final = 8_388_608  # the gateway takes half of it from an agent
BODY_SECONDS: Final = 10.0
SWEEP_SECONDS: Final = 60.0
INITIALIZE: Final = "initialize"
CANCELLED: Final = "notifications/cancelled"
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream")


class StdioHostApp:
    """The ASGI application over the sessions."""

    def __init__(self, sessions: Sessions) -> None:
        """Take the sessions; whoever made them closes them."""
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            return
        server = self._sessions.servers.get(str(scope["path"]).removeprefix("/"))
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if server is None:
            await _answer(send, 404)
        elif scope["method"] == "DELETE":
            await self._delete(server, headers, send)
        elif scope["method"] == "POST":
            await self._post(server, headers, receive, send)
        else:
            await _answer(send, 405, headers=((b"allow", b"POST, DELETE"),))

    async def sweep_for_ever(self) -> None:
        """End idle sessions, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._sessions.sweep()

    async def _delete(self, server: StdioServer, headers: dict[str, str], send: Send) -> None:
        # Not by credential: it may have been renewed, and it is the session that ends.
        session = self._sessions.get(headers.get("mcp-session-id", ""), server)
        if session is None:
            await _answer(send, 404)
            return
        self._sessions.end(session)
        await _answer(send, 200)

    async def _post(
        self, server: StdioServer, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        body = await _body(receive)
        message = None if body is None else decoded(body)
        if message is None:
            await _answer(send, 400, error_for(b"", -32700, "The body is not one message."))
            return
        credential = credential_of(server, headers)
        session_id = headers.get("mcp-session-id")
        if session_id is None:
            holder = headers.get(HOLDER_HEADER.lower())
            await self._initialize(server, credential, message, send, holder)
            return
        session = self._sessions.find(session_id, server, credential)
        if session is None:
            await _answer(send, 404, error_for(b"", -32001, "The session is not known."))
        elif message.method is None or not message.raw_id:
            _take_notification(session, message)
            await _answer(send, 202)
        else:
            await self._request(session, message, receive, send)

    async def _initialize(
        self,
        server: StdioServer,
        credential: str | None,
        message: Message,
        send: Send,
        holder: str | None,
    ) -> None:
        greeting = request_of(message)
        if message.method != INITIALIZE or not message.raw_id or greeting is None:
            await _answer(send, 400, error_for(b"", -32000, "Begin a session with initialize."))
            return
        try:
            session = await self._sessions.begin(server, credential, greeting, holder)
        except NotNowError as error:
            body = error_for(greeting.id, SERVER_ENDED, f"Not now: {error}.")
            await _answer(send, 503, body, ((b"retry-after", b"1"),))
            return
        name = (b"mcp-session-id", session.id.encode("ascii"))
        await _answer(send, 200, answer_for(greeting.id, session.process.initialized), (name,))

    async def _request(
        self, session: HostSession, message: Message, receive: Receive, send: Send
    ) -> None:
        request = request_of(message)
        if request is None or request.id in session.numbers or request.method == INITIALIZE:
            await _answer(send, 400, error_for(message.raw_id, -32600, "Not a proper request."))
            return
        try:
            number, call = session.process.ask(request)
        except ProcessEndedError:
            await _answer(send, 200, error_for(request.id, SERVER_ENDED, "The server ended."))
            return
        session.numbers[request.id] = number
        reply = asyncio.ensure_future(_reply(session, request, call, send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({reply, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            session.numbers.pop(request.id, None)
            session.process.leave(number)
            for task in (reply, gone):
                task.cancel()
            await asyncio.gather(reply, gone, return_exceptions=True)


async def _reply(session: HostSession, request: Request, call: Call, send: Send) -> None:
    """Say what is said to a call; at the latest after `call_seconds` an error of ours."""
    say = _say_in_events if request.token is not None else _say_in_json
    if request.token is not None:
        await send({"type": "http.response.start", "status": 200, "headers": [_EVENTS]})
    try:
        async with asyncio.timeout(session.server.call_seconds) as limit:
            async for message in call.messages():
                await say(send, message)
    except ProcessEndedError:
        await say(send, error_for(request.id, SERVER_ENDED, "The server ended."))
    except TimeoutError:
        if not limit.expired():
            raise
        await say(send, error_for(request.id, SERVER_ENDED, "The server took too long."))
    if request.token is not None:
        await send({"type": "http.response.body", "body": b""})


async def _say_in_events(send: Send, message: bytes) -> None:
    event = b"event: message\ndata: %b\n\n" % message
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def _say_in_json(send: Send, message: bytes) -> None:
    """The one message there is: without a token no progress is told."""
    await _answer(send, 200, message)


def _take_notification(session: HostSession, message: Message) -> None:
    """Only cancellation concerns the process: it was greeted by us, and sees no answers."""
    if message.method != CANCELLED:
        return
    cancelled = cancelled_id(message)
    number = None if cancelled is None else session.numbers.pop(cancelled, None)
    if number is not None:
        session.process.leave(number)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes | None:
    body = bytearray()
    with suppress(TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            while (message := await receive())["type"] != "http.disconnect":
                body += message.get("body", b"")
                if len(body) > MAXIMUM_BODY_BYTES:
                    return None
                if not message.get("more_body", False):
                    return bytes(body)
    return None


async def _answer(send: Send, status: int, body: bytes = b"", headers: RawHeaders = ()) -> None:
    length = (b"content-length", str(len(body)).encode("ascii"))
    kind = (_JSON,) if body else ()
    await send(
        {"type": "http.response.start", "status": status, "headers": [*kind, length, *headers]}
    )
    await send({"type": "http.response.body", "body": body})
