"""What the audit log has of cuts: they are written with what they tell of, not by the spool."""

import msgspec
from sqlalchemy import select

from audit_log.event import AuditEvent, EventType
from audit_log.event_rows import EVENTS
from database.engine import Database


def cuts_in(database: Database, event_type: EventType) -> list[AuditEvent]:
    """The events of one type in the database; oldest first."""
    return [event for event in recorded_in(database) if event.type is event_type]


def recorded_in(database: Database) -> list[AuditEvent]:
    """All events in the database; oldest first."""
    rows = database.read(
        lambda connection: connection.execute(
            select(EVENTS.c.body).order_by(EVENTS.c.position)
        ).all()
    )
    return [msgspec.json.decode(row.body, type=AuditEvent) for row in rows]
