"""The messages around the calls of a legacy session: its beginning, its end, and what is posted.

2025-11-25, "Lifecycle" and "Session management": `initialize`, its answer with the negotiated
version and perhaps a session id, `notifications/initialized`; DELETE at the end. From the second
message on every request carries both headers.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from mcp_gateway.upstream.legacy_session import LegacySession
from mcp_gateway.upstream.legacy_wire import (
    ModernCall,
    initialize_request,
    initialized_notification,
    is_session_id,
    negotiated_version,
)
from mcp_gateway.upstream.protocol import (
    HOLDER_HEADER,
    STDIO_SCHEME,
    UpstreamFullError,
    UpstreamInvalidError,
    UpstreamReply,
    UpstreamRequest,
    UpstreamTooLargeError,
    told_media_type,
)
from mcp_gateway.upstream.server_sent_events import EventReader, EventTooLargeError
from mcp_gateway.upstream.transport import Transport

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
SESSION_HEADER: Final = "Mcp-Session-Id"
VERSION_HEADER: Final = "MCP-Protocol-Version"
MAXIMUM_HANDSHAKE_BYTES: Final = 1_048_576  # `instructions` may be long
MAXIMUM_ACCEPTED_BYTES: Final = 65_536  # what a server says to a notification matters to nobody
MESSAGE_SECONDS: Final = 5.0
_OK: Final = 200
_UNAVAILABLE: Final = 503
_SUCCESS: Final = range(200, 300)
_OF_BODY: Final = frozenset({"content-type", "accept"})


class StatusRefusedError(Exception):
    """The server answered the handshake with an HTTP status that is the caller's to act on."""

    def __init__(self, status: int) -> None:
        """Take the status."""
        super().__init__(f"HTTP {status}")
        self.status = status


async def begin_session(
    transport: Transport, request: UpstreamRequest, call: ModernCall
) -> LegacySession:
    """Begin a session for whoever sends `request`.

    The one who cancels this leaves a session at the server that ends by its own idle time.

    Raises:
        StatusRefusedError: the credential was refused (401).
        UpstreamFullError: the stdio host has no process for it.
        UpstreamError: no answer, or not a legacy server's.
    """
    headers = (*_plain_headers(request), *_holder(request))
    asked = _with_body(request, headers, initialize_request(call))
    async with transport.send("POST", asked) as reply:
        if reply.status in {401, 403}:
            raise StatusRefusedError(reply.status)
        if reply.status == _UNAVAILABLE and request.url.startswith(STDIO_SCHEME):
            raise UpstreamFullError("the stdio host has no process for it now")
        if reply.status != _OK or reply.content_encoding != "identity":
            raise UpstreamInvalidError(f"initialize was answered with status {reply.status}")
        version = await _negotiated(reply)
        session_id = reply.header(SESSION_HEADER)
    if session_id is not None and not is_session_id(session_id):
        raise UpstreamInvalidError("the session id has characters it may not have")
    subjects = frozenset() if request.session is None else request.session.subjects
    session = LegacySession(session_id, version, replace(request, body=b""), subjects)
    await post_message(transport, session, request, initialized_notification())
    return session


async def post_message(
    transport: Transport, session: LegacySession, request: UpstreamRequest, body: bytes
) -> None:
    """Post what has no answer: a notification, or an answer to the server.

    Raises:
        UpstreamError: it was not taken.
    """
    message = _short(_with_body(request, session_headers(session, request), body))
    async with transport.send("POST", message) as reply:
        if reply.status not in _SUCCESS:
            raise UpstreamInvalidError(f"a message was answered with status {reply.status}")
        if not reply.media_type:  # nothing was said: read to its end, so the connection stays
            await whole(reply, MAXIMUM_ACCEPTED_BYTES)


async def end_session(transport: Transport, session: LegacySession) -> None:
    """Tell the server that a session is over; it may refuse to hear it (405).

    Raises:
        UpstreamError: it could not be told.
    """
    headers = _without_body(session_headers(session, session.last))
    async with transport.send("DELETE", _short(_with_body(session.last, headers, b""))):
        pass


def session_headers(
    session: LegacySession, request: UpstreamRequest
) -> tuple[tuple[str, str], ...]:
    """The headers of a request within a session."""
    of_session = () if session.id is None else ((SESSION_HEADER, session.id),)
    return (*_plain_headers(request), (VERSION_HEADER, session.version), *of_session)


def resuming(
    session: LegacySession, request: UpstreamRequest, last_event_id: str, maximum_bytes: int
) -> UpstreamRequest:
    """The GET that takes a stream up after `last_event_id` ("Resumability and redelivery")."""
    headers = (
        *_without_body(session_headers(session, request)),
        ("Accept", EVENT_STREAM),
        ("Last-Event-ID", last_event_id),
    )
    return replace(request, headers=headers, body=b"", maximum_response_bytes=maximum_bytes)


def _plain_headers(request: UpstreamRequest) -> tuple[tuple[str, str], ...]:
    """Without those of the modern era; no credential may stand in an `Mcp-*` header."""
    return tuple(
        (name, value) for name, value in request.headers if not name.lower().startswith("mcp-")
    )


def _holder(request: UpstreamRequest) -> tuple[tuple[str, str], ...]:
    """Whose share a process counts against: for our own host beside us alone."""
    holder = "" if request.session is None else request.session.holder
    is_told = holder and request.url.startswith(STDIO_SCHEME)
    return ((HOLDER_HEADER, holder),) if is_told else ()


def _without_body(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in headers if name.lower() not in _OF_BODY)


def _short(request: UpstreamRequest) -> UpstreamRequest:
    """For messages without an answer: little is read, and not for long."""
    return replace(
        request,
        timeout_seconds=min(request.timeout_seconds, MESSAGE_SECONDS),
        maximum_response_bytes=MAXIMUM_ACCEPTED_BYTES,
    )


def _with_body(
    request: UpstreamRequest, headers: tuple[tuple[str, str], ...], body: bytes
) -> UpstreamRequest:
    return replace(
        request, headers=headers, body=body, maximum_response_bytes=MAXIMUM_HANDSHAKE_BYTES
    )


async def _negotiated(reply: UpstreamReply) -> str:
    """The version in the first answer of a JSON or event-stream reply."""
    async for message in _messages(reply):
        version = negotiated_version(message)
        if version is not None:
            return version
    raise UpstreamInvalidError("initialize was not answered")


async def _messages(reply: UpstreamReply) -> AsyncIterator[bytes]:
    if reply.media_type == JSON:
        yield await whole(reply, MAXIMUM_HANDSHAKE_BYTES)
        return
    if reply.media_type != EVENT_STREAM:
        raise UpstreamInvalidError(f"the reply has {told_media_type(reply.media_type)}")
    reader = EventReader(MAXIMUM_HANDSHAKE_BYTES)
    try:
        async for chunk in reply.chunks():
            for event in reader.feed(chunk):
                if event.data:
                    yield event.data
    except EventTooLargeError as error:
        raise UpstreamInvalidError("an event is too large") from error


async def whole(reply: UpstreamReply, maximum_bytes: int) -> bytes:
    """All of a body.

    Raises:
        UpstreamError: it broke off, fell silent or grew too large.
    """
    body = bytearray()
    async for chunk in reply.chunks():
        body += chunk
        if len(body) > maximum_bytes:
            raise UpstreamTooLargeError
    return bytes(body)
