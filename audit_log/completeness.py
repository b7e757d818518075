"""Whether the answer to a search can lack something, and what.

Complete means: of every source that may have said something in the time asked for, the events
1..high_water are all here, and every source that has not ended was heard of recently, so none is
silently ahead. The rows themselves are counted: a counter kept beside them would not notice a
deleted row.

Counting has a bound, because anybody who may search could else keep the database busy for as long
as the log is large: the newest events of each source, those of the authority's own sources first,
so that nobody's events hide a hole in them, then those with the latest events.
Where that does not reach back to the time asked for, the answer says from when on it was counted,
and is not complete. No event's own time decides that: it is its writer's word, and a clock may have
run ahead and been set right. When we received it is ours: what is earlier in its source happened
before, and a search finds no event at a time after its receipt (`audit_log.search`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, tuple_

from audit_log.event_rows import EVENTS, SOURCES
from audit_log.gateway_events import SOURCE_PREFIX

SILENT_AFTER_MS: Final = 10_000  # five missed heartbeats of a pusher
MAXIMUM_GAPS: Final = 100  # as many are described
MAXIMUM_COUNTED: Final = 1_000_000  # events in all: some tenths of a second
MAXIMUM_COUNTED_OF_SOURCE: Final = 250_000  # so that a busy one leaves something for the others
_SOURCES_AT_ONCE: Final = 500  # in one statement: databases bound its variables


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
    happened later than this may not have arrived yet. `counted_since_ms`: what happened at or
    before it was not counted, although the answer is about it; None when all was. `unknown`:
    sources of which there are events and nothing else, because somebody removed their line.
    `own_uncounted`: sources of the authority itself for which `counted_since_ms` is not None.
    """

    complete: bool
    gaps: tuple[Gap, ...]
    silent: tuple[str, ...]
    as_of_ms: int
    counted_since_ms: int | None = None
    unknown: tuple[str, ...] = ()
    own_uncounted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Counted:
    """A source and the first of its events that is counted; past `high_water` where none is."""

    source: str
    high_water: int
    reported_at_ms: int
    first: int

    @property
    def events(self) -> int:
        return self.high_water - self.first + 1


def completeness(
    connection: Connection,
    *,
    since_ms: int | None,
    now_ms: int,
    shown_since_ms: int | None = None,
    is_bounded: bool = True,
) -> Completeness:
    """What the store knows about the events since `since_ms` (Unix ms; None for all).

    `shown_since_ms`: the answer is about no more than what is as young; the rest is another page.
    `is_bounded`: count no more than is good for a database that serves.
    """
    lines = connection.execute(select(SOURCES).order_by(SOURCES.c.source)).all()
    asked = [line for line in lines if not _is_over(line, since_ms)]
    waited_for = [line for line in asked if not line.is_stopped]
    silent = tuple(
        line.source for line in waited_for if now_ms - line.reported_at_ms > SILENT_AFTER_MS
    )
    counted = _counted(asked, is_bounded=is_bounded)
    gaps = _gaps(connection, counted)
    unknown = _sources_of_rows(connection) - {line.source for line in lines}
    uncounted = _uncounted(connection, counted, (since_ms, shown_since_ms))
    return Completeness(
        complete=not (gaps or silent or unknown or uncounted),
        gaps=gaps,
        silent=silent,
        as_of_ms=min((line.reported_at_ms for line in waited_for), default=now_ms),
        counted_since_ms=max(uncounted.values(), default=None),
        unknown=tuple(sorted(unknown)),
        own_uncounted=tuple(source for source in uncounted if not _is_of_gateway(source)),
    )


def _is_over(line: Row[Any], since_ms: int | None) -> bool:
    """Whether all of it happened before: no event is later than its receipt, whatever it says."""
    return since_ms is not None and line.is_stopped and line.reported_at_ms < since_ms


def _counted(lines: Iterable[Row[Any]], *, is_bounded: bool) -> list[_Counted]:
    """How much of each source is counted, in the order of `_precedence`.

    Of each at least its newest event: what happened before that was received is all that is open.
    """
    left, counted = MAXIMUM_COUNTED, []
    for line in sorted(lines, key=_precedence):
        most = line.high_water
        if is_bounded:
            most = min(most, max(left, 1), MAXIMUM_COUNTED_OF_SOURCE)
            left -= most
        first = line.high_water - most + 1
        counted.append(_Counted(line.source, line.high_water, line.reported_at_ms, first))
    return sorted(counted, key=lambda each: each.source)


