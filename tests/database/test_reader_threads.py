"""Reads for an event loop: it goes on while the database stalls, and nothing waits for ever."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection

from database.engine import Database
from database.errors import DatabaseBusyError, DatabaseClosedError, DatabaseUnavailableError
from database.reader_threads import ReaderThreads
from tests.database.samples import note_texts, put_note

AT_ONCE = 0.05


class StalledDatabase:
    """Answers nothing before it is told to."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked = 0

    def read(self, work: Callable[[Connection], Any]) -> Any:
        self.asked += 1
        assert self.goes_on.wait(30)
        return work(None)  # type: ignore[arg-type]  # the works here want no connection


@pytest.fixture
def stalled() -> Iterator[StalledDatabase]:
    database = StalledDatabase()
    yield database
    database.goes_on.set()


def answered(_connection: Connection) -> str:
    return "answered"


def test_fetch_of_a_stalled_database_leaves_the_event_loop_free(stalled: StalledDatabase) -> None:
    readers = ReaderThreads(stalled.read)

    async def inside() -> str:
        reading = asyncio.create_task(readers.fetch(answered))
        for _ in range(100):  # heartbeats, for instance
            await asyncio.sleep(0)
        assert not reading.done()
        stalled.goes_on.set()
        return await reading

    assert asyncio.run(inside()) == "answered"


def test_fetch_that_stalls_is_given_up(stalled: StalledDatabase) -> None:
    readers = ReaderThreads(stalled.read, wait_seconds=AT_ONCE)
    with pytest.raises(DatabaseUnavailableError):
        asyncio.run(readers.fetch(answered))


def test_fetch_beyond_the_threads_waits_no_longer_than_its_limit(stalled: StalledDatabase) -> None:
    readers = ReaderThreads(stalled.read, threads=2, wait_seconds=AT_ONCE)

    async def many() -> list[object]:
        return await asyncio.gather(
            *(readers.fetch(answered) for _ in range(6)), return_exceptions=True
        )

    assert {type(each) for each in asyncio.run(many())} == {DatabaseUnavailableError}
    assert stalled.asked == 2
    stalled.goes_on.set()
    # INVARIANT: what nobody waits for any more is not read.
    assert asyncio.run(readers.fetch(answered)) == "answered"
    assert stalled.asked == 3


def test_fetch_when_too_many_wait_is_refused_at_once(stalled: StalledDatabase) -> None:
    readers = ReaderThreads(stalled.read, threads=1, maximum_waiting=2)

    async def inside() -> None:
        waiting = [asyncio.create_task(readers.fetch(answered)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(DatabaseBusyError):
            await readers.fetch(answered)
        stalled.goes_on.set()
        assert await asyncio.gather(*waiting) == ["answered", "answered"]
        assert await readers.fetch(answered) == "answered"

    asyncio.run(inside())


def test_fetch_of_a_closed_database_is_refused(database: Database) -> None:
    database.write_now(lambda connection: put_note(connection, 1, "first"))
    assert asyncio.run(database.fetch(note_texts)) == ["first"]
    database.close()
    with pytest.raises(DatabaseClosedError):
        asyncio.run(database.fetch(note_texts))


def test_fetch_raises_what_its_work_raises(database: Database) -> None:
    def wrong(_connection: Connection) -> None:
        raise LookupError("of the work")

    with pytest.raises(LookupError, match="of the work"):
        asyncio.run(database.fetch(wrong))
    assert asyncio.run(database.fetch(note_texts)) == []


def test_fetch_reads_in_another_thread_at_the_same_time(database: Database) -> None:
    both = threading.Barrier(2)

    def meets(_connection: Connection) -> str:
        both.wait(10)
        return threading.current_thread().name

    async def inside() -> set[str]:
        return set(await asyncio.gather(database.fetch(meets), database.fetch(meets)))

    names = asyncio.run(inside())
    assert len(names) == 2
    assert threading.current_thread().name not in names
