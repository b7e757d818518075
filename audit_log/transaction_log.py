"""Events that are written with what they tell of, in one transaction of the database.

For changes of the database that must not be without a trace and must not wait for one, such as a
cut, and for what is good once and what it yields, such as a consent, a code and its token: the
event and the change stand together or neither does, whenever the process dies. They do not go
through the spool, so what happens when that is full is not their concern. They are one source of
their own, gapless because each transaction takes the next sequences; nobody waits for it, because
nothing of it is ever under way.

Left out: events of what happens elsewhere (calls, requests), which the spool of a process holds.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from audit_log.event import AuditEvent
from audit_log.event_rows import EVENTS, SOURCES, event_values

SOURCE: Final = "authz-server.database"


def append_in(connection: Connection, events: Sequence[AuditEvent], now_ms: int) -> None:
    """Inside a write: make `events` part of the log. `now_ms` is Unix milliseconds.

    INVARIANT: writes are one after the other over all processes, so no sequence is taken twice.
    """
    if not events:
        return
    line = SOURCES.c.source == SOURCE
    known = connection.execute(select(SOURCES).where(line)).one_or_none()
    before = 0 if known is None else known.high_water
    rows = [
        event_values(msgspec.structs.replace(event, source=SOURCE, sequence=before + n), now_ms)
        for n, event in enumerate(events, 1)
    ]
    said = {
        "high_water": before + len(rows),
        "is_stopped": True,  # between two transactions there is nothing to wait for
        "reported_at_ms": now_ms,
        "last_event_ms": max(
            0 if known is None else known.last_event_ms, *(row["timestamp_ms"] for row in rows)
        ),
    }
    if known is None:
        connection.execute(
            insert(SOURCES).values(source=SOURCE, first_reported_at_ms=now_ms, **said)
        )
    else:
        connection.execute(update(SOURCES).where(line).values(said))
    connection.execute(insert(EVENTS), rows)
