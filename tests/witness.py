"""What the audit learnt of one deed: the events that happened after a moment, and no older ones."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from audit_log.event import iso_timestamp
from compose.demo.stack import Stack
from tests.stack import admin, audit_events

SECONDS = 10.0
# Events carry milliseconds: what was answered before a witness looks is older by at least one.
TICK_SECONDS = 0.002


def moment() -> str:
    """Now, as the processes of this machine write it."""
    time.sleep(TICK_SECONDS)
    return iso_timestamp(time.time())  # noqa: TID251 - real processes have real time


def await_settled(stack: Stack, seconds: float = 40) -> None:
    """Until all that happened before this call has arrived.

    A search may be complete as of a moment ago: what was recorded since is on its way.
    """
    until, deadline = datetime.fromisoformat(moment()), time.monotonic() + seconds
    with admin(stack) as api:
        while True:
            found = api.call("GET", "/audit", query={"limit": "1"})
            if found["complete"] and datetime.fromisoformat(found["as_of"]) >= until:
                return
            if time.monotonic() > deadline:
                message = f"the audit is not complete as of {until}: {found}"
                raise AssertionError(message)
            time.sleep(0.05)


def all_audit_events(stack: Stack) -> list[dict[str, Any]]:
    """Every event, oldest first, page by page, once all of before this moment have arrived."""
    await_settled(stack)
    events: list[dict[str, Any]] = []
    query = {"limit": "1000"}
    with admin(stack) as api:
        while True:
            found = api.call("GET", "/audit", query=query)
            events += found["events"]
            if found["next_before"] is None:
                return events[::-1]
            query["before"] = str(found["next_before"])


@dataclass
class Witness:
    """Sees what happens from now on, however late it arrives; and nothing of before."""

    stack: Stack
    since: str = field(default_factory=moment)

    def settled(self) -> list[dict[str, Any]]:
        """Everything that happened since and before this call, once all of it has arrived."""
        await_settled(self.stack)
        return list(self.news())

    def news(self, **query: str) -> Iterator[dict[str, Any]]:
        """What happened since and has arrived, oldest first."""
        yield from audit_events(self.stack, since=self.since, **query)

    def event(self, kind: str, *, says: str = "", **wanted: object) -> dict[str, Any]:
        """The new event of this type and fields; `says` is in its rule or its detail."""
        deadline = time.monotonic() + SECONDS
        found: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            found = list(self.news(type=kind))
            for event in found:
                text = " ".join((*event.get("reasons", ()), event.get("detail") or ""))
                if says in text and all(event.get(name) == wanted[name] for name in wanted):
                    return event
            time.sleep(0.05)
        message = f"no new {kind} with {says!r} and {wanted}; only {found}"
        raise AssertionError(message)
