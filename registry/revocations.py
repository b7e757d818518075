"""The revocation sequence: what was cut off, when, by whom; numbered without a gap.

Every event carries the whole new state of its subject, so the state of everything is the last
event of each subject. Block sets the block and the epoch; restore clears only the block. The rules
themselves are pure (`registry.blocks`). A person's claims epoch is only ever an epoch; it moves
together with what else a change of the person ends (`authz_server.store.person_cuts`).

Runs and tokens are forgotten a day later, and their rows go (`registry.revocation_rows`). Left out:
who may do this (the admin API).
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from database.engine import Database
from registry.blocks import BlockKind, BlockState, RevocationEvent
from registry.counters import REVOCATION_SEQUENCE, value_of
from registry.revocation_rows import (
    EVENTS_AT_ONCE,
    append_event,
    block_state,
    events_after,
    last_event,
    listed_events,
)

MAXIMUM_ID_LENGTH: Final = 512
MAXIMUM_REASON_LENGTH: Final = 1024

Also = Callable[[Connection, RevocationEvent], None]
Anyway = Callable[[Connection], object]


def _nothing_else(_connection: Connection, _event: RevocationEvent | None = None) -> None:
    """No more than the revocation."""


class RevocationStore:
    """Writes and reads the revocation sequence.

    `also` is done in the transaction of a new event: its record in the audit, for instance, which
    must not be lost when the process dies after the cut.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """`clock` tells Unix seconds; it is asked inside the write (`append_event` says why)."""
        self._database = database
        self._clock = clock

    async def block(
        self,
        kind: BlockKind,
        subject_id: str,
        *,
        reason: str,
        author: str,
        once: bool = False,
        also: Also = _nothing_else,
        anyway: Anyway = _nothing_else,
    ) -> RevocationEvent:
        """Refuse issue and use until restored, and everything issued before for ever.

        `once`: only if it is not blocked yet; else the event that blocked it stays the last, and is
        answered. For whoever may ask any number of times, an agent or a replay: a person's own word
        on why it is blocked is not written over, and each further time costs no gateway anything.
        `anyway` is done in the same transaction, first, whether or not there is a new event.
        """
        _require_valid(kind, subject_id, reason)

        def work(connection: Connection) -> RevocationEvent:
            anyway(connection)
            before = last_event(connection, kind, subject_id) if once else None
            if before is not None and before.blocked:
                return before
            event = append_event(
                connection,
                kind,
                subject_id,
                blocked=True,
                reason=reason,
                author=author,
                now_ms=int(self._clock() * 1000),
            )
            also(connection, event)
            return event

        return await self._database.write(work)

    async def restore(
        self,
        kind: BlockKind,
        subject_id: str,
        *,
        reason: str,
        author: str,
        also: Also = _nothing_else,
    ) -> RevocationEvent | None:
        """Clear the block. None when nothing is blocked.

        The epoch moves up to now: whatever a process issued during the block, because news had
        not reached it, is as dead as what came before.
        """
        _require_valid(kind, subject_id, reason)

        def work(connection: Connection) -> RevocationEvent | None:
            before = last_event(connection, kind, subject_id)
            if before is None or not before.blocked:
                return None
            event = append_event(
                connection,
                kind,
                subject_id,
                blocked=False,
                reason=reason,
                author=author,
                now_ms=int(self._clock() * 1000),
            )
            also(connection, event)
            return event

        return await self._database.write(work)

    def events_after(
        self, sequence: int, limit: int = EVENTS_AT_ONCE
    ) -> tuple[RevocationEvent, ...]:
        """The events that follow `sequence`, oldest first, at most `limit`."""
        return self._database.read(lambda connection: events_after(connection, sequence, limit))

    def state(self) -> BlockState:
        """Everything blocked or with an epoch now."""
        return self._database.read(block_state)

    def listed(self, *, runs: int = 0) -> tuple[int, tuple[RevocationEvent, ...]]:
        """What operators look at: the last sequence number, and what is cut off, newest first.

        The latter is the last event of each subject. Of the runs that agents ended themselves the
        newest `runs` are there.
        """

        def look(connection: Connection) -> tuple[int, tuple[RevocationEvent, ...]]:
            sequence = value_of(connection, REVOCATION_SEQUENCE)
            return sequence, listed_events(connection, runs=runs)

        return self._database.read(look)

    def sequence(self) -> int:
        """The last sequence number."""
        return self._database.read(lambda connection: value_of(connection, REVOCATION_SEQUENCE))


class InvalidSubjectError(ValueError):
    """What was to be blocked cannot be."""


def _require_valid(kind: BlockKind, subject_id: str, reason: str) -> None:
    if not subject_id or len(subject_id) > MAXIMUM_ID_LENGTH:
        raise InvalidSubjectError(f"the id of a {kind} has 1 to {MAXIMUM_ID_LENGTH} characters")
    if len(reason) > MAXIMUM_REASON_LENGTH:
        raise InvalidSubjectError(f"a reason has at most {MAXIMUM_REASON_LENGTH} characters")
