"""Several real processes on one database."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from database import postgresql, sqlite
from database.engine import Database
from database.errors import DatabaseBusyError
from tests.database.contender import ROWS
from tests.database.samples import create_notes, note_texts, put_note

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def contender(url: str, mode: str, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.database.contender", url, mode, name]
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.requirement("trap-one-winner")
def test_two_processes_racing_on_each_row_exactly_one_wins(
    database: Database, database_url: str
) -> None:
    database.write_now(
        lambda connection: [put_note(connection, row, "free") for row in range(ROWS)]
    )
    with (
        contender(database_url, "race", "first") as first,
        contender(database_url, "race", "second") as second,
    ):
        for process in (first, second):
            assert line_of(process) == "ready"
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        wins = {"first": int(line_of(first)), "second": int(line_of(second))}
    texts = database.read(note_texts)
    assert wins == {name: texts.count(name) for name in ("first", "second")}
    assert sum(wins.values()) == ROWS


@pytest.mark.requirement("trap-lost-write")
def test_process_killed_mid_queue_keeps_all_it_confirmed(
    database: Database, database_url: str
) -> None:
    with contender(database_url, "count", "-") as process:
        assert line_of(process) == "ready"
        confirmed = [int(line_of(process)) for _ in range(300)]
        process.kill()
        assert process.stdout is not None
        confirmed += [int(line) for line in process.stdout.read().split("\n") if line.strip()]
    stored = database.read(
        lambda connection: set(connection.execute(text("SELECT id FROM notes")).scalars())
    )
    assert stored >= set(confirmed)
    if database_url.startswith("sqlite"):
        with sqlite3.connect(database.path) as direct:
            assert direct.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        direct.close()
    database.write_now(lambda connection: put_note(connection, -1, "the file serves on"))


def test_write_while_another_process_keeps_the_lock_is_refused_in_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(postgresql, "LOCK_WAIT_MS", 50)
    database = Database.open(database_url)
    database.write_now(create_notes)
    with contender(database_url, "hold", "-") as holder:
        assert line_of(holder) == "ready"
        assert line_of(holder) == "held"
        with pytest.raises(DatabaseBusyError):
            database.write_now(lambda connection: put_note(connection, 1, "refused"))
        assert database.read(note_texts) == []  # readers are not held up
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait(10) == 0
    database.write_now(lambda connection: put_note(connection, 2, "accepted"))
    assert database.read(note_texts) == ["accepted"]
    database.close()


def test_processes_opening_a_new_file_together_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: Database.open(f"sqlite:///{path}"), range(4)))
    for each in opened:
        each.close()
    with sqlite3.connect(path) as direct:
        assert direct.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    direct.close()
