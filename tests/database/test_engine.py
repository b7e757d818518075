"""Opening a database, reading it, and noticing that somebody wrote."""

import stat
import time
import traceback
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from database import postgresql, postgresql_news, sqlite
from database.engine import Database
from database.errors import (
    DatabaseBusyError,
    DatabaseClosedError,
    DatabaseUnavailableError,
    UnsupportedDatabaseError,
)
from tests.database.samples import create_notes, note_texts, put_note


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file.db?mode=memory",
        "postgresql://user:hunter2@db.example.com/countersign",
        "mysql+pymysql://user:hunter2@db.example.com/countersign",
        "no url at all",
    ],
)
def test_open_what_we_cannot_use_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UnsupportedDatabaseError) as refused:
        Database.open(url)
    assert "hunter2" not in str(refused.value)


def test_open_new_file_is_readable_by_its_owner_only(sqlite_database: Database) -> None:
    assert stat.S_IMODE(sqlite_database.path.stat().st_mode) == 0o600


def test_open_in_missing_directory_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError, match="missing"):
        Database.open(f"sqlite:///{tmp_path}/missing/countersign.db")


def test_open_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "countersign.db"
    path.write_bytes(b"this is a text file, and long enough to be one" * 100)
    with pytest.raises(DatabaseUnavailableError):
        Database.open(f"sqlite:///{path}")


def test_read_after_write_sees_it(database: Database) -> None:
    database.write_now(lambda connection: put_note(connection, 1, "first"))
    assert database.read(note_texts) == ["first"]


def test_read_that_writes_fails_closed(database: Database) -> None:
    with pytest.raises(DatabaseUnavailableError):
        database.read(lambda connection: put_note(connection, 1, "sneaked in"))
    assert database.read(note_texts) == []


def test_read_is_one_picture_although_somebody_writes_meanwhile(database: Database) -> None:
    database.write_now(lambda connection: put_note(connection, 1, "before"))

    def reads_twice(connection: Connection) -> tuple[list[str], list[str]]:
        first = note_texts(connection)
        database.write_now(lambda writing: put_note(writing, 2, "meanwhile"))
        return first, note_texts(connection)

    assert database.read(reads_twice) == (["before"], ["before"])
    assert database.read(note_texts) == ["before", "meanwhile"]


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError):
        database.write_now(
            lambda connection: connection.execute(text("INSERT INTO replies VALUES (1, 99)"))
        )


def test_data_version_changes_by_own_and_foreign_commits_and_not_by_reads(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_news, "LOOK_SECONDS", 1000.0)  # else it changes by itself
    database, second = Database.open(database_url), Database.open(database_url)
    database.write_now(create_notes)
    versions = [settled_version(database)]
    database.read(note_texts)
    versions.append(database.data_version())
    database.write_now(lambda connection: put_note(connection, 1, "own"))
    versions.append(database.data_version())  # at once: whoever wrote must see it
    versions.append(settled_version(database))
    second.write_now(lambda connection: put_note(connection, 2, "foreign"))
    assert versions[0] == versions[1] != versions[2]
    await_newer_version(database, versions[3])
    second.close()
    database.close()


def settled_version(database: Database) -> int:
    """Once the notifications of our own commits have arrived, if the database sends any."""
    if database.path == Path():
        database.read(lambda connection: connection.execute(text("SELECT pg_sleep(0.1)")).all())
    return database.data_version()


def await_newer_version(database: Database, version: int) -> None:
    deadline = time.monotonic() + 5
    while database.data_version() == version:
        assert time.monotonic() < deadline, "the foreign commit was never heard of"


def test_write_after_close_is_refused_and_closing_again_is_harmless(database_url: str) -> None:
    database = Database.open(database_url)
    database.close()
    database.close()
    with pytest.raises(DatabaseClosedError):
        database.write_now(create_notes)


def test_data_version_after_close_is_refused(database_url: str) -> None:
    database = Database.open(database_url)
    database.close()
    with pytest.raises(DatabaseUnavailableError):
        database.data_version()


def test_read_while_all_connections_are_taken_is_refused_in_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in (postgresql, sqlite):
        monkeypatch.setattr(backend, "READ_POOL", 1)
        monkeypatch.setattr(backend, "READ_OVERFLOW", 0)
        monkeypatch.setattr(backend, "POOL_WAIT_SECONDS", 0.01)
    database = Database.open(database_url)

    def reads_inside(_connection: Connection) -> None:
        with pytest.raises(DatabaseBusyError):
            database.read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    database.read(reads_inside)
    assert database.read(lambda connection: connection.execute(text("SELECT 1")).scalar()) == 1
    database.close()


@pytest.mark.requirement("trap-value-in-traceback")
def test_failed_statement_names_no_value(database: Database) -> None:
    def put_twice(connection: Connection) -> None:
        create = text("CREATE TABLE hashes (name TEXT PRIMARY KEY, hash TEXT)")
        put = text("INSERT INTO hashes VALUES (:name, :hash)")
        connection.execute(create)
        for _ in range(2):
            connection.execute(put, {"name": "alice", "hash": "$argon2id$hunter2"})

    with pytest.raises(IntegrityError) as failed:
        database.write_now(put_twice)

    assert "hunter2" not in str(failed.value)
    assert "INSERT INTO hashes" in str(failed.value)


@pytest.mark.requirement("trap-value-in-traceback")
def test_row_that_breaks_a_rule_is_not_quoted(database: Database) -> None:
    """PostgreSQL says of a refused row what is in it."""

    def put_too_long(connection: Connection) -> None:
        create = text("CREATE TABLE hashes (name TEXT, hash TEXT CHECK (length(hash) < 9))")
        put = text("INSERT INTO hashes VALUES (:name, :hash)")
        connection.execute(create)
        connection.execute(put, {"name": "alice", "hash": "$argon2id$hunter2"})

    with pytest.raises(IntegrityError) as failed:
        database.write_now(put_too_long)

    told = "".join(traceback.format_exception(failed.value))
    assert "INSERT INTO hashes" in told
    assert "$argon2id$hunter2" not in told.replace('"hash": "$argon2id$hunter2"', "")
