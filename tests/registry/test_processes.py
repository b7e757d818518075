"""Several real processes on one registry."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from database.engine import Database
from registry.live import LiveRegistry
from registry.revocations import RevocationStore

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).parents[2]
EACH = 150


@contextmanager
def contender(url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.registry.contender", url, name, str(EACH)]
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield process
        finally:
            process.kill()


def started(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def sequences_of(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(number) for number in process.stdout.readline().split()]


@pytest.mark.requirement("trap-gapless-revocations")
def test_two_processes_append_to_one_gapless_sequence(
    database: Database, database_url_with_tables: str
) -> None:
    with (
        contender(database_url_with_tables, "first") as first,
        contender(database_url_with_tables, "second") as second,
    ):
        started(first)
        started(second)
        numbers = sequences_of(first) + sequences_of(second)
    assert sorted(numbers) == list(range(1, 2 * EACH + 1))
    stored = RevocationStore(database, lambda: 1.0).events_after(0)
    assert [event.sequence for event in stored] == sorted(numbers)


@pytest.mark.requirement("C57")
def test_live_registry_follows_another_process_event_by_event(
    database: Database, database_url_with_tables: str, live: LiveRegistry
) -> None:
    async def scenario(process: subprocess.Popen[str]) -> list[int]:
        following = asyncio.create_task(live.run())
        with live.subscribe(limit=2 * EACH) as subscription:
            started(process)
            seen = [await asyncio.wait_for(anext(subscription), 30) for _ in range(EACH)]
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        return [0 if isinstance(notice, str) else notice.sequence for notice in seen]

    with contender(database_url_with_tables, "other") as process:
        assert asyncio.run(scenario(process)) == list(range(1, EACH + 1))
    assert live.blocks == RevocationStore(database, lambda: 1.0).state()


@pytest.mark.requirement("trap-gapless-revocations")
def test_reader_never_sees_a_number_before_a_smaller_one(
    database: Database, database_url_with_tables: str
) -> None:
    """Whoever has read up to a number and goes on from there must have missed none."""
    revocations, seen = RevocationStore(database, lambda: 1.0), 0
    with (
        contender(database_url_with_tables, "first") as first,
        contender(database_url_with_tables, "second") as second,
        contender(database_url_with_tables, "third") as third,
    ):
        for process in (first, second, third):
            started(process)
        while seen < 3 * EACH:
            news = [event.sequence for event in revocations.events_after(seen)]
            assert news == list(range(seen + 1, seen + 1 + len(news)))
            seen += len(news)
            assert revocations.sequence() >= seen
