"""Every call in flight, so that a revocation, a shutdown or a lost lease can end it at once.

A call is registered before its intent is written and leaves when it is over; what ends it early
is said once and for all by `OpenCall.end`. Ending works through the deadline of an
`asyncio.timeout`: the call's own task is interrupted wherever it waits.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import structlog

from mcp_gateway.caller import Caller
from mcp_gateway.compiled_view import CompiledView, Endpoint
from mcp_gateway.stages import Approved
from registry.blocks import BlockState

_logger = structlog.get_logger(__name__)


class EndedBy(StrEnum):
    """Why a call did not come to its own end."""

    DISCONNECTED = "disconnected"  # the agent went away: closing the stream is cancelling
    CANCELLED = "cancelled"  # the agent said so: how the legacy era cancels
    REPLACED = "replaced"  # a newer stream of the same session
    REVOKED = "revoked"
    WITHDRAWN = "withdrawn"  # a newer snapshot would not allow it
    EXPIRED = "expired"  # the token's time is over
    STALE = "stale"  # no news from the authority for too long
    SHUTDOWN = "shutdown"


@dataclass(slots=True, eq=False)
class OpenCall:
    """One call in flight, until `deadline` at the latest: the end of its token."""

    approved: Approved
    deadline: asyncio.Timeout
    ended_by: EndedBy | None = None
    is_over: bool = False

    def end(self, reason: EndedBy) -> None:
        """Interrupt the call; the first reason stays, be it the time of the token."""
        if self.ended_by is None and not self.is_over and not self.deadline.expired():
            self.ended_by = reason
            cut(self.deadline)

    def peer_left(self) -> None:
        """The agent closed the connection."""
        self.end(EndedBy.DISCONNECTED)

    def cancelled(self) -> None:
        """The agent cancelled the call by name."""
        self.end(EndedBy.CANCELLED)


@dataclass(slots=True, eq=False)
class OpenStream:
    """One listening stream of a legacy session, until `deadline` at the latest.

    `view` is the one it was last held against, `caller` who listens under that view. A news is one
    mark, however often it is set: a listener that does not read holds no memory.
    """

    caller: Caller
    endpoint: Endpoint
    view: CompiledView
    deadline: asyncio.Timeout
    has_news: asyncio.Event
    ended_by: EndedBy | None = None

    def end(self, reason: EndedBy) -> None:
        """Interrupt the stream; the first reason stays, be it the time of the token."""
        if self.ended_by is None and not self.deadline.expired():
            self.ended_by = reason
            cut(self.deadline)


class OpenCalls:
    """The calls and listening streams of one process. Bounded by the server's connection limit."""

    def __init__(self) -> None:
        """Start with none."""
        self._calls: set[OpenCall] = set()
        self._streams: set[OpenStream] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def registered(self, call: OpenCall) -> Iterator[None]:
        """Keep `call` reachable while it runs."""
        self._calls.add(call)
        self._is_idle.clear()
        try:
            yield
        finally:
            call.is_over = True
            self._calls.discard(call)
            if not self._calls:
                self._is_idle.set()

    @contextmanager
    def listening(self, stream: OpenStream) -> Iterator[None]:
        """Keep `stream` reachable while it is open."""
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    def recheck(self, blocks: BlockState) -> int:
        """End every call and stream whose caller a block or epoch refuses; how many calls."""
        number = 0
        for call in self.all():
            if _is_hit(call.approved.intent.caller, blocks):
                _end(call, EndedBy.REVOKED)
                number += 1
        for stream in self.streams():
            if _is_hit(stream.caller, blocks):
                _end(stream, EndedBy.REVOKED)
        return number

    def all(self) -> tuple[OpenCall, ...]:
        """Every call in flight at this moment."""
        return tuple(self._calls)

    def streams(self) -> tuple[OpenStream, ...]:
        """Every listening stream at this moment."""
        return tuple(self._streams)

    def end_all(self, reason: EndedBy) -> None:
        """End every call and every stream."""
        for call in tuple(self._calls):
            _end(call, reason)
        self.end_streams(reason)

    def end_streams(self, reason: EndedBy) -> None:
        """End every listening stream: none of them comes to an end of its own."""
        for stream in self.streams():
            _end(stream, reason)

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        await self._is_idle.wait()


def cut(deadline: asyncio.Timeout) -> None:
    """Interrupt what runs under `deadline`, unless it is being interrupted already."""
    if not deadline.expired():  # from then on until its task runs, to set it anew is an error
        deadline.reschedule(0)


def _end(one: OpenCall | OpenStream, reason: EndedBy) -> None:
    """INVARIANT: whatever goes wrong with one, all the others are ended."""
    try:
        one.end(reason)
    except Exception:
        _logger.exception("call_not_ended", reason=reason)


def _is_hit(caller: Caller, blocks: BlockState) -> bool:
    return blocks.first_hit(caller.subjects, caller.claims.iat) is not None
