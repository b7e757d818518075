"""Step 9, what comes back: the upstream's reply to the agent, byte for byte or not at all.

JSON stays JSON and an event stream stays one; nothing is added, renamed or decoded for the agent.
Only the media type of the reply's head is passed on, so neither `WWW-Authenticate` nor `Set-Cookie`
reaches the agent. Before bytes leave they are searched for the credential (`echo_guard`) and
looked into just enough to know whose answer it is and how it ended: a reply to another request id
and a request from the server are refused. An event is sent when it is whole, so an interrupted
stream can always be ended by one readable error. A long JSON reply is sent as it comes and brought
to its end only when all of it was looked into: cut, it is no reply. The search takes a slice at a
time, so that no server can hold up the calls of the others.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import msgspec

from audit_log.event import Outcome
from mcp_gateway.audit_trail import CallResult
from mcp_gateway.echo_guard import EchoGuard
from mcp_gateway.http_message import Answer, RawHeaders, Reply
from mcp_gateway.inbound import RequestId
from mcp_gateway.upstream.protocol import UpstreamInvalidError, UpstreamReply
from mcp_gateway.upstream.server_sent_events import EventReader, EventTooLargeError

LOOKED_AT_BYTES: Final = 65_536  # a few ms of searching at worst
BUFFERED_BYTES: Final = 262_144  # up to here a JSON reply is looked at whole before it leaves
JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
# A JSON-RPC error may come with one of these; everything else is the upstream's trouble, not ours
# to repeat: a 403 would read as a challenge of the gateway.
_ERROR_STATUSES: Final = frozenset({400, 404})
_OK: Final = 200
# An empty line after any end of a line (WHATWG HTML §9.2.6): where `EventReader` dispatches.
_EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")

STREAM_HEADERS: Final[RawHeaders] = (
    (b"content-type", EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)
_JSON_HEADERS: Final[RawHeaders] = (
    (b"content-type", JSON.encode()),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class _ResultPeek(msgspec.Struct):
    isError: bool = False  # noqa: N815 - the wire's name


class _ErrorPeek(msgspec.Struct):
    code: int


class _Peek(msgspec.Struct):
    """As much of a JSON-RPC message as the relay needs."""

    id: int | str | None = None
    method: str | None = None
    result: _ResultPeek | None = None
    error: _ErrorPeek | None = None


_peek = msgspec.json.Decoder(_Peek).decode


class Relay:
    """One reply on its way to the agent, and the one way to end it early."""

    def __init__(self, reply: Reply, request_id: RequestId) -> None:
        """Take where the reply goes and whose it must be."""
        self._reply = reply
        self._request_id = request_id
        self._is_event_stream = False
        self._is_answered = False

    async def pass_on(self, upstream: UpstreamReply, guard: EchoGuard) -> CallResult:
        """Send the upstream's reply.

        Raises:
            UpstreamError: it broke off or is not one an MCP server may send.
            CredentialEchoError: it contains the credential.
        """
        if upstream.content_encoding != "identity":
            raise UpstreamInvalidError("the reply is compressed")
        if upstream.status == _OK and upstream.media_type == EVENT_STREAM:
            return await self._event_stream(upstream.chunks(), guard)
        is_answer = upstream.status == _OK or upstream.status in _ERROR_STATUSES
        if not is_answer or upstream.media_type != JSON:
            raise UpstreamInvalidError(f"status {upstream.status}, type {upstream.media_type[:64]}")
        return await self._json(upstream, guard)

    async def end_with(self, answer: Answer) -> int:
        """End the reply with an error in whatever form still fits; the status the agent saw."""
        if not self._reply.is_started:
            return await send(self._reply, answer)
        if self._is_answered:  # a second answer would contradict the first
            await self._reply.finish()
            return _OK
        if self._is_event_stream:
            await self._reply.finish(b"event: message\ndata: " + answer.body + b"\n\n")
            return _OK
        self._reply.abort()
        return _OK

    async def end_silently(self) -> int:
        """End the reply without a message: nobody waits for one. The status the agent saw."""
        if not self._reply.is_started:
            await self._reply.start(_OK, STREAM_HEADERS)
        elif not self._is_event_stream:
            self._reply.abort()
            return self._reply.status
        await self._reply.finish()
        return self._reply.status

    async def _json(self, upstream: UpstreamReply, guard: EchoGuard) -> CallResult:
        buffered = bytearray()
        chunks = _in_slices(upstream.chunks())
        async for chunk in chunks:
            buffered += chunk
            if len(buffered) > BUFFERED_BYTES:
                return await self._long_json(upstream.status, bytes(buffered), chunks, guard)
        body = bytes(buffered)
        guard.require_clean(body)
        result = self._final(_message_of(body), upstream.status)
        if result is None:
            raise UpstreamInvalidError("the reply is not the answer to this request")
        length = (b"content-length", str(len(body)).encode("ascii"))
        await self._reply.start(upstream.status, (*_JSON_HEADERS, length))
        await self._reply.finish(body)
        return replace(result, status=self._reply.status)

    async def _long_json(
        self, status: int, begun: bytes, chunks: AsyncIterator[bytes], guard: EchoGuard
    ) -> CallResult:
        if status != _OK:
            raise UpstreamInvalidError("an error reply is too long")
        first = guard.pass_on(begun)
        await self._reply.start(status, _JSON_HEADERS)
        await self._reply.write(first)
        whole = bytearray(begun)
        async for chunk in chunks:
            whole += chunk
            clean = guard.pass_on(chunk)
            if clean:
                await self._reply.write(clean)
        # INVARIANT: unless all of it is the answer to this request, the agent sees it cut.
        result = self._final(_message_of(whole), status)
        if result is None:
            raise UpstreamInvalidError("the reply is not the answer to this request")
        await self._reply.finish(guard.rest())
        return replace(result, status=self._reply.status)

    async def _event_stream(self, chunks: AsyncIterator[bytes], guard: EchoGuard) -> CallResult:
        self._is_event_stream = True
        await self._reply.start(_OK, STREAM_HEADERS)
        reader, cutter = EventReader(), _EventCutter()
        result: CallResult | None = None
        async for chunk in _in_slices(chunks):
            clean = guard.pass_on(chunk)
            result = self._look_into(reader, clean, result)
            events = cutter.feed(clean)
            if events:
                await self._reply.write(events)
                self._is_answered = result is not None
        if result is None:
            raise UpstreamInvalidError("the stream ended without the answer")
        rest = cutter.rest() + guard.rest()
        if rest.strip(b"\r\n"):
            raise UpstreamInvalidError("the stream ended within an event")
        await self._reply.finish(rest)
        return result

    def _look_into(
        self, reader: EventReader, piece: bytes, result: CallResult | None
    ) -> CallResult | None:
        """The answer so far. Nothing may come after it: whose would that be?"""
        try:
            for event in reader.feed(piece):
                if not event.data:  # primes a connection, says nothing
                    continue
                if result is not None:
                    raise UpstreamInvalidError("the server went on after its answer")
                message = _message_of(event.data)
                if message.method is not None and message.id is not None:
                    raise UpstreamInvalidError("the server sent a request")
                if message.method is None:
                    result = self._final(message, _OK)
                    if result is None:
                        raise UpstreamInvalidError("the stream carries another request's answer")
        except EventTooLargeError as error:
            raise UpstreamInvalidError("an event is too large") from error
        return result

    def _final(self, message: _Peek, status: int) -> CallResult | None:
        """How the call ended, if this is its answer."""
        if message.error is not None and message.id in {self._request_id, None}:
            return CallResult(Outcome.FAILED, status, str(message.error.code))
        is_ours = message.id == self._request_id and type(message.id) is type(self._request_id)
        if message.result is None or not is_ours or status != _OK:
            return None
        if message.result.isError:
            return CallResult(Outcome.FAILED, status, "tool_error")
        return CallResult(Outcome.SUCCEEDED, status)


async def send(reply: Reply, answer: Answer) -> int:
    """Send a complete answer; the status the agent saw."""
    await reply.start(answer.status, answer.headers)
    await reply.finish(answer.body)
    return reply.status


async def _in_slices(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, with a turn for everybody else after each slice of a large chunk."""
    async for chunk in chunks:
        if len(chunk) <= LOOKED_AT_BYTES:
            yield chunk
            continue
        for start in range(0, len(chunk), LOOKED_AT_BYTES):
            yield chunk[start : start + LOOKED_AT_BYTES]
            await asyncio.sleep(0)


def _message_of(body: bytes | bytearray) -> _Peek:
    try:
        return _peek(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamInvalidError("the reply is not a JSON-RPC message") from error


class _EventCutter:
    """Cuts a stream after its last complete event; looks at every byte once."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """What is complete now; empty when nothing is."""
        start = max(0, len(self._pending) - len(b"\r\n\r"))
        self._pending += chunk
        cut = 0
        for found in _EVENT_END.finditer(self._pending, start):
            cut = found.end()
        complete = bytes(self._pending[:cut])
        del self._pending[:cut]
        return complete

    def rest(self) -> bytes:
        """What belongs to no complete event."""
        return bytes(self._pending)
