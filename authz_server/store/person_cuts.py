"""Makes out of date what was issued for persons, once per reason, in one transaction.

What an identity provider reports reaches several processes, and the same one again; the reason is
used up in the same write that moves the persons' claims epochs, ends their sessions and tells the
audit. So it happens once or, if the process dies in between, not yet; never halfway, and never
without a trace.

Where everybody of a provider is concerned, the reason is used up for each person: pages that two
processes read at different moments differ, and nobody must be left out because somebody else was
on a page of the same number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import Connection, delete
from sqlmodel import col

from audit_log.event import AuditEvent
from audit_log.transaction_log import append_in
from authz_server.store.replay import UsedOnce, use_in
from authz_server.store.sessions import LoginSessionRow
from authz_server.store.upstream_sessions import UpstreamSessionRow
from database.engine import Database
from registry.blocks import BlockKind
from registry.revocation_rows import append_event


class Ending(StrEnum):
    """Which login sessions end with it, beside that nothing issued in them holds any more."""

    NONE = "none"  # they stay to be asked about: a refresh reads the claims anew
    NAMED = "named"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class PersonCut:
    """Who is cut off, why, and which sessions end. `reason` goes into the revocation sequence.

    `recorded` makes the events of those that were cut off.
    """

    once: UsedOnce
    subs: Sequence[str]
    ending: Ending
    sids: Sequence[str]
    reason: str
    author: str
    recorded: Callable[[Sequence[str]], Sequence[AuditEvent]]


Completed = Callable[[Connection, PersonCut], PersonCut]


def _as_it_is(_connection: Connection, cut: PersonCut) -> PersonCut:
    """It says already whom it is for."""
    return cut


class PersonCuts:
    """Applies cuts. Shared by every process on the database."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """`clock` tells Unix seconds; it is asked inside the write, as for every revocation."""
        self._database = database
        self._clock = clock

    async def apply(self, cut: PersonCut, completed: Completed = _as_it_is) -> bool:
        """Cut once. False: somebody has already, for the same reason.

        `completed` says in the very write whom the cut is for, so that nobody comes in between.
        """
        return await self._database.write(
            lambda connection: apply_in(connection, cut, self._now_ms(), completed)
        )

    async def apply_to_each(self, cut: PersonCut) -> int:
        """Cut those of them whom nobody has cut for the same reason; how many that were."""

        def work(connection: Connection) -> int:
            subs = [sub for sub in cut.subs if use_in(connection, _once_for(cut.once, sub))]
            if subs:
                _cut_off(connection, replace(cut, subs=subs), self._now_ms())
            return len(subs)

        return await self._database.write(work)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _once_for(once: UsedOnce, sub: str) -> UsedOnce:
    return replace(once, id=f"{once.id}/{sub}")


def apply_in(
    connection: Connection, cut: PersonCut, now_ms: int, completed: Completed = _as_it_is
) -> bool:
    """Inside the write whose part the cut is: as `PersonCuts.apply`."""
    if not use_in(connection, cut.once):
        return False
    _cut_off(connection, completed(connection, cut), now_ms)
    return True


def _cut_off(connection: Connection, cut: PersonCut, now_ms: int) -> None:
    _end_sessions(connection, cut)
    for sub in cut.subs:
        append_event(
            connection,
            BlockKind.CLAIMS,
            sub,
            blocked=None,
            reason=cut.reason,
            author=cut.author,
            now_ms=now_ms,
        )
    append_in(connection, cut.recorded(cut.subs), now_ms)


def _end_sessions(connection: Connection, cut: PersonCut) -> None:
    if cut.ending is Ending.NONE:
        return
    if cut.ending is Ending.NAMED:
        ours = col(LoginSessionRow.sid).in_(cut.sids)
        theirs = col(UpstreamSessionRow.sid).in_(cut.sids)
    else:
        ours = col(LoginSessionRow.sub).in_(cut.subs)
        theirs = col(UpstreamSessionRow.sub).in_(cut.subs)
    connection.execute(delete(LoginSessionRow).where(ours))
    connection.execute(delete(UpstreamSessionRow).where(theirs))