def _precedence(line: Row[Any]) -> tuple[bool, bool, int]:
    """The authority's own before all; then what goes on, and what has the latest events.

    Attack: a gateway that says 2099 goes before no other; no event is later than we heard of it.
    """
    is_of_gateway = _is_of_gateway(line.source)
    latest_ms = min(line.last_event_ms, line.reported_at_ms)
    return is_of_gateway, is_of_gateway and line.is_stopped, -latest_ms


def _is_of_gateway(source: str) -> bool:
    return source.startswith(SOURCE_PREFIX)


def _gaps(connection: Connection, counted: Sequence[_Counted]) -> tuple[Gap, ...]:
    """The first gaps; none only where there is none."""
    whole = [each for each in counted if each.first == 1]
    parts = [each for each in counted if 1 < each.first <= each.high_water]
    here: dict[str, int] = {}
    for some in _some_at_once(whole):
        here |= _numbers(connection, EVENTS.c.source.in_([each.source for each in some]))
    for some in _some_at_once(parts):
        here |= _numbers(connection, or_(*(and_(*_counted_rows(each)) for each in some)))
    holed = [each for each in counted if here.get(each.source, 0) != each.events]
    described: list[Gap] = []
    for each in holed:
        if len(described) < MAXIMUM_GAPS:
            described.extend(_gaps_of(connection, each))
    return tuple(described[:MAXIMUM_GAPS])


def _some_at_once(counted: Sequence[_Counted]) -> Iterator[Sequence[_Counted]]:
    starts = range(0, len(counted), _SOURCES_AT_ONCE)
    return (counted[start : start + _SOURCES_AT_ONCE] for start in starts)


def _numbers(connection: Connection, wanted: ColumnElement[bool]) -> dict[str, int]:
    rows = select(EVENTS.c.source, func.count()).where(wanted).group_by(EVENTS.c.source)
    return {row[0]: row[1] for row in connection.execute(rows)}


def _gaps_of(connection: Connection, counted: _Counted) -> list[Gap]:
    source, high_water = counted.source, counted.high_water
    here = select(EVENTS.c.sequence).where(*_counted_rows(counted)).subquery()
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
        return [Gap(source, counted.first, high_water)]
    head = [Gap(source, counted.first, first - 1)] if first > counted.first else []
    rows = connection.execute(breaks)
    return head + [Gap(source, row.sequence + 1, row.next - 1) for row in rows]


def _counted_rows(counted: _Counted) -> tuple[Any, Any]:
    return EVENTS.c.source == counted.source, EVENTS.c.sequence >= counted.first


def _sources_of_rows(connection: Connection) -> set[str]:
    """Every source of which there is a row: one look into the index for each, no more."""
    sources = select(func.min(EVENTS.c.source).label("source")).cte("sources", recursive=True)
    following = select(func.min(EVENTS.c.source)).where(EVENTS.c.source > sources.c.source)
    sources = sources.union_all(
        select(following.scalar_subquery()).where(sources.c.source.is_not(None))
    )
    found = connection.execute(select(sources.c.source).where(sources.c.source.is_not(None)))
    return set(found.scalars())


def _uncounted(
    connection: Connection, counted: Iterable[_Counted], asked_ms: tuple[int | None, int | None]
) -> dict[str, int]:
    """The sources that were not counted back to the time asked for; until when they were not."""
    asked_since_ms = max((each for each in asked_ms if each is not None), default=None)
    return {
        source: until_ms
        for source, until_ms in _not_counted_until(connection, counted)
        if asked_since_ms is None or asked_since_ms <= until_ms
    }


def _not_counted_until(
    connection: Connection, counted: Iterable[_Counted]
) -> Iterator[tuple[str, int]]:
    """Of each source that was not counted whole: when its last event not counted was, at most."""
    parts = [each for each in counted if each.first > 1]
    for some in _some_at_once(parts):
        firsts = tuple_(EVENTS.c.source, EVENTS.c.sequence).in_(
            [(each.source, each.first) for each in some]
        )
        rows = connection.execute(select(EVENTS.c.source, EVENTS.c.received_at_ms).where(firsts))
        received = {row[0]: row[1] for row in rows}
        for each in some:  # that it is missing is a gap; then it may have come at any time
            yield each.source, received.get(each.source, each.reported_at_ms)
