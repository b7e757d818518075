"""One request in a legacy session and its reply, read in the legacy form, given in the modern.

JSON stays JSON and an event stream stays one, event by event. Two things end here and never reach
the agent: requests of the server, which are refused towards it, and the `id` and `retry` fields of
its events, with which a stream that was closed before its answer is taken up again by us (GET with
`Last-Event-ID`; the call itself is never sent twice). An agent could do nothing with them: in its
era streams cannot be resumed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Final

from mcp_gateway.upstream.legacy_handshake import (
    EVENT_STREAM,
    JSON,
    post_message,
    resuming,
    session_headers,
    whole,
)
from mcp_gateway.upstream.legacy_session import LegacySession
from mcp_gateway.upstream.legacy_wire import (
    Answer,
    Asked,
    Heard,
    ModernCall,
    cancelled_notification,
    heard,
    legacy_request,
)
from mcp_gateway.upstream.protocol import (
    UpstreamError,
    UpstreamInvalidError,
    UpstreamRequest,
    UpstreamTooLargeError,
    UpstreamUnreachableError,
)
from mcp_gateway.upstream.server_sent_events import (
    KEEP_ALIVE,
    EventReader,
    EventTooLargeError,
    event_of,
)
from mcp_gateway.upstream.transport import Transport, TransportReply

Pause = Callable[[float], Awaitable[None]]

MAXIMUM_QUESTIONS: Final = 32  # of one server during one call
FRUITLESS_RESUMPTIONS: Final = 5  # in a row, without a single event
DEFAULT_RETRY_MS: Final = 1_000
MAXIMUM_RETRY_MS: Final = 60_000
MAXIMUM_EVENT_ID_LENGTH: Final = 1024
TRANSLATED_ON_THE_LOOP_BYTES: Final = 262_144  # what is longer is taken apart in a thread
_OK: Final = 200
_BAD_REQUEST: Final = 400
_OF_SESSIONS: Final = frozenset({-32000, -32001, -32600})  # what SDKs say of the transport
_TRANSLATED: Final = frozenset({200, 400, 404})  # what the relay may pass on


class LegacyReply:
    """UpstreamReply of one request. `ask` sends it; whoever asked must `close` or `give_up`."""

    def __init__(
        self,
        transport: Transport,
        session: LegacySession,
        request: UpstreamRequest,
        call: ModernCall,
        pause: Pause,
    ) -> None:
        """Take where and how to send, and the request in both forms."""
        self._transport = transport
        self._session = session
        self._request = request
        self._call = call
        self._pause = pause
        self._number = session.next_number()
        self._exchange = AsyncExitStack()
        self._reply: TransportReply
        self._questions = 0
        self.is_open = False  # the server may still be at work on it
        self.is_session_refused = False

    async def ask(self) -> int:
        """Send the request; the status it was answered with.

        Raises:
            UpstreamError: no head arrived.
        """
        body = legacy_request(self._call, self._number)
        headers = session_headers(self._session, self._request)
        self.is_open = True
        await self._send("POST", replace(self._request, headers=headers, body=body))
        self.is_open = self._reply.status == _OK
        return self._reply.status

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._reply.status

    @property
    def media_type(self) -> str:
        """JSON or an event stream, as the server chose."""
        return self._reply.media_type

    @property
    def content_encoding(self) -> str:
        """The content coding; what is not `identity` is not read."""
        return self._reply.content_encoding

    async def chunks(self) -> AsyncIterator[bytes]:
        """The reply in its modern form.

        Raises:
            UpstreamError: as `UpstreamReply.chunks`, or it is not the answer to this request.
        """
        if self.status == _OK and self.media_type == EVENT_STREAM:
            async for event in self._events():
                yield event
        elif self.status in _TRANSLATED and self.media_type == JSON:
            yield await self._json()

    async def close(self) -> None:
        """Close the exchange with the server."""
        await self._exchange.aclose()

    async def give_up(self) -> None:
        """Tell the server that nobody waits any more, then close the exchange.

        Here a closed connection is no cancellation (2025-11-25, "Sending messages").
        """
        try:
            message = cancelled_notification(self._number)
            await post_message(self._transport, self._session, self._request, message)
        finally:
            await self.close()

    async def _send(self, method: str, request: UpstreamRequest) -> None:
        self._reply = await self._exchange.enter_async_context(
            self._transport.send(method, request)
        )

    async def _json(self) -> bytes:
        body = await whole(self._reply, self._request.maximum_response_bytes)
        if len(body) > TRANSLATED_ON_THE_LOOP_BYTES:
            message = await asyncio.to_thread(heard, body, self._call, self._number)
        else:
            message = heard(body, self._call, self._number)
        if not isinstance(message, Answer):
            raise UpstreamInvalidError("the reply is not the answer to this request")
        self.is_open = False
        # Older SDKs say 400 where the revisions say 404. Whether the call ran is not as certain
        # then: it is not sent again, but the next one begins a new session.
        self.is_session_refused = self.status == _BAD_REQUEST and message.error_code in _OF_SESSIONS
        return message.message

    async def _events(self) -> AsyncIterator[bytes]:
        left, fruitless = self._request.maximum_response_bytes, 0
        last_event_id: bytes | None = None
        retry_ms = DEFAULT_RETRY_MS
        while True:
            reader = EventReader()
            is_fruitless = True
            try:
                async for chunk in self._reply.chunks():
                    left -= len(chunk)
                    async for event in self._translated(reader, chunk):
                        is_fruitless = False
                        yield event
                    if not self.is_open:
                        return
            except UpstreamUnreachableError:
                if reader.last_event_id is None and last_event_id is None:
                    raise
            last_event_id = reader.last_event_id or last_event_id
            retry_ms = retry_ms if reader.retry_ms is None else reader.retry_ms
            fruitless = fruitless + 1 if is_fruitless else 0
            if last_event_id is None or fruitless > FRUITLESS_RESUMPTIONS:
                return  # which the relay reports: the stream ended without the answer
            await self._resume(last_event_id, retry_ms, left)

    async def _translated(self, reader: EventReader, chunk: bytes) -> AsyncIterator[bytes]:
        """What the agent gets of one chunk; `is_open` is False when the answer was in it."""
        is_silent, comments = True, reader.comments
        try:
            for event in reader.feed(chunk):
                if not event.data:  # primes a connection, says nothing
                    continue
                message = await self._heard(event.data)
                if isinstance(message, Asked):
                    await self._refuse(message)
                elif message is not None:
                    is_silent = False
                    self.is_open = not isinstance(message, Answer)
                    yield event_of(message.message)
                if not self.is_open:
                    return
        except EventTooLargeError as error:
            raise UpstreamInvalidError("an event is too large") from error
        if is_silent and reader.comments != comments:
            yield KEEP_ALIVE

    async def _heard(self, data: bytes) -> Heard:
        if len(data) > TRANSLATED_ON_THE_LOOP_BYTES:
            return await asyncio.to_thread(heard, data, self._call, self._number)
        return heard(data, self._call, self._number)

    async def _refuse(self, asked: Asked) -> None:
        """Answer a request of the server ourselves: nobody was asked, nobody will be."""
        self._questions += 1
        if self._questions > MAXIMUM_QUESTIONS:
            raise UpstreamInvalidError("the server asks without end")
        with suppress(UpstreamError):  # then it is the server that waits in vain
            await post_message(self._transport, self._session, self._request, asked.reply)

    async def _resume(self, last_event_id: bytes, retry_ms: int, maximum_bytes: int) -> None:
        text = last_event_id.decode("ascii", "replace")
        is_sendable = text.isascii() and text.isprintable() and len(text) <= MAXIMUM_EVENT_ID_LENGTH
        if not is_sendable or not text or retry_ms > MAXIMUM_RETRY_MS:
            raise UpstreamInvalidError("the stream cannot be resumed")
        if maximum_bytes <= 0:
            raise UpstreamTooLargeError
        await self._exchange.aclose()
        await self._pause(retry_ms / 1000)
        await self._send("GET", resuming(self._session, self._request, text, maximum_bytes))
        reply = self._reply
        is_stream = reply.status == _OK and reply.media_type == EVENT_STREAM
        if not is_stream or reply.content_encoding != "identity":
            raise UpstreamUnreachableError(f"the stream was not resumed: status {reply.status}")
