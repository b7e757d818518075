"""The revocation sequence: what was cut off, when, by whom; append-only and gapless.

Every event carries the whole new state of its subject, so the state of everything is the last
event of each subject. Block sets the block and the epoch; restore clears only the block; a person's
claims epoch is only ever an epoch. The rules themselves are pure (`registry.blocks`).

Runs and tokens are forgotten a day later, in the state and not in the sequence. Left out: who may
do this (the admin API), and dropping old rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Index, Row, Select, func, insert, select
from sqlmodel import Field, SQLModel, col

from database.engine import Database
from registry.blocks import (
    BlockEntry,
    BlockKind,
    BlockState,
    RevocationEvent,
    epoch_after,
    remembered,
)
from registry.counters import REVOCATION_SEQUENCE, next_value, value_of

MAXIMUM_ID_LENGTH: Final = 512
MAXIMUM_REASON_LENGTH: Final = 1024
EVENTS_AT_ONCE: Final = 1_000


class RevocationRow(SQLModel, table=True):
    """One event."""

    __tablename__ = "revocations"
    __table_args__ = (Index(None, "kind", "subject_id", "sequence"),)

    sequence: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    kind: str
    subject_id: str
    blocked: bool
    not_before: int = Field(sa_type=BigInteger)
    reason: str
    author: str
    at_ms: int = Field(sa_type=BigInteger)


Also = Callable[[Connection, RevocationEvent], None]


def _nothing_else(_connection: Connection, _event: RevocationEvent) -> None:
    """No more than the revocation."""


class RevocationStore:
    """Writes and reads the revocation sequence.

    `also` is done in the same transaction: its record in the audit, for instance, which must not
    be lost when the process dies after the cut.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def block(
        self,
        kind: BlockKind,
        subject_id: str,
        *,
        reason: str,
        author: str,
        now_ms: int,
        also: Also = _nothing_else,
    ) -> RevocationEvent:
        """Refuse issue and use until restored, and everything issued before for ever."""
        _require_valid(kind, subject_id, reason)

        def work(connection: Connection) -> RevocationEvent:
            event = append_block(
                connection, kind, subject_id, reason=reason, author=author, now_ms=now_ms
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
        now_ms: int,
        also: Also = _nothing_else,
    ) -> RevocationEvent | None:
        """Clear the block. None when nothing is blocked.

        The epoch moves up to now: whatever a process issued during the block, because news had
        not reached it, is as dead as what came before.
        """
        _require_valid(kind, subject_id, reason)

        def work(connection: Connection) -> RevocationEvent | None:
            before = entry_of(connection, kind, subject_id)
            if before is None or not before.blocked:
                return None
            epoch = _epoch(before, now_ms)
            entry = BlockEntry(kind, subject_id, blocked=False, not_before=epoch)
            event = _append(connection, entry, reason, author, now_ms)
            also(connection, event)
            return event

        return await self._database.write(work)

    async def bump_claims(
        self, subject_id: str, *, reason: str, author: str, now_ms: int
    ) -> RevocationEvent:
        """Make every token of a person out of date: what the directory says of them changed."""
        _require_valid(BlockKind.CLAIMS, subject_id, reason)

        def work(connection: Connection) -> RevocationEvent:
            return append_epoch(
                connection,
                BlockKind.CLAIMS,
                subject_id,
                reason=reason,
                author=author,
                now_ms=now_ms,
            )

        return await self._database.write(work)

    def events_after(
        self, sequence: int, limit: int = EVENTS_AT_ONCE
    ) -> tuple[RevocationEvent, ...]:
        """The events that follow `sequence`, oldest first, at most `limit`."""
        return self._database.read(lambda connection: events_after(connection, sequence, limit))

    def state(self) -> BlockState:
        """Everything blocked or with an epoch now."""
        return self._database.read(block_state)

    def sequence(self) -> int:
        """The last sequence number."""
        return self._database.read(lambda connection: value_of(connection, REVOCATION_SEQUENCE))


class InvalidSubjectError(ValueError):
    """What was to be blocked cannot be."""


def append_block(
    connection: Connection,
    kind: BlockKind,
    subject_id: str,
    *,
    reason: str,
    author: str,
    now_ms: int,
) -> RevocationEvent:
    """Inside a write: refuse issue and use until restored, and what was issued until now."""
    before = entry_of(connection, kind, subject_id)
    entry = BlockEntry(
        kind,
        subject_id,
        blocked=kind is not BlockKind.CLAIMS,
        not_before=_epoch(before, now_ms),
    )
    return _append(connection, entry, reason, author, now_ms)


