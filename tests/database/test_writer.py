"""The one writer thread: order, groups, and what happens when something fails."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError

from database import engine, sqlite
from database.engine import Database
from database.errors import (
    DatabaseBusyError,
    DatabaseClosedError,
    DatabaseError,
    DatabaseUnavailableError,
)
from database.postgresql import LOCK_WAIT_MS, STALLED_WRITE_MS
from database.transactions import WriterThread
from tests.database.samples import note_texts, put_note


class Gate:
    """A work that holds the writer until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _connection: Connection) -> None:
        self.entered.set()
        assert self.opened.wait(5)


def test_write_returns_what_the_work_returned(database: Database) -> None:
    async def scenario() -> int:
        return await database.write(lambda connection: put_note(connection, 7, "seven"))

    assert asyncio.run(scenario()) == 7


def test_many_concurrent_writes_share_commits(database: Database) -> None:
    commits: list[object] = []
    event.listen(database._backend.writing, "commit", commits.append)

    async def scenario() -> None:
        await asyncio.gather(
            *(database.write(partial(put_note, note=n, content=f"n{n}")) for n in range(200))
        )

    asyncio.run(scenario())
    assert len(database.read(note_texts)) == 200
    assert len(commits) < 100


def test_failing_write_undoes_itself_and_not_its_neighbours(database: Database) -> None:
    def writes_then_fails(connection: Connection) -> None:
        put_note(connection, 2, "undone")
        raise LookupError("mine")

    async def scenario() -> tuple[object, ...]:
        return await asyncio.gather(
            database.write(lambda connection: put_note(connection, 1, "before")),
            database.write(writes_then_fails),
            database.write(lambda connection: put_note(connection, 1, "duplicate")),
            database.write(lambda connection: put_note(connection, 3, "after")),
            return_exceptions=True,
        )

    outcomes = asyncio.run(scenario())
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], LookupError)
    assert isinstance(outcomes[2], IntegrityError)
    assert outcomes[3] == 3
    assert database.read(note_texts) == ["before", "after"]


@pytest.mark.requirement("trap-lost-write")
def test_failing_commit_tells_everybody_whose_work_was_in_it(database: Database) -> None:
    gate = Gate()
    with ThreadPoolExecutor() as threads:
        threads.submit(database.write_now, gate)
        assert gate.entered.wait(5)
        # The reply's reference is checked at commit, where it fails.
        broken = database._writer.submit(
            lambda connection: connection.execute(text("INSERT INTO late_replies VALUES (1, 99)"))
        )
        innocent = database._writer.submit(lambda connection: put_note(connection, 1, "innocent"))
        gate.opened.set()
        with pytest.raises(IntegrityError):
            broken.result(5)
    if innocent.exception(5) is None:  # it may have come into the next group
        assert database.read(note_texts) == ["innocent"]
    else:
        assert database.read(note_texts) == []
    database.write_now(lambda connection: put_note(connection, 2, "the writer lives on"))


def test_cancelled_write_that_has_not_begun_is_dropped(database: Database) -> None:
    gate = Gate()

    async def scenario() -> None:
        held = asyncio.create_task(database.write(gate))
        await asyncio.to_thread(gate.entered.wait, 5)
        dropped = asyncio.create_task(
            database.write(lambda connection: put_note(connection, 1, "dropped"))
        )
        await asyncio.sleep(0)
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        gate.opened.set()
        await held

    asyncio.run(scenario())
    assert database.read(note_texts) == []


def test_cancelled_write_that_has_begun_is_committed(database: Database) -> None:
    gate = Gate()

    def gated_note(connection: Connection) -> None:
        gate(connection)
        put_note(connection, 1, "kept")

    async def scenario() -> None:
        begun = asyncio.create_task(database.write(gated_note))
        await asyncio.to_thread(gate.entered.wait, 5)
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        gate.opened.set()
        await database.write(lambda connection: put_note(connection, 2, "next"))

    asyncio.run(scenario())
    assert database.read(note_texts) == ["kept", "next"]


def test_full_queue_refuses_at_once(database: Database) -> None:
    database._writer.close()  # there is one writing connection
    writer = WriterThread(database._backend, maximum_queued=1)
    gate = Gate()
    held = writer.submit(gate)
    assert gate.entered.wait(5)
    queued = writer.submit(lambda connection: put_note(connection, 1, "queued"))
    with pytest.raises(DatabaseBusyError):
        writer.submit(lambda connection: put_note(connection, 2, "refused"))
    gate.opened.set()
    held.result(5)
    queued.result(5)
    writer.close()
    assert database.read(note_texts) == ["queued"]


