"""The two tables of the audit store: events as received, and how far each source has come.

An event is kept verbatim in `body`; the columns beside it exist only to be searched. `position`
is the order in which the authorization server took events in: the one order of the whole log.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Index, Integer, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

import database.naming  # noqa: F401 - before the first table: it names the constraints
from audit_log.event import AuditEvent, encoded

MAXIMUM_EVENT_ID_LENGTH: Final = 128
MAXIMUM_SOURCE_LENGTH: Final = 192
SEARCHED: Final = (
    "type",
    "outcome",
    "decision_id",
    "agent",
    "user",
    "target_service",
    "tool",
    "session",
    "invocation",
    "transaction",
    "object_ref",
    "author",
)
# Of these there is an index in the order of `position`; the more telling ones first.
INDEXED: Final = ("decision_id", "session", "user", "agent", "tool", "type")


class AuditEventRow(SQLModel, table=True):
    """One event. `timestamp_ms` is its own, `received_at_ms` ours; Unix milliseconds."""

    __tablename__ = "audit_events"
    __table_args__ = (
        UniqueConstraint("source", "sequence"),
        Index(None, "agent", "position"),
        Index(None, "user", "position"),
        Index(None, "tool", "position"),
        Index(None, "session", "position"),
        Index(None, "type", "position"),
    )

    # INTEGER on SQLite, because only that counts by itself there; BIGINT elsewhere.
    position: int | None = Field(
        default=None,
        primary_key=True,
        sa_type=BigInteger().with_variant(Integer, "sqlite"),
    )
    event_id: str = Field(unique=True, sa_type=String(MAXIMUM_EVENT_ID_LENGTH))
    source: str = Field(sa_type=String(MAXIMUM_SOURCE_LENGTH))
    sequence: int = Field(sa_type=BigInteger)
    timestamp_ms: int = Field(sa_type=BigInteger)
    received_at_ms: int = Field(sa_type=BigInteger)
    type: str
    outcome: str
    decision_id: str | None = Field(default=None, index=True)
    agent: str | None = None
    user: str | None = None
    target_service: str | None = None
    tool: str | None = None
    session: str | None = None
    invocation: str | None = None
    transaction: str | None = None
    object_ref: str | None = None
    author: str | None = None
    body: str = Field(sa_type=Text)


class AuditSourceRow(SQLModel, table=True):
    """One source. `high_water` is what it said it has appended, `is_stopped` that it ended.

    `reported_at_ms` is when we last heard of it, `last_event_ms` the time of its latest event.
    """

    __tablename__ = "audit_sources"

    source: str = Field(primary_key=True, sa_type=String(MAXIMUM_SOURCE_LENGTH))
    high_water: int = Field(sa_type=BigInteger)
    is_stopped: bool
    first_reported_at_ms: int = Field(sa_type=BigInteger)
    reported_at_ms: int = Field(sa_type=BigInteger)
    last_event_ms: int = Field(sa_type=BigInteger)


EVENTS: Final = AuditEventRow.__table__  # type: ignore[attr-defined]  # SQLModel's own attribute
SOURCES: Final = AuditSourceRow.__table__  # type: ignore[attr-defined]  # as above


def event_values(event: AuditEvent, received_at_ms: int) -> dict[str, Any]:
    """The row of an event.

    Raises:
        ValueError: its timestamp is no ISO 8601 moment with an offset.
    """
    event, body = encoded(event)
    columns = {name: searchable(getattr(event, name)) for name in SEARCHED}
    return {
        **columns,
        "event_id": event.event_id,
        "source": event.source,
        "sequence": event.sequence,
        "timestamp_ms": timestamp_ms(event.timestamp),
        "received_at_ms": received_at_ms,
        "type": event.type.value,
        "outcome": event.outcome.value,
        "body": body.decode(),
    }


def searchable(text: str | None) -> str | None:
    """What is searched of a text: PostgreSQL has none with NUL. The body keeps it as it was."""
    return None if text is None else text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def timestamp_ms(timestamp: str) -> int:
    """Unix milliseconds of an event's timestamp.

    Raises:
        ValueError: it is no ISO 8601 moment with an offset.
    """
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError("a timestamp must say its offset from UTC")
    return round(moment.timestamp() * 1000)
