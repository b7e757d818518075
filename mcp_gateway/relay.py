"""Step 9, what comes back: the upstream's answer to the agent, in frames of our own, or an error.

JSON stays JSON and an event stream stays one. Only the media type of the reply's head is passed on,
so neither `WWW-Authenticate` nor `Set-Cookie` reaches the agent. Before anything leaves it is
searched for the credential (`echo_guard`) and read as one message (`server_message`): values keep
their bytes, the envelope and the lines of an event are written anew, so an agent reads what was
judged, however it reads. A JSON reply is held until it is whole (bounded by the server's
`maximum_response_bytes`), an event is sent when it is, so what goes wrong before is always one
readable error. The search takes a slice at a time, so that no server can hold up the calls of the
others.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Final

from mcp_gateway.audit_trail import CallResult
from mcp_gateway.echo_guard import EchoGuard
from mcp_gateway.http_message import Answer, RawHeaders, Reply
from mcp_gateway.inbound import RequestId
from mcp_gateway.server_message import said_to
from mcp_gateway.upstream.protocol import (
    UpstreamInvalidError,
    UpstreamReply,
    told_media_type,
)
from mcp_gateway.upstream.server_sent_events import (
    KEEP_ALIVE,
    EventReader,
    EventTooLargeError,
    event_of,
)

LOOKED_AT_BYTES: Final = 65_536  # a few ms of searching at worst
JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
# A JSON-RPC error may come with one of these; everything else is the upstream's trouble, not ours
# to repeat: a 403 would read as a challenge of the gateway.
_ERROR_STATUSES: Final = frozenset({400, 404})
_OK: Final = 200

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
            said = told_media_type(upstream.media_type)
            raise UpstreamInvalidError(f"status {upstream.status}, {said}")
        return await self._json(upstream, guard)

    async def end_with(self, answer: Answer) -> int:
        """End the reply with an error in whatever form still fits; the status the agent saw."""
        if not self._reply.is_started:
            return await send(self._reply, answer)
        if self._is_answered:  # a second answer would contradict the first
            await self._reply.finish()
            return _OK
        if self._is_event_stream:
            await self._reply.finish(event_of(answer.body))
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
        body = bytearray()
        async for chunk in _in_slices(upstream.chunks()):
            body += guard.pass_on(chunk)
        body += guard.rest()
        said = said_to(self._request_id, body, upstream.status)
        if said.ending is None:
            raise UpstreamInvalidError("the reply is not the answer to this request")
        length = (b"content-length", str(len(said.message)).encode("ascii"))
        await self._reply.start(upstream.status, (*_JSON_HEADERS, length))
        for piece in _pieces(said.message):
            await self._reply.write(piece)
        await self._reply.finish()
        return replace(said.ending, status=self._reply.status)

    async def _event_stream(self, chunks: AsyncIterator[bytes], guard: EchoGuard) -> CallResult:
        self._is_event_stream = True
        await self._reply.start(_OK, STREAM_HEADERS)
        reader = EventReader()
        result: CallResult | None = None
        async for chunk in _in_slices(chunks):
            comments = reader.comments
            messages, result = self._read(reader, guard.pass_on(chunk), result)
            if messages:
                await self._reply.write(b"".join(map(event_of, messages)))
                self._is_answered = result is not None
            elif reader.comments != comments:
                await self._reply.write(KEEP_ALIVE)
        _, result = self._read(reader, guard.rest(), result)
        if result is None:
            raise UpstreamInvalidError("the stream ended without the answer")
        if reader.is_within_event:
            raise UpstreamInvalidError("the stream ended within an event")
        await self._reply.finish()
        return result

    def _read(
        self, reader: EventReader, piece: bytes, result: CallResult | None
    ) -> tuple[list[bytes], CallResult | None]:
        """The messages a piece completes, and the answer so far.

        Nothing may come after the answer: whose would that be?
        """
        messages: list[bytes] = []
        try:
            for event in reader.feed(piece):
                if not event.data:  # primes a connection, says nothing
                    continue
                if result is not None:
                    raise UpstreamInvalidError("the server went on after its answer")
                said = said_to(self._request_id, event.data)
                messages.append(said.message)
                result = said.ending
        except EventTooLargeError as error:
            raise UpstreamInvalidError("an event is too large") from error
        return messages, result


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
        for piece in _pieces(chunk):
            yield piece
            await asyncio.sleep(0)


def _pieces(whole: bytes) -> Iterator[bytes]:
    for start in range(0, len(whole), LOOKED_AT_BYTES):
        yield whole[start : start + LOOKED_AT_BYTES]