@pytest.mark.requirement("write-wait-bounded")
@pytest.mark.parametrize("in_a_thread", [False, True])
def test_write_that_does_not_begin_in_time_is_refused_and_dropped(
    database: Database, monkeypatch: pytest.MonkeyPatch, in_a_thread: bool
) -> None:
    monkeypatch.setattr(engine, "WRITE_WAIT_SECONDS", 0.05)
    gate = Gate()
    dropped = partial(put_note, note=1, content="dropped")

    async def scenario() -> None:
        held = asyncio.create_task(database.write(gate))
        await asyncio.to_thread(gate.entered.wait, 5)
        writing = (
            asyncio.to_thread(database.write_now, dropped)
            if in_a_thread
            else database.write(dropped)
        )
        with pytest.raises(DatabaseBusyError, match="in time"):
            await asyncio.wait_for(writing, 3)
        assert not held.done()
        gate.opened.set()
        await held
        await database.write(lambda connection: put_note(connection, 2, "next"))

    asyncio.run(scenario())
    assert database.read(note_texts) == ["next"]


@pytest.mark.requirement("write-wait-bounded")
@pytest.mark.parametrize("in_a_thread", [False, True])
def test_write_that_has_begun_is_waited_for_and_never_refused_for_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch, in_a_thread: bool
) -> None:
    monkeypatch.setattr(engine, "WRITE_WAIT_SECONDS", 0.05)
    gate = Gate()

    def gated_note(connection: Connection) -> int:
        gate(connection)
        return put_note(connection, 1, "kept")

    async def scenario() -> int:
        writing = asyncio.create_task(
            asyncio.to_thread(database.write_now, gated_note)
            if in_a_thread
            else database.write(gated_note)
        )
        await asyncio.to_thread(gate.entered.wait, 5)
        _, waiting = await asyncio.wait({writing}, timeout=0.3)
        assert waiting
        gate.opened.set()
        return await writing

    assert asyncio.run(scenario()) == 1
    assert database.read(note_texts) == ["kept"]


def test_write_waits_longer_than_any_lock_it_can_be_waiting_for() -> None:
    # Else it would be refused while the group before it may still be served.
    waits = (sqlite.LOCK_WAIT_SECONDS, LOCK_WAIT_MS / 1000, STALLED_WRITE_MS / 1000)
    assert max(waits) < engine.WRITE_WAIT_SECONDS


def test_time_out_of_a_work_itself_is_its_own(database: Database) -> None:
    def out_of_time(_connection: Connection) -> None:
        raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        database.write_now(out_of_time)


def test_close_finishes_what_is_queued(database: Database) -> None:
    gate = Gate()
    held = database._writer.submit(gate)
    assert gate.entered.wait(5)
    queued = database._writer.submit(lambda connection: put_note(connection, 1, "queued"))
    closing = threading.Thread(target=database._writer.close)
    closing.start()
    gate.opened.set()
    closing.join(5)
    assert held.exception(0) is None
    assert queued.result(0) == 1


def test_write_inside_a_write_is_refused_instead_of_waiting_for_ever(database: Database) -> None:
    def nested(_connection: Connection) -> None:
        database.write_now(lambda connection: put_note(connection, 1, "nested"))

    with pytest.raises(DatabaseError, match="may not wait"):
        database.write_now(nested)


@pytest.mark.requirement("trap-lost-write")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_writer_killed_mid_queue_refuses_what_waits_and_commits_nothing_of_it(
    database: Database,
) -> None:
    gate = Gate()

    def dies(connection: Connection) -> None:
        gate(connection)
        put_note(connection, 1, "half done")
        raise SystemExit  # not an Exception: takes the thread with it

    dying = database._writer.submit(dies)
    assert gate.entered.wait(5)
    waiting = database._writer.submit(lambda connection: put_note(connection, 2, "waiting"))
    gate.opened.set()
    for refused in (dying, waiting):
        with pytest.raises(DatabaseClosedError):
            refused.result(5)
    database._writer._thread.join(5)
    with pytest.raises(DatabaseClosedError):
        database.write_now(lambda connection: put_note(connection, 3, "after"))
    assert database.read(note_texts) == []


def test_lost_connection_refuses_the_group_and_the_next_write_works(database: Database) -> None:
    def loses_it(connection: Connection) -> None:
        put_note(connection, 1, "lost")
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.close()
        connection.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailableError):
        database.write_now(loses_it)
    database.write_now(lambda connection: put_note(connection, 2, "next"))
    assert database.read(note_texts) == ["next"]


def test_disk_failure_in_a_work_is_named_unavailable(sqlite_database: Database) -> None:
    def fills_the_disk(connection: Connection) -> None:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        for note in range(1000):
            put_note(connection, note, "x" * 1000)

    with pytest.raises(DatabaseUnavailableError):
        sqlite_database.write_now(fills_the_disk)
    assert sqlite_database.read(note_texts) == []
