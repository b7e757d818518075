"""How many connections a public listener holds, and which one goes when another wants in.

The one that has waited longest without a request: strangers who only hold connections push each
other out, and whoever sends a request at once is served. Where every connection has a request
under way the new one is closed; a peer that asks and then takes nothing of the answer has
`WRITE_SECONDS`. What is closed here is answered nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

WRITE_SECONDS: Final = 30.0  # a peer that takes nothing for this long is gone


class Endable(Protocol):
    """What ends a connection at once."""

    def abort(self) -> None:
        """End it."""


class Held(Protocol):
    """A connection, as far as a room knows it."""

    @property
    def transport(self) -> Endable:
        """What ends it."""


class Room:
    """The connections of one listener. `limit` is asked anew each time: an operator may turn it."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._waiting: dict[Held, None] = {}  # longest first
        self._busy: set[Held] = set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def enter(self, connection: Held) -> Held | None:
        """Take a connection in; the one that must go for it, which may be itself."""
        leaving: Held | None = None
        if len(self) >= self._limit():
            leaving = next(iter(self._waiting), connection)
            self.leave(leaving)
        if leaving is not connection:
            self._waiting[connection] = None
        return leaving

    def begins(self, connection: Held) -> None:
        """It has a request now. One that was closed meanwhile stays out."""
        if connection in self._waiting:
            del self._waiting[connection]
            self._busy.add(connection)

    def ends(self, connection: Held) -> None:
        """It waits for its next request."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._waiting[connection] = None

    def leave(self, connection: Held) -> None:
        """It is gone."""
        self._waiting.pop(connection, None)
        self._busy.discard(connection)


class WriteDeadline(HttpToolsProtocol):
    """Cuts a peer off that takes nothing of what it asked for."""

    _deadline: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The peer takes no more; it is not waited for for ever."""
        super().pause_writing()
        if self._deadline is None:
            self._deadline = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It took enough."""
        self._written()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._written()
        super().connection_lost(exc)

    def _written(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bounded_connections(room: Room) -> type[HttpToolsProtocol]:
    """A mixin for the protocol of a listener; put it first."""

    class BoundedConnections(WriteDeadline):
        """Reports to the room what its connection does."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
            super().connection_made(transport)
            leaving = room.enter(self)
            if leaving is not None:
                leaving.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            room.leave(self)
            super().connection_lost(exc)

        def on_headers_complete(self) -> None:
            room.begins(self)
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete:  # else another was waiting
                room.ends(self)

    return BoundedConnections
