"""A process is killed by SIGKILL while it appends: nothing that was promised is lost."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from audit_log.event import AuditEvent, EventType, Outcome
from audit_log.spool import Spool
from tests.audit_log.samples import clock

ROOT = Path(__file__).parents[2]
# Appends an intent and half of the time its outcome, for ever; says each promise on stdout.
CHILD = """
import os, sys
from pathlib import Path
from audit_log.spool import Spool
from tests.audit_log.samples import clock, intent, outcome_of
spool = Spool.open(Path(sys.argv[1]), "gateway.demo", clock=clock)
number = 0
while True:
    number += 1
    spool.append(intent(f"dec_{number}"))
    os.write(1, f"i{number}\\n".encode())
    if number % 2:
        spool.append(outcome_of(f"dec_{number}"))
        os.write(1, f"o{number}\\n".encode())
"""


def killed_after(lines: int, directory: Path) -> set[str]:
    """Run the child, kill it after so many lines; everything it said before it died."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said.extend(child.stdout.read().splitlines(keepends=True))
    return {line.decode().strip() for line in said if line.endswith(b"\n")}


def recovered(spool: Spool, source: str) -> list[AuditEvent]:
    events: list[AuditEvent] = []
    while (batch := spool.pending()) is not None:
        spool.acknowledge(batch.source, batch.decoded.events[-1].sequence)
        if batch.source == source:
            events.extend(batch.decoded.events)
    return events


@pytest.mark.processes
@pytest.mark.requirement("audit-durable")
@pytest.mark.requirement("audit-unknown-outcome")
def test_spool_of_a_process_killed_while_appending_loses_nothing_promised(tmp_path: Path) -> None:
    points = random.Random(7)  # noqa: S311 - where to kill, the same in every run
    for attempt in range(6):
        directory = tmp_path / str(attempt)
        promised = killed_after(points.randrange(1, 400), directory)
        spool = Spool.open(directory, "gateway.demo", clock=clock)

        (source,) = spool.adopt_orphans()

        events = recovered(spool, source)
        by_type = {
            kind: {event.decision_id: event for event in events if event.type is kind}
            for kind in (EventType.CALL_DECIDED, EventType.CALL_FINISHED)
        }
        intents, outcomes = by_type[EventType.CALL_DECIDED], by_type[EventType.CALL_FINISHED]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert {f"dec_{line[1:]}" for line in promised if line[0] == "i"} <= intents.keys()
        for line in promised:
            if line[0] == "o":
                assert outcomes[f"dec_{line[1:]}"].outcome is Outcome.SUCCEEDED
        assert intents.keys() == outcomes.keys()
        assert any(event.outcome is Outcome.UNKNOWN for event in outcomes.values())
        assert events[-1].type is EventType.SOURCE_STOPPED
        spool.close()
