"""Finding events: exact filters, newest first, page by page."""

from dataclasses import dataclass, fields
from typing import Final

import msgspec
from sqlalchemy import Connection, select

from audit_log.event import AuditEvent, EventType, Outcome
from audit_log.event_rows import EVENTS

MAXIMUM_DECISION_EVENTS: Final = 100  # an intent, an outcome and the exchanges between them

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
            query = query.where(EVENTS.c[each.name] == str(value))
    if wanted.since_ms is not None:
        query = query.where(EVENTS.c.timestamp_ms >= wanted.since_ms)
    if wanted.until_ms is not None:
        query = query.where(EVENTS.c.timestamp_ms <= wanted.until_ms)
    if before is not None:
        query = query.where(EVENTS.c.position < before)
    query = query.order_by(EVENTS.c.position.desc()).limit(limit)
    return tuple(
        FoundEvent(position, received_at_ms, _decode(body))
        for position, received_at_ms, body in connection.execute(query)
    )


def events_of_decision(connection: Connection, decision_id: str) -> tuple[FoundEvent, ...]:
    """Everything recorded under one decision id, oldest first."""
    query = (
        select(EVENTS.c.position, EVENTS.c.received_at_ms, EVENTS.c.body)
        .where(EVENTS.c.decision_id == decision_id)
        .order_by(EVENTS.c.position)
        .limit(MAXIMUM_DECISION_EVENTS)
    )
    return tuple(
        FoundEvent(position, received_at_ms, _decode(body))
        for position, received_at_ms, body in connection.execute(query)
    )
