"""The sessions a gateway keeps at legacy servers, and for whom. No I/O.

INVARIANT: a session is found only under the server's URL and the whole `SessionIdentity` it was
begun for, so that no two principals ever share one, whatever the server tells them apart by. A
session that is taken out of the table (revoked, gone, idle, evicted) is never given out again and
is ended once its last call has left it.

A session that nobody uses makes room: the caller's own first, else the one unused for longest. One
holder has a bounded share of the table, and a session at work is never taken from anybody: whoever
has too many of those is refused.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from mcp_gateway.clock import Clock
from mcp_gateway.upstream.protocol import SessionIdentity, UpstreamFullError, UpstreamRequest
from registry.blocks import RevocationEvent, Subject

MAXIMUM_SESSIONS: Final = 4096
MAXIMUM_OF_HOLDER: Final = 128
IDLE_SECONDS: Final = 600.0

_Key = tuple[str, object]


@dataclass(slots=True, eq=False)
class LegacySession:
    """One session. `last` is the request used last, without its body: where and with what headers.

    `id` is None at a server that keeps none; `is_known` is False once the server said so.
    """

    id: str | None = field(repr=False)
    version: str
    last: UpstreamRequest
    subjects: frozenset[Subject]
    calls: int = 0
    is_over: bool = False
    is_known: bool = True
    used_at: float = 0.0
    _numbers: int = 0

    def next_number(self) -> int:
        """A request id nobody used in this session."""
        self._numbers += 1
        return self._numbers

    @property
    def is_to_be_ended(self) -> bool:
        """Whether the server should be told that the session is over, now."""
        return self.is_over and self.calls == 0 and self.is_known and self.id is not None


class SessionTable:
    """At most `capacity` sessions; `end` is called with each that is to be ended at its server."""

    def __init__(
        self,
        end: Callable[[LegacySession], None],
        monotonic: Clock,
        capacity: int = MAXIMUM_SESSIONS,
        share: int = MAXIMUM_OF_HOLDER,
    ) -> None:
        """Take who ends a session at its server, and how many are kept, in all and of a holder."""
        self._end = end
        self._monotonic = monotonic
        self._capacity = capacity
        self._share = share
        self._beginning: Counter[str] = Counter()  # sessions by holder, not in the table yet
        self._sessions: OrderedDict[_Key, LegacySession] = OrderedDict()
        self.revision = 0  # counts what `forget` was told: who began before is not kept after

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, request: UpstreamRequest) -> LegacySession | None:
        """The session of whoever sends `request`, now with one call more."""
        if request.session is None:
            return None
        key = _key(request, request.session)
        session = self._sessions.get(key)
        if session is None:
            return None
        if self._is_idle(session):
            self._remove([key])
            return None
        self._sessions.move_to_end(key)
        session.calls += 1
        session.last = replace(request, body=b"")  # a body may be large, and lives no longer
        return session

    @contextmanager
    def room_for(self, request: UpstreamRequest) -> Iterator[None]:
        """Hold a place for a session that is being begun.

        Raises:
            UpstreamFullError: its holder has too many at work, or everybody together has.
        """
        if request.session is None:  # it serves one call and is not kept
            yield
            return
        holder = request.session.holder
        self._make_room(holder)
        self._beginning[holder] += 1
        try:
            yield
        finally:
            self._beginning[holder] -= 1
            if not self._beginning[holder]:
                del self._beginning[holder]

    def begin(self, session: LegacySession, request: UpstreamRequest, revision: int) -> None:
        """Count the first call of a new session, and keep it if nothing was revoked meanwhile.

        `revision` is what it was before the server was asked for the session.
        """
        session.calls += 1
        if request.session is None or revision != self.revision:
            session.is_over = True
            return
        key = _key(request, request.session)
        self._remove([key])
        self._sessions[key] = session

    def release(self, session: LegacySession) -> None:
        """One call less."""
        session.calls -= 1
        session.used_at = self._monotonic()
        if session.is_to_be_ended:
            self._end(session)

    def drop(self, session: LegacySession, *, is_known: bool) -> None:
        """Give a session out no more; `is_known` False: the server has forgotten it itself."""
        session.is_known = session.is_known and is_known
        self._remove([key for key, kept in self._sessions.items() if kept is session])
        session.is_over = True

    def forget(self, event: RevocationEvent) -> None:
        """End the sessions that depend on a revoked subject."""
        self.revision += 1
        subject = Subject(event.kind, event.id)
        self._remove([key for key, kept in self._sessions.items() if subject in kept.subjects])

    def forget_all(self) -> None:
        """End every session."""
        self.revision += 1
        self._remove(list(self._sessions))

    def sweep(self) -> None:
        """End the sessions nobody used for `IDLE_SECONDS`."""
        self._remove([key for key, kept in self._sessions.items() if self._is_idle(kept)])

    def _make_room(self, holder: str) -> None:
        own = [key for key, kept in self._sessions.items() if _holder_of(kept) == holder]
        is_over_share = len(own) + self._beginning[holder] >= self._share
        is_full = len(self._sessions) + self._beginning.total() >= self._capacity
        if not (is_over_share or is_full):
            return
        others = () if is_over_share else self._sessions
        unused = (key for key in (*own, *others) if not self._sessions[key].calls)  # oldest first
        going = next(unused, None)
        if going is None:
            raise UpstreamFullError("every session is at work")
        self._remove([going])

    def _is_idle(self, session: LegacySession) -> bool:
        return session.calls == 0 and self._monotonic() - session.used_at > IDLE_SECONDS

    def _remove(self, keys: Iterable[_Key]) -> None:
        for key in keys:
            session = self._sessions.pop(key, None)
            if session is not None:
                session.is_over = True
                if session.is_to_be_ended:
                    self._end(session)


def _holder_of(session: LegacySession) -> str | None:
    return None if session.last.session is None else session.last.session.holder


def _key(request: UpstreamRequest, identity: SessionIdentity) -> _Key:
    return (request.url, identity.key)
