"""Connections of the loopback listener: each is a process of the run's, or is closed.

Nothing is read of a connection before its peer is known (`process_tree`), in a thread, a few at a
time. A stranger is answered 403 and closed. An admitted connection carries its `Peer`, which is
asked again before each request.

A connection is looked up by its two addresses, and they are somebody else's as soon as who made it
hangs up. So who was found counts only while our own end is still established.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from countersign.agent_run.process_tree import Holder, member_of_run
from countersign.loopback_sockets import Address, is_established
from listeners.bounded_connections import Room, bounded_connections
from listeners.bounded_heads import BoundedHeads

PEER_EXTENSION: Final = "countersign.run_peer"
MAXIMUM_CONNECTIONS: Final = 128
CHECKS_AT_ONCE: Final = 4
CHECK_SECONDS: Final = 5.0
STRANGER: Final = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 54\r\n"
    b"connection: close\r\n\r\nThis address serves the processes of one run, not you."
)

Identify = Callable[[Address, Address], Holder | None]
IsEstablished = Callable[[], bool]


class Peer:
    """Who is at the other end of one connection."""

    def __init__(
        self,
        peer: Address,
        ours: Address,
        checks: asyncio.Semaphore,
        identify: Identify,
        is_established: IsEstablished,
    ) -> None:
        self._ends = peer, ours
        self._checks = checks
        self._identify = identify
        self._is_established = is_established
        self._holder: Holder | None = None
        self._is_gone = False

    async def is_member(self) -> bool:
        """Whether a process of the run holds the other end now."""
        if self._holder is not None and self._holder.still_holds():
            return self._is_established()
        self._release()
        try:
            async with asyncio.timeout(CHECK_SECONDS), self._checks:
                looking = asyncio.ensure_future(asyncio.to_thread(self._identify, *self._ends))
                looking.add_done_callback(self._found)  # also when nobody waits for it any more
                await asyncio.shield(looking)
        except (OSError, TimeoutError):
            return False
        # INVARIANT: asked after the look-up. Attack: a stranger sends a request and hangs up, and
        # the next process of the run that connects is given the port, and is found.
        return self._holder is not None and self._is_established()

    def forget(self) -> None:
        """The connection is gone."""
        self._is_gone = True
        self._release()

    def _found(self, looking: "asyncio.Future[Holder | None]") -> None:
        if looking.cancelled() or looking.exception() is not None:
            return
        self._release()
        self._holder = looking.result()
        if self._is_gone:
            self._release()

    def _release(self) -> None:
        if self._holder is not None:
            self._holder.close()
            self._holder = None


def run_members_only(
    on_stranger: Callable[[], None], identify: Identify = member_of_run
) -> type[HttpToolsProtocol]:
    """The protocol class for `uvicorn.Config(http=...)` of the loopback listener."""
    checks = asyncio.Semaphore(CHECKS_AT_ONCE)
    room = Room(lambda: MAXIMUM_CONNECTIONS)
    bounded = bounded_connections(room)

    class RunMembersOnly(BoundedHeads, bounded):  # type: ignore[misc, valid-type] # made above
        """Reads nothing before its peer is known."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
            super().connection_made(transport)
            transport.pause_reading()
            ends = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            accepted = transport.get_extra_info("socket")
            self.peer = Peer(
                ends[0][:2], ends[1][:2], checks, identify, lambda: is_established(accepted)
            )
            self._admission = self.loop.create_task(self._admit(transport))

        def connection_lost(self, exc: Exception | None) -> None:
            self._admission.cancel()
            self.peer.forget()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
            self.scope["extensions"] = extensions | {PEER_EXTENSION: self.peer}

        async def _admit(self, transport: asyncio.Transport) -> None:
            is_member = await self.peer.is_member()
            if transport.is_closing():
                self.peer.forget()
            elif is_member:
                transport.resume_reading()
            else:
                on_stranger()
                transport.write(STRANGER)
                transport.close()

    return RunMembersOnly
