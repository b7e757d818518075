"""The audit store: takes events in once, in the order of each source, and finds them again.

Taking in is idempotent: the same event twice is one event. What contradicts something already
here (another event under the same source and sequence, or the same id elsewhere) is refused
whole, and the first word stands. An event out of line is kept, not refused: what is missing stays
visible as a gap and makes every answer incomplete, instead of holding back what did arrive. A
gateway's source takes only what a gateway may write (`audit_log.gateway_events`).

A gateway that lies can name sources and sequences that never were, and then every search over that
time says it is incomplete. It has a bounded number of sources that have not ended, and an operator
closes one (`close_source`): it is not waited for any more. What it left missing stays visible in
searches that reach back to then, and what it still delivers is kept.

Left out: whether the sender may speak for the source (the control endpoint compares
`source_owner`), retention, and proof against whoever can rewrite the whole database.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, insert, or_, select, update

from audit_log.completeness import Completeness, completeness
from audit_log.event import AuditEvent, EventType, source_owner
from audit_log.event_rows import (
    EVENTS,
    MAXIMUM_EVENT_ID_LENGTH,
    MAXIMUM_SOURCE_LENGTH,
    SOURCES,
    event_values,
)
from audit_log.gateway_events import SOURCE_PREFIX, gateway_event_problem
from audit_log.search import AuditFilter, FoundEvent, events_of_decision, find_page
from database.engine import Database

MAXIMUM_BATCH_EVENTS: Final = 1_000
MAXIMUM_PAGE: Final = 1_000
# Above what is stored of a source. A full spool holds fewer; a database put back from a copy of
# some weeks ago is still served. Without a bound one lie would claim events up to any number.
MAXIMUM_AHEAD: Final = 1_000_000_000


# Of one gateway, not ended: each start has one, and a process that died is ended by the next.
MAXIMUM_LIVE_SOURCES: Final = 1_000


class UnknownSourceError(LookupError):
    """Nothing of that source was ever heard."""


class IngestRefusedError(ValueError):
    """A batch is malformed: nothing of it was taken in."""


class IngestConflictError(Exception):
    """A batch contradicts what is already stored: nothing of it was taken in."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How far a source has come, when we last heard of it (Unix ms), and whether it ended."""

    source: str
    high_water: int
    is_stopped: bool
    reported_at_ms: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One page, newest first, or a part of one. `next_before` continues it; None at the end."""

    events: tuple[FoundEvent, ...]
    next_before: int | None
    completeness: Completeness


class AuditStore:
    """Audit events in the database."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        """Take the database and the clock that says when something was received."""
        self._database = database
        self._clock = clock

    async def ingest(self, source: str, high_water: int, events: Sequence[AuditEvent]) -> int:
        """Take in events of one source; the last sequence that need not be sent again.

        Raises:
            IngestRefusedError: the batch is malformed.
            IngestConflictError: it contradicts what is stored.
        """
        received_at_ms = int(self._clock() * 1000)
        _require_well_formed(source, high_water, events)
        try:
            rows = [event_values(event, received_at_ms) for event in events]
        except ValueError as error:
            raise IngestRefusedError("an event has an invalid timestamp") from error
        has_end = any(event.type is EventType.SOURCE_STOPPED for event in events)

        def work(connection: Connection) -> int:
            _require_near(connection, source, high_water)
            _require_room(connection, source)
            _insert_new(connection, source, rows)
            _note_source(connection, source, high_water, rows, received_at_ms, has_end=has_end)
            if rows:
                last: int = rows[-1]["sequence"]
                return last
            stored = select(func.max(EVENTS.c.sequence)).where(EVENTS.c.source == source)
            return connection.scalar(stored) or 0

        return await self._database.write(work)

    def search(
        self, wanted: AuditFilter, *, limit: int = 100, before: int | None = None
    ) -> SearchResult:
        """One page of matching events, and whether anything may be missing from it."""
        now_ms = int(self._clock() * 1000)
        limit = max(1, min(limit, MAXIMUM_PAGE))

        def work(connection: Connection) -> SearchResult:
            found = find_page(connection, wanted, limit, before)
            return SearchResult(
                found.events,
                found.next_before,
                completeness(
                    connection,
                    since_ms=wanted.since_ms,
                    now_ms=now_ms,
                    shown_since_ms=found.since_ms,
                ),
            )

        return self._database.read(work)

    def completeness_since(self, since_ms: int) -> Completeness:
        """Whether anything may be missing of what happened since then (Unix ms)."""
        now_ms = int(self._clock() * 1000)
        return self._database.read(
            lambda connection: completeness(connection, since_ms=since_ms, now_ms=now_ms)
        )

    def sources(self) -> tuple[SourceStatus, ...]:
        """Every source that ever reported."""
        query = select(
            SOURCES.c.source,
            SOURCES.c.high_water,
            SOURCES.c.is_stopped,
            SOURCES.c.reported_at_ms,
        ).order_by(SOURCES.c.source)
        return self._database.read(
            lambda connection: tuple(SourceStatus(*row) for row in connection.execute(query))
        )

    async def close_source(
        self, source: str, *, also: Callable[[Connection, SourceStatus], None] = lambda *_: None
    ) -> SourceStatus:
        """End a source that will not end by itself: it is not waited for any more.

        `also` is done in the same transaction: its record.

        Raises:
            UnknownSourceError: there is none of that name.
        """
        now_ms = int(self._clock() * 1000)

        def work(connection: Connection) -> SourceStatus:
            line = SOURCES.c.source == source
            known = connection.execute(select(SOURCES).where(line)).one_or_none()
            if known is None:
                raise UnknownSourceError(source)
            # What it said of the future is no reason to call searches then incomplete.
            last_event_ms = min(known.last_event_ms, now_ms)
            connection.execute(
                update(SOURCES).where(line).values(is_stopped=True, last_event_ms=last_event_ms)
            )
            closed = SourceStatus(source, known.high_water, True, known.reported_at_ms)
            also(connection, closed)
            return closed

        return await self._database.write(work)

    def get(self, decision_id: str) -> tuple[FoundEvent, ...]:
        """What the gateway that decided and the authority recorded of a decision, oldest first."""
        return self._database.read(lambda connection: events_of_decision(connection, decision_id))


def _require_well_formed(source: str, high_water: int, events: Sequence[AuditEvent]) -> None:
    if len(events) > MAXIMUM_BATCH_EVENTS:
        raise IngestRefusedError(f"more than {MAXIMUM_BATCH_EVENTS} events at once")
    if high_water < 0:
        raise IngestRefusedError("high_water is negative")
    if len(source) > MAXIMUM_SOURCE_LENGTH or "\0" in source:
        raise IngestRefusedError("no source is called that")
    previous = 0
    for event in events:
        if len(event.event_id) > MAXIMUM_EVENT_ID_LENGTH or "\0" in event.event_id:
            raise IngestRefusedError("no event is called that")
        if event.source != source:
            raise IngestRefusedError("an event is of another source than its batch")
        if not previous < event.sequence <= high_water:
            raise IngestRefusedError("sequences must rise and stay within high_water")
        previous = event.sequence
        if source.startswith(SOURCE_PREFIX):
            problem = gateway_event_problem(event)
            if problem is not None:
                raise IngestRefusedError(f"{problem} (sequence {event.sequence})")


def _require_near(connection: Connection, source: str, high_water: int) -> None:
    stored = select(func.max(EVENTS.c.sequence)).where(EVENTS.c.source == source)
    if high_water > (connection.scalar(stored) or 0) + MAXIMUM_AHEAD:
        raise IngestRefusedError("high_water is too far ahead of what is stored")


def _require_room(connection: Connection, source: str) -> None:
    """A gateway has only so many sources that have not ended."""
    known = connection.scalar(select(SOURCES.c.source).where(SOURCES.c.source == source))
    if known is None and source.startswith(SOURCE_PREFIX):
        owner = source_owner(source)
        live = connection.execute(
            select(SOURCES.c.source).where(
                SOURCES.c.is_stopped.is_(False),
                SOURCES.c.source.startswith(f"{owner}.", autoescape=True),
            )
        ).scalars()
        if sum(source_owner(each) == owner for each in live) >= MAXIMUM_LIVE_SOURCES:
            raise IngestRefusedError("the gateway has too many sources that have not ended")


def _insert_new(connection: Connection, source: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert what is not here yet; refuse what contradicts."""
    if not rows:
        return
    first, last = rows[0]["sequence"], rows[-1]["sequence"]
    of_range = (EVENTS.c.source == source) & EVENTS.c.sequence.between(first, last)
    of_ids = EVENTS.c.event_id.in_([row["event_id"] for row in rows])
    stored = connection.execute(
        select(EVENTS.c.source, EVENTS.c.sequence, EVENTS.c.event_id, EVENTS.c.body).where(
            or_(of_range, of_ids)
        )
    ).all()
    here = {row.sequence: row for row in stored if row.source == source}
    strangers = {row.event_id for row in stored if row.source != source}
    ids_here = {row.event_id for row in here.values()}
    new: list[dict[str, Any]] = []
    for row in rows:
        known = here.get(row["sequence"])
        if known is not None and (known.event_id, known.body) == (row["event_id"], row["body"]):
            continue
        if known is not None or row["event_id"] in strangers | ids_here:
            raise IngestConflictError(f"sequence {row['sequence']} of {source} is already taken")
        ids_here.add(row["event_id"])
        new.append(row)
    if new:
        connection.execute(insert(EVENTS), new)


def _note_source(
    connection: Connection,
    source: str,
    high_water: int,
    rows: Sequence[dict[str, Any]],
    received_at_ms: int,
    *,
    has_end: bool,
) -> None:
    last_event_ms = max((row["timestamp_ms"] for row in rows), default=0)
    known = connection.execute(select(SOURCES).where(SOURCES.c.source == source)).one_or_none()
    if known is None:
        connection.execute(
            insert(SOURCES).values(
                source=source,
                high_water=high_water,
                is_stopped=has_end,
                first_reported_at_ms=received_at_ms,
                reported_at_ms=received_at_ms,
                last_event_ms=last_event_ms,
            )
        )
        return
    connection.execute(
        update(SOURCES)
        .where(SOURCES.c.source == source)
        .values(
            high_water=max(known.high_water, high_water),
            is_stopped=known.is_stopped or has_end,
            reported_at_ms=max(known.reported_at_ms, received_at_ms),
            # After its end no time but that of its arrival counts: it may say any other.
            last_event_ms=max(
                known.last_event_ms,
                min(last_event_ms, received_at_ms) if known.is_stopped else last_event_ms,
            ),
        )
    )
