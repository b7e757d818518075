"""The legacy sessions of one worker: whose a request's session is, and what is open in it.

`enter` answers every request of the era but `initialize`, in this order: one session id is there ·
this gateway sealed it · for this endpoint · for this very principal · this worker owns it · it has
neither ended nor expired · the version header, if any, is the one agreed upon. What fails in
between is 404 with one text: to the outside an id of somebody else, an old one and none at all are
the same.

The sealed id carries the session; this memory only holds what has an end: when it was used last,
its calls in flight, its one listening stream. It is bounded per principal and in total. A session
not known here is taken in while it is young (we were restarted); ended ones are remembered that
long. Of several workers each owns the sessions it began: `other_workers` brings a request to its
owner, and the sessions of a worker that is gone are gone with it.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from mcp_gateway.bounded_memory import LeastRecentlyUsed
from mcp_gateway.caller import Caller
from mcp_gateway.compiled_view import Endpoint
from mcp_gateway.credential import holder_of
from mcp_gateway.eras.in_flight import InFlight, InFlightCalls
from mcp_gateway.eras.legacy import ClientInfo
from mcp_gateway.eras.sealed_session import Session, SessionSeal, principal_of
from mcp_gateway.inbound import INVALID_REQUEST, Rejection, RequestId
from mcp_gateway.open_calls import EndedBy, OpenStream
from token_exchange.identifiers import new_id

IDLE_SECONDS: Final = 1_800
LIFETIME_SECONDS: Final = 43_200  # a working day; afterwards the client opens another
# An agent without a person is one holder, however many copies of it run.
SESSIONS_PER_HOLDER: Final = 1_024
MAXIMUM_SESSIONS: Final = 32_768  # about 1 kB each
CALLS_PER_HOLDER: Final = 256
STREAMS_PER_HOLDER: Final = 256
MAXIMUM_ENDED: Final = 65_536

_MISSING: Final = "Mcp-Session-Id is required."
_GONE: Final = "There is no such session."
_BUSY: Final = "Too many sessions are open."


@dataclass(slots=True, eq=False)
class _Open:
    """One session in use here."""

    holder: str
    used_at: float
    calls: InFlightCalls = field(default_factory=InFlightCalls)
    stream: OpenStream | None = None


class Sessions:
    """Opens, recognises and ends legacy sessions. Times are Unix seconds."""

    def __init__(self, seal: SessionSeal, random: Callable[[int], bytes], owner: str = "") -> None:
        """Take the seal, the source of unique ids, and this worker's name if there are others."""
        self._seal = seal
        self._owner = owner
        self._random = random
        self._open: OrderedDict[str, _Open] = OrderedDict()  # the least recently used first
        self._of_holder: dict[str, OrderedDict[str, None]] = {}
        self._calls: Counter[str] = Counter()  # by holder, like the next
        self._streams: Counter[str] = Counter()
        self._ended: LeastRecentlyUsed[str, bool] = LeastRecentlyUsed(MAXIMUM_ENDED)

    def __len__(self) -> int:
        return len(self._open)

    def begin(
        self, caller: Caller, endpoint: Endpoint, version: str, client: ClientInfo | None, now: int
    ) -> str | Rejection:
        """Open a session and return its sealed id."""
        session = Session(
            uid=new_id("mcp", self._random),
            principal=principal_of(caller),
            endpoint=endpoint.audience,
            version=version,
            issued_at=now,
            client=client,
            owner=self._owner,
            holder=holder_of(caller.claims),
        )
        if (refused := self._take_in(session, now)) is not None:
            return refused
        return self._seal.seal(session)

    def enter(
        self,
        sealed_id: str | None,
        version: str | None,
        caller: Caller,
        endpoint: Endpoint,
        now: int,
    ) -> Session | Rejection:
        """The session of a request, or why it is refused; entering is using."""
        if sealed_id is None:
            return Rejection(400, INVALID_REQUEST, _MISSING, detail="no session id")
        session = self._seal.open(sealed_id)
        if session is None:
            return _gone("the session id was not sealed here")
        if session.endpoint != endpoint.audience:
            return _gone("the session is of another endpoint")
        if session.principal != principal_of(caller):
            return _gone("the session is another principal's")
        if session.owner != self._owner:
            return _gone("the worker that owned the session is gone")
        refused = self._use(session, now)
        if refused is None and version not in {None, session.version}:
            message = "MCP-Protocol-Version is not the one agreed upon."
            refused = Rejection(400, INVALID_REQUEST, message)
        return refused or session

    def end(self, uid: str) -> None:
        """End a session with everything open in it."""
        self._ended.put(uid, True)
        known = self._open.pop(uid, None)
        if known is None:
            return
        of_holder = self._of_holder[known.holder]
        del of_holder[uid]
        if not of_holder:
            del self._of_holder[known.holder]
        known.calls.cancel_all()
        if known.stream is not None:
            known.stream.end(EndedBy.CANCELLED)

    def touch(self, session: Session, now: float) -> None:
        """The session is in use: its stream is being listened to."""
        if (known := self._open.get(session.uid)) is not None:
            known.used_at = now
            self._open.move_to_end(session.uid)
            self._of_holder[known.holder].move_to_end(session.uid)

    @contextmanager
    def in_flight(self, session: Session, request_id: RequestId) -> Iterator[InFlight | Rejection]:
        """Keep a call of the session within reach of `cancel` while it runs, if there is room.

        It needs a bound of its own: one whose agent went away goes on without a connection.
        """
        if self._calls[session.holder] >= CALLS_PER_HOLDER:
            yield Rejection(429, INVALID_REQUEST, "Too many calls are in flight.")
            return
        known = self._open.get(session.uid)
        calls = InFlightCalls() if known is None else known.calls
        with calls.registered(request_id) as call, _counted(self._calls, session.holder):
            yield call

    def cancel(self, session: Session, request_id: RequestId) -> None:
        """Cancel the calls of this session with this id; there may be none any more."""
        if (known := self._open.get(session.uid)) is not None:
            known.calls.cancel(request_id)

    @contextmanager
    def listening(self, session: Session, stream: OpenStream) -> Iterator[None]:
        """Make `stream` the one of its session: the one before it ends."""
        known = self._open.get(session.uid)
        if known is None:  # ended by an eviction since it was entered
            stream.end(EndedBy.CANCELLED)
            yield
            return
        if known.stream is not None:
            known.stream.end(EndedBy.REPLACED)
        known.stream = stream
        try:
            with _counted(self._streams, session.holder):
                yield
        finally:
            if known.stream is stream:
                known.stream = None

    def may_listen(self, session: Session) -> bool:
        """Whether the holder may have one stream more."""
        return self._streams[session.holder] < STREAMS_PER_HOLDER

    def _use(self, session: Session, now: int) -> Rejection | None:
        if session.issued_at + LIFETIME_SECONDS <= now:
            self.end(session.uid)
            return _gone("the session has expired")
        known = self._open.get(session.uid)
        used_at = session.issued_at if known is None else known.used_at
        if used_at + IDLE_SECONDS <= now:
            self.end(session.uid)
            return _gone("the session was idle for too long")
        if known is not None:
            self.touch(session, now)
            return None
        if self._ended.get(session.uid):
            return _gone("the session has ended")
        return self._take_in(session, now)

    def _take_in(self, session: Session, now: int) -> Rejection | None:
        """Make room, then remember: first what is idle, then the holder's own oldest."""
        while self._open:
            uid, oldest = next(iter(self._open.items()))
            if oldest.used_at + IDLE_SECONDS > now:
                break
            self.end(uid)
        own = self._of_holder.get(session.holder)
        if own and (len(own) >= SESSIONS_PER_HOLDER or len(self._open) >= MAXIMUM_SESSIONS):
            self.end(next(iter(own)))
        if len(self._open) >= MAXIMUM_SESSIONS:  # nobody pays for it with a session of their own
            return Rejection(503, INVALID_REQUEST, _BUSY)
        self._open[session.uid] = _Open(session.holder, now)
        self._of_holder.setdefault(session.holder, OrderedDict())[session.uid] = None
        return None


def _gone(detail: str) -> Rejection:
    return Rejection(404, INVALID_REQUEST, _GONE, detail=detail)


@contextmanager
def _counted(numbers: Counter[str], holder: str) -> Iterator[None]:
    numbers[holder] += 1
    try:
        yield
    finally:
        numbers[holder] -= 1
        if not numbers[holder]:
            del numbers[holder]
