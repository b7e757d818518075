"""The rows of the revocation sequence: read and written inside somebody's transaction.

Every event carries the whole new state of its subject, so the state of everything is the last
event of each subject. Who may write one, and in which transaction, is `registry.revocations`.

Rows of runs and tokens go when they are forgotten (`registry.blocks`), a few with each new row. Who
was away meanwhile misses nothing of it: nothing of such a run lives. It ends with the same state as
everybody, because the newest row stays, whatever it is about: its number is where followers arrive,
its time what they forget by. That is the earlier of two clocks, the writing process's and the
database server's; an epoch is of the later one. On SQLite all processes have the one clock of their
machine.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Connection, Index, Row, Select, delete, func, insert, select
from sqlmodel import Field, SQLModel, col

from database.server_clock import server_now_ms
from registry.blocks import (
    AGENT_AUTHOR,
    FORGETTABLE,
    BlockEntry,
    BlockKind,
    BlockState,
    RevocationEvent,
    epoch_after,
    forgotten_before,
    remembered,
)
from registry.counters import REVOCATION_SEQUENCE, next_value, value_of

EVENTS_AT_ONCE: Final = 1_000
DROPPED_AT_ONCE: Final = 100  # more than come with a row, so that what has gathered goes


class RevocationRow(SQLModel, table=True):
    """One event."""

    __tablename__ = "revocations"
    __table_args__ = (
        Index(None, "kind", "subject_id", "sequence"),
        Index(None, "kind", "not_before"),
        Index(None, "author", "at_ms"),
    )

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


def append_event(
    connection: Connection,
    kind: BlockKind,
    subject_id: str,
    *,
    blocked: bool | None,
    reason: str,
    author: str,
    now_ms: int,
) -> RevocationEvent:
    """Inside a write: refuse what was issued until now, and from now on what is `blocked`.

    `blocked` None leaves a block, or none, as it is; a claims epoch is only ever an epoch.

    INVARIANT: `now_ms` (Unix milliseconds) is read inside the write, where the transaction holds
    the one writer of all processes. Time read before the wait for it would be too early: what was
    issued meanwhile, on what was true before, would be younger than the epoch.
    """
    before = last_event(connection, kind, subject_id)
    if blocked is None:
        blocked = before is not None and before.blocked
    server_ms = server_now_ms(connection)
    event = RevocationEvent(
        sequence=next_value(connection, REVOCATION_SEQUENCE),
        kind=kind,
        id=subject_id,
        blocked=blocked and kind is not BlockKind.CLAIMS,
        # INVARIANT: an epoch never moves back, whatever the clocks of the processes say, and a
        # process whose clock is slow writes none that is older than what the others issue.
        not_before=max(
            epoch_after(max(now_ms, server_ms or 0)), 0 if before is None else before.not_before
        ),
        reason=reason,
        author=author,
        # INVARIANT: a process whose clock is ahead makes nobody forget: everybody forgets by this.
        at_ms=now_ms if server_ms is None else min(now_ms, server_ms),
    )
    row = msgspec.to_builtins(event)
    row["subject_id"] = row.pop("id")
    connection.execute(insert(RevocationRow).values(row))
    _drop_forgotten(connection, event)
    return event


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
    entries = (
        BlockEntry(event.kind, event.id, event.blocked, event.not_before)
        for event in _decoded(connection.execute(_last_events()).all())
    )
    state = BlockState.of(value_of(connection, REVOCATION_SEQUENCE), entries)
    return replace(state, entries=remembered(state.entries, _newest_ms(connection)))


def listed_events(connection: Connection, *, runs: int) -> tuple[RevocationEvent, ...]:
    """The last event of everything blocked or with an epoch, newest first.

    Of the runs that agents ended themselves, many in an hour, the newest `runs` are there.
    """
    ended = col(RevocationRow.kind).in_([each.value for each in FORGETTABLE]) & col(
        RevocationRow.author
    ).startswith(AGENT_AUTHOR, autoescape=True)
    oldest = forgotten_before(_newest_ms(connection))
    last = _last_events().order_by(col(RevocationRow.sequence).desc())
    found = _decoded(connection.execute(last.where(~ended)).all())
    found += _decoded(connection.execute(last.where(ended).limit(runs)).all())
    known = (each for each in found if each.kind not in FORGETTABLE or each.not_before >= oldest)
    return tuple(sorted(known, key=lambda each: -each.sequence))


def last_event(connection: Connection, kind: BlockKind, subject_id: str) -> RevocationEvent | None:
    """The last event of one subject: its state."""
    query = (
        _events()
        .where(col(RevocationRow.kind) == kind.value, col(RevocationRow.subject_id) == subject_id)
        .order_by(col(RevocationRow.sequence).desc())
        .limit(1)
    )
    return next(iter(_decoded(connection.execute(query).all())), None)


def number_of_author(
    connection: Connection, author: str, since_ms: int, most: int, *, reason: str | None = None
) -> int:
    """How many events since then (Unix milliseconds) are an author's; counted up to `most`.

    With `reason`: those for that very reason.
    """
    found = select(col(RevocationRow.sequence)).where(
        col(RevocationRow.author) == author, col(RevocationRow.at_ms) > since_ms
    )
    if reason is not None:
        found = found.where(col(RevocationRow.reason) == reason)
    counted = select(func.count()).select_from(found.limit(most).subquery())
    return connection.scalar(counted) or 0


def _drop_forgotten(connection: Connection, newest: RevocationEvent) -> None:
    """INVARIANT: the older row of a subject goes first, so its last one is always its state."""
    forgotten = (
        select(col(RevocationRow.sequence))
        .where(
            col(RevocationRow.kind).in_([each.value for each in FORGETTABLE]),
            col(RevocationRow.not_before) < forgotten_before(newest.at_ms),
            col(RevocationRow.sequence) < newest.sequence,
        )
        .order_by(col(RevocationRow.not_before), col(RevocationRow.sequence))
        .limit(DROPPED_AT_ONCE)
    )
    connection.execute(delete(RevocationRow).where(col(RevocationRow.sequence).in_(forgotten)))


def _last_events() -> Select[*tuple[Any, ...]]:
    """The last event of each subject: its state."""
    last = select(func.max(col(RevocationRow.sequence))).group_by(
        col(RevocationRow.kind), col(RevocationRow.subject_id)
    )
    return _events().where(col(RevocationRow.sequence).in_(last))


def _newest_ms(connection: Connection) -> int:
    return connection.scalar(select(func.max(col(RevocationRow.at_ms)))) or 0


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
