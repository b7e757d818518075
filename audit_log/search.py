"""Finding events: exact filters, newest first, page by page.

INVARIANT: a page looks at a bounded number of events, whatever is asked: anybody who may search
could else keep the database busy for as long as the log is large. These are the newest ones of one
value of an indexed column, where one is asked for, else the newest of all; a page that ends there
may be empty, and the next one goes on.

When an event happened is its writer's word, but at the latest when we received it: an event that
says a time yet to come belongs to the time it came.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, func, or_, select

from audit_log.event import AuditEvent, EventType, Outcome, source_owner
from audit_log.event_rows import EVENTS, INDEXED, searchable, timestamp_ms
from audit_log.gateway_events import SOURCE_PREFIX

MAXIMUM_WALKED: Final = 100_000  # events a page looks at: some tenths of a second
MAXIMUM_DECISION_EVENTS: Final = 100  # of each side: an intent and an outcome; the exchanges
CLOCKS_APART_MS: Final = 60_000  # what the clocks of two authorization servers may differ by

_decode = msgspec.json.Decoder(AuditEvent).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What must be equal; None asks nothing. `since_ms` and `until_ms`: Unix ms, inclusive."""

    agent: str | None = None
    user: str | None = None
    tool: str | None = None
    target_service: str | None = None
    type: EventType | None = None
    outcome: Outcome | None = None
    decision_id: str | None = None
    session: str | None = None
    invocation: str | None = None
    transaction: str | None = None
    object_ref: str | None = None
    author: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """One event and its place in the log; `received_at_ms` is when the store got it."""

    position: int
    received_at_ms: int
    event: AuditEvent


@dataclass(frozen=True, slots=True)
class FoundPage:
    """Events, newest first. Where more may follow, both are set.

    `next_before` continues the page; what is as young as `since_ms` (Unix ms) is all in it.
    """

    events: tuple[FoundEvent, ...]
    next_before: int | None = None
    since_ms: int | None = None


def find_page(
    connection: Connection, wanted: AuditFilter, limit: int, before: int | None
) -> FoundPage:
    """The newest events that match, at most `limit`, all before position `before`."""
    if before is None:
        before = (connection.scalar(select(func.max(EVENTS.c.position))) or 0) + 1
    indexed, others = _conditions(wanted)
    left_out = _first_left_out(connection, indexed, before)
    query = (
        select(EVENTS.c.position, EVENTS.c.received_at_ms, EVENTS.c.body)
        .where(EVENTS.c.position < before, *indexed, *others, *_in_time(wanted))
        .order_by(EVENTS.c.position.desc())
        .limit(limit + 1)
    )
    if left_out is not None:
        query = query.where(EVENTS.c.position > left_out.position)
    found = [
        FoundEvent(position, received_at_ms, _decode(body))
        for position, received_at_ms, body in connection.execute(query)
    ]
    page = tuple(found[:limit])
    if len(found) > limit:
        return FoundPage(page, page[-1].position, min(map(_latest_time_ms, page)))
    if left_out is None or _is_over(wanted, left_out.received_at_ms):
        return FoundPage(page)
    return FoundPage(page, left_out.position + 1, left_out.received_at_ms)


def _conditions(
    wanted: AuditFilter,
) -> tuple[list[ColumnElement[bool]], list[ColumnElement[bool]]]:
    """What one index answers, if any does, and what each event is held against."""
    asked = {
        each.name: searchable(str(getattr(wanted, each.name)))
        for each in fields(wanted)
        if not each.name.endswith("_ms") and getattr(wanted, each.name) is not None
    }
    by = next((name for name in INDEXED if name in asked), None)
    indexed = [] if by is None else [EVENTS.c[by] == asked.pop(by)]
    # Expressions, so that no database walks by another index than the one that bounds the walk.
    return indexed, [EVENTS.c[name] + "" == value for name, value in asked.items()]


def _first_left_out(
    connection: Connection, indexed: Sequence[ColumnElement[bool]], before: int
) -> Row[Any] | None:
    """Position and receipt of the newest event that a page does not look at any more, if any."""
    position = EVENTS.c.position
    newest = select(position).order_by(position.desc()).limit(1)
    if indexed:
        newest = newest.where(position < before, *indexed).offset(MAXIMUM_WALKED)
    else:  # no position is taken twice
        newest = newest.where(position < before - MAXIMUM_WALKED)
    receipt = select(position, EVENTS.c.received_at_ms)
    return connection.execute(receipt.where(position == newest.scalar_subquery())).one_or_none()


def _in_time(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    claimed, received = EVENTS.c.timestamp_ms, EVENTS.c.received_at_ms
    conditions: list[ColumnElement[bool]] = []
    if wanted.since_ms is not None:
        conditions += [claimed >= wanted.since_ms, received >= wanted.since_ms]
    if wanted.until_ms is not None:
        conditions.append(or_(claimed <= wanted.until_ms, received <= wanted.until_ms))
    return conditions


def _is_over(wanted: AuditFilter, received_at_ms: int) -> bool:
    """Whether what is older was received, and so happened, before the time asked for."""
    return wanted.since_ms is not None and received_at_ms + CLOCKS_APART_MS < wanted.since_ms


def _latest_time_ms(found: FoundEvent) -> int:
    """When it happened, at the latest: it may say a time that is yet to come."""
    return min(timestamp_ms(found.event.timestamp), found.received_at_ms)


def events_of_decision(connection: Connection, decision_id: str) -> tuple[FoundEvent, ...]:
    """What one gateway process and the authority recorded of a decision, oldest first.

    INVARIANT: a decision belongs to the source that first recorded it. Another gateway that learnt
    the id can neither add to it nor crowd out what belongs to it; a search still shows its word.
    """
    of_decision = EVENTS.c.decision_id == decision_id
    of_gateway = EVENTS.c.source.startswith(SOURCE_PREFIX, autoescape=True)
    first = select(EVENTS.c.source).where(of_decision & of_gateway).order_by(EVENTS.c.position)
    owner = connection.scalar(first.limit(1))
    found = _first(connection, of_decision & ~of_gateway)
    if owner is not None:
        client = source_owner(owner).replace(".", ":", 1)
        found = [each for each in found if each.event.client_id in {None, client}]
        found += _first(connection, of_decision & (EVENTS.c.source == owner))
    return tuple(sorted(found, key=lambda each: each.position))


def _first(connection: Connection, condition: ColumnElement[bool]) -> list[FoundEvent]:
    query = (
        select(EVENTS.c.position, EVENTS.c.received_at_ms, EVENTS.c.body)
        .where(condition)
        .order_by(EVENTS.c.position)
        .limit(MAXIMUM_DECISION_EVENTS)
    )
    return [
        FoundEvent(position, received_at_ms, _decode(body))
        for position, received_at_ms, body in connection.execute(query)
    ]
