"""The sessions a gateway keeps at legacy servers, and for whom. No I/O.

INVARIANT: a session is found only under the server's URL and the whole `SessionIdentity` it was
begun for, so that no two principals ever share one, whatever the server tells them apart by. A
session that is taken out of the table (revoked, gone, idle, evicted) is never given out again and
is ended once its last call has left it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from mcp_gateway.clock import Clock
from mcp_gateway.upstream.protocol import SessionIdentity, UpstreamRequest
from registry.blocks import RevocationEvent, Subject

MAXIMUM_SESSIONS: Final = 4096
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
    ) -> None:
        """Take who ends a session at its server, and how many are kept."""
        self._end = end
        self._monotonic = monotonic
        self._capacity = capacity
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
        excess = len(self._sessions) - self._capacity
        if excess > 0:
            self._remove(list(self._sessions)[:excess])

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

    def _is_idle(self, session: LegacySession) -> bool:
        return session.calls == 0 and self._monotonic() - session.used_at > IDLE_SECONDS

    def _remove(self, keys: Iterable[_Key]) -> None:
        for key in keys:
            session = self._sessions.pop(key, None)
            if session is not None:
                session.is_over = True
                if session.is_to_be_ended:
                    self._end(session)


def _key(request: UpstreamRequest, identity: SessionIdentity) -> _Key:
    return (request.url, identity.key)
