"""Finding events: exact filters, newest first, page by page.

When an event happened is its writer's word, but at the latest when we received it: an event that
says a time yet to come belongs to the time it came.
"""

from dataclasses import dataclass, fields
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, or_, select

from audit_log.event import AuditEvent, EventType, Outcome, source_owner
from audit_log.event_rows import EVENTS, searchable
from audit_log.gateway_events import SOURCE_PREFIX

MAXIMUM_DECISION_EVENTS: Final = 100  # of each side: an intent and an outcome; the exchanges

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


def find_events(
    connection: Connection, wanted: AuditFilter, limit: int, before: int | None
) -> tuple[FoundEvent, ...]:
    """The newest events that match, at most `limit`, all before position `before`."""
    query = select(EVENTS.c.position, EVENTS.c.received_at_ms, EVENTS.c.body)
    for each in fields(wanted):
        value = getattr(wanted, each.name)
        if value is not None and not each.name.endswith("_ms"):
            query = query.where(EVENTS.c[each.name] == searchable(str(value)))
    query = query.where(*_in_time(wanted))
    if before is not None:
        query = query.where(EVENTS.c.position < before)
    query = query.order_by(EVENTS.c.position.desc()).limit(limit)
    return tuple(
        FoundEvent(position, received_at_ms, _decode(body))
        for position, received_at_ms, body in connection.execute(query)
    )


def _in_time(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    claimed, received = EVENTS.c.timestamp_ms, EVENTS.c.received_at_ms
    conditions: list[ColumnElement[bool]] = []
    if wanted.since_ms is not None:
        conditions += [claimed >= wanted.since_ms, received >= wanted.since_ms]
    if wanted.until_ms is not None:
        conditions.append(or_(claimed <= wanted.until_ms, received <= wanted.until_ms))
    return conditions


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
