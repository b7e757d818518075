"""Damage to the audit: events that are not written, lost on the way in, or not found again.

Each function takes the module it breaks, already executed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

LOST = "call.finished"


def write_no_intent(trail: Any) -> None:
    """Calls happen without a decision in the spool."""

    async def silent(_self: object, _intent: object) -> None:
        return

    trail.AuditTrail.intent = silent


def write_no_outcome(trail: Any) -> None:
    """Calls end and nobody writes down how."""
    trail.AuditTrail.outcome = lambda *_: None


def lose_events(store: Any) -> None:
    """The store confirms every event and keeps only some."""
    ingest = store.AuditStore.ingest

    async def forgetful(self: object, source: str, high_water: int, events: Sequence[Any]) -> int:
        kept = [event for event in events if event.type != LOST]
        last: int = await ingest(self, source, high_water, kept)
        return events[-1].sequence if events else last

    store.AuditStore.ingest = forgetful


def lose_events_and_deny_it(store: Any) -> None:
    """As `lose_events`, and every answer is called complete."""
    lose_events(store)
    completeness = store.completeness

    def complete(*given: object, **named: object) -> object:
        found = completeness(*given, **named)
        return dataclasses.replace(found, complete=True, gaps=(), silent=())

    store.completeness = complete


def truncate(store: Any) -> None:
    """A search finds the newest events only, and says that was all."""
    find = store.find_page
    store.find_page = lambda *given: dataclasses.replace(
        find(*given), events=find(*given).events[:5], next_before=None, since_ms=None
    )
