"""Where a reply to a legacy agent goes: takes the modern form, sends the legacy one.

It stands between the pipeline and the connection, so every answer goes through it, ours and the
server's. Three things differ from the modern era:

- Going away is no cancellation (transports, "Sending Messages to the Server"): the call goes on
  within its deadlines, and what it answers is dropped.
- A JSON-RPC error that answers a request has status 200: 404 would end the client's session, and
  clients of the time take other failures for the connection's. Challenges stay what they are.
- No event has an id: nothing can be resumed here, so no client shall try.

A JSON reply is held until it is whole (bounded by the server's `maximum_response_bytes`), events
are sent one by one.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from mcp_gateway.eras.in_flight import InFlight
from mcp_gateway.eras.translate import legacy_answer, legacy_form
from mcp_gateway.http_message import PeerLeftError, RawHeaders, Reply
from mcp_gateway.upstream.server_sent_events import EventReader, event_of

_EVENT_STREAM: Final = b"text/event-stream"
_OK: Final = 200


class LegacyReply:
    """The Reply of one legacy request."""

    def __init__(self, reply: Reply, in_flight: InFlight | None = None) -> None:
        """Take the connection's reply, and what a cancellation of the call is reported by."""
        self._reply = reply
        self._in_flight = in_flight
        self._has_left = False
        self._head: tuple[int, RawHeaders] | None = None
        self._held = bytearray()
        self._reader = EventReader()

    @property
    def status(self) -> int:
        """The HTTP status that was sent; 0 before."""
        return self._reply.status

    @property
    def is_started(self) -> bool:
        """Whether a status has been sent."""
        return self._reply.is_started

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Only notice it: the call goes on."""
        del callback
        self._reply.on_closed(self._peer_left)

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Call `callback` on `notifications/cancelled`, also if that came before."""
        if self._in_flight is not None:
            self._in_flight.on_cancelled(callback)

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Begin; anything but an event stream is held until `finish`."""
        self._held.clear()
        self._head = None
        if (b"content-type", _EVENT_STREAM) in headers:
            await self._to_peer(lambda: self._reply.start(status, headers))
        else:
            self._head = (status, headers)

    async def write(self, chunk: bytes) -> None:
        """Send whole events, or hold a part of a JSON reply.

        Raises:
            UpstreamInvalidError: the message cannot be said in the legacy era.
        """
        if self._head is not None:
            self._held += chunk
            return
        events = self._legacy_events(chunk)
        await self._to_peer(lambda: self._reply.write(events))

    async def finish(self, last: bytes = b"") -> None:
        """Send what is left, and end.

        Raises:
            UpstreamInvalidError: the message cannot be said in the legacy era.
        """
        if self._head is None:
            events = self._legacy_events(last)
            await self._to_peer(lambda: self._reply.finish(events))
            return
        status, headers = self._head
        body = bytes(self._held) + last
        self._held.clear()
        if body:
            body, answers_with_error = legacy_answer(body)
            is_challenge = any(name == b"www-authenticate" for name, _ in headers)
            if answers_with_error and not is_challenge:
                status = _OK
        length = (b"content-length", str(len(body)).encode("ascii"))
        kept = tuple(line for line in headers if line[0] != b"content-length")
        await self._to_peer(lambda: self._reply.start(status, (*kept, length)))
        await self._to_peer(lambda: self._reply.finish(body))

    def abort(self) -> None:
        """Cut the connection."""
        self._reply.abort()

    def _legacy_events(self, chunk: bytes) -> bytes:
        """The events of a chunk, each of one message; a comment has none."""
        messages = [legacy_form(event.data) for event in self._reader.feed(chunk)]
        return b"".join(map(event_of, messages)) or chunk

    async def _to_peer(self, send: Callable[[], Awaitable[None]]) -> None:
        if self._has_left:
            return
        try:
            await send()
        except PeerLeftError:
            self._has_left = True

    def _peer_left(self) -> None:
        self._has_left = True