def append_epoch(
    connection: Connection,
    kind: BlockKind,
    subject_id: str,
    *,
    reason: str,
    author: str,
    now_ms: int,
) -> RevocationEvent:
    """Inside a write: refuse what was issued until now, and leave a block as it is."""
    before = entry_of(connection, kind, subject_id)
    entry = BlockEntry(
        kind,
        subject_id,
        blocked=before is not None and before.blocked,
        not_before=_epoch(before, now_ms),
    )
    return _append(connection, entry, reason, author, now_ms)


def events_after(
    connection: Connection, sequence: int, limit: int = EVENTS_AT_ONCE
) -> tuple[RevocationEvent, ...]:
    """The events that follow `sequence`, oldest first, at most `limit`."""
    query = (
        _events()
        .where(col(RevocationRow.sequence) > sequence)
        .order_by(col(RevocationRow.sequence))
        .limit(limit)
    )
    return _decoded(connection.execute(query).all())


def block_state(connection: Connection) -> BlockState:
    """Everything blocked or with an epoch, as one consistent picture."""
    last = select(func.max(col(RevocationRow.sequence))).group_by(
        col(RevocationRow.kind), col(RevocationRow.subject_id)
    )
    rows = connection.execute(_events().where(col(RevocationRow.sequence).in_(last))).all()
    entries = (
        BlockEntry(event.kind, event.id, event.blocked, event.not_before)
        for event in _decoded(rows)
    )
    newest = connection.execute(select(func.max(col(RevocationRow.at_ms)))).scalar_one() or 0
    state = BlockState.of(value_of(connection, REVOCATION_SEQUENCE), entries)
    return replace(state, entries=remembered(state.entries, newest))


def entry_of(connection: Connection, kind: BlockKind, subject_id: str) -> BlockEntry | None:
    """The state of one subject."""
    query = (
        _events()
        .where(col(RevocationRow.kind) == kind.value, col(RevocationRow.subject_id) == subject_id)
        .order_by(col(RevocationRow.sequence).desc())
        .limit(1)
    )
    found = _decoded(connection.execute(query).all())
    if not found:
        return None
    event = found[0]
    return BlockEntry(event.kind, event.id, event.blocked, event.not_before)


def _epoch(before: BlockEntry | None, now_ms: int) -> int:
    # INVARIANT: an epoch never moves back, whatever the clocks of the processes say.
    return max(epoch_after(now_ms), before.not_before if before is not None else 0)


def _append(
    connection: Connection, entry: BlockEntry, reason: str, author: str, now_ms: int
) -> RevocationEvent:
    event = RevocationEvent(
        sequence=next_value(connection, REVOCATION_SEQUENCE),
        kind=entry.kind,
        id=entry.id,
        blocked=entry.blocked,
        not_before=entry.not_before,
        reason=reason,
        author=author,
        at_ms=now_ms,
    )
    connection.execute(
        insert(RevocationRow).values(
            sequence=event.sequence,
            kind=event.kind.value,
            subject_id=event.id,
            blocked=event.blocked,
            not_before=event.not_before,
            reason=event.reason,
            author=event.author,
            at_ms=event.at_ms,
        )
    )
    return event


def _require_valid(kind: BlockKind, subject_id: str, reason: str) -> None:
    if not subject_id or len(subject_id) > MAXIMUM_ID_LENGTH:
        raise InvalidSubjectError(f"the id of a {kind} has 1 to {MAXIMUM_ID_LENGTH} characters")
    if len(reason) > MAXIMUM_REASON_LENGTH:
        raise InvalidSubjectError(f"a reason has at most {MAXIMUM_REASON_LENGTH} characters")


def _events() -> Select[*tuple[Any, ...]]:
    return select(
        col(RevocationRow.sequence),
        col(RevocationRow.kind),
        col(RevocationRow.subject_id),
        col(RevocationRow.blocked),
        col(RevocationRow.not_before),
        col(RevocationRow.reason),
        col(RevocationRow.author),
        col(RevocationRow.at_ms),
    )


def _decoded(rows: Sequence[Row[*tuple[Any, ...]]]) -> tuple[RevocationEvent, ...]:
    return tuple(
        RevocationEvent(
            sequence=row.sequence,
            kind=BlockKind(row.kind),
            id=row.subject_id,
            blocked=row.blocked,
            not_before=row.not_before,
            reason=row.reason,
            author=row.author,
            at_ms=row.at_ms,
        )
        for row in rows
    )
