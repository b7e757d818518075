"""Whether the answer to a search can lack something, and what.

Complete means: of every source that may have said something in the time asked for, the events
1..high_water are all here, and every source that has not ended was heard of recently, so none is
silently ahead. The rows themselves are counted: a counter kept beside them would not notice a
deleted row.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from audit_log.event_rows import EVENTS, SOURCES

SILENT_AFTER_MS: Final = 10_000  # five missed heartbeats of a pusher
MAXIMUM_GAPS: Final = 100  # as many are described; `complete` counts all


@dataclass(frozen=True, slots=True)
class Gap:
    """Events `first`..`last` of a source exist or existed, and are not here."""

    source: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Completeness:
    """What may be missing from an answer.

    `silent` are sources that have not ended and were not heard of for a while. `as_of_ms`: what
    happened later than this may not have arrived yet.
    """

    complete: bool
    gaps: tuple[Gap, ...]
    silent: tuple[str, ...]
    as_of_ms: int


def completeness(connection: Connection, *, since_ms: int | None, now_ms: int) -> Completeness:
    """What the store knows about the events since `since_ms` (Unix ms; None for all)."""
    per_source = select(EVENTS.c.source, func.count()).group_by(EVENTS.c.source)
    counted = {row[0]: row[1] for row in connection.execute(per_source)}
    gaps: list[Gap] = []
    silent: list[str] = []
    as_of_ms, known, has_gap = now_ms, set(), False
    for row in connection.execute(select(SOURCES).order_by(SOURCES.c.source)):
        known.add(row.source)
        is_over = since_ms is not None and row.is_stopped and row.last_event_ms < since_ms
        if is_over:
            continue
        if not row.is_stopped:
            as_of_ms = min(as_of_ms, row.reported_at_ms)
            if now_ms - row.reported_at_ms > SILENT_AFTER_MS:
                silent.append(row.source)
        if counted.get(row.source, 0) != row.high_water:
            has_gap = True
            gaps.extend(_gaps_of(connection, row.source, row.high_water))
    # Rows of a source we know nothing of: somebody removed its line.
    has_gap = has_gap or not counted.keys() <= known
    return Completeness(
        complete=not has_gap and not silent,
        gaps=tuple(gaps[:MAXIMUM_GAPS]),
        silent=tuple(silent),
        as_of_ms=as_of_ms,
    )


def _gaps_of(connection: Connection, source: str, high_water: int) -> list[Gap]:
    here = select(EVENTS.c.sequence).where(EVENTS.c.source == source).subquery()
    following = select(
        here.c.sequence,
        func.lead(here.c.sequence, 1, high_water + 1).over(order_by=here.c.sequence).label("next"),
    ).subquery()
    breaks = (
        select(following.c.sequence, following.c.next)
        .where(following.c.next > following.c.sequence + 1)
        .order_by(following.c.sequence)
        .limit(MAXIMUM_GAPS)
    )
    first = connection.scalar(select(func.min(here.c.sequence)))
    if first is None:
        return [Gap(source, 1, high_water)]
    head = [Gap(source, 1, first - 1)] if first > 1 else []
    rows = connection.execute(breaks)
    return head + [Gap(source, row.sequence + 1, row.next - 1) for row in rows]
