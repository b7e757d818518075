"""What only PostgreSQL has: connections that are lost, news that may be lost, roles, stalls."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from psycopg import sql
from sqlalchemy import Connection, make_url, text

from countersign.migrations.run import upgrade
from database import postgresql as backend
from database import postgresql_news
from database.engine import Database
from database.errors import (
    DatabaseBusyError,
    DatabaseError,
    DatabaseUnavailableError,
    UnstorableValueError,
    UnsupportedDatabaseError,
)
from tests.database.samples import create_notes, note_texts, put_note
from tests.database.test_processes import contender, line_of
from tests.databases import change_stored
from tests.services import postgresql
from tests.services.postgresql import Postgresql

pytestmark = pytest.mark.processes


@pytest.fixture
def url(postgresql_server: Postgresql) -> Iterator[str]:
    with postgresql_server.database() as made:
        yield made


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database.open(url)
    opened.write_now(create_notes)
    yield opened
    opened.close()


def name_of(url: str) -> str:
    return make_url(url).database or ""


def send_everybody_away(server: Postgresql, url: str) -> None:
    with server.connect(name_of(url)) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def until(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
    return time.monotonic() - began


def serves(database: Database) -> bool:
    try:
        database.read(note_texts)
        database.data_version()
    except DatabaseUnavailableError:
        return False
    return True


# --- connections ----------------------------------------------------------------------------------


def test_connections_lost_between_two_works_cost_nobody_anything(
    postgresql_server: Postgresql, database: Database, url: str
) -> None:
    database.write_now(lambda connection: put_note(connection, 1, "before"))
    assert database.read(note_texts) == ["before"]
    send_everybody_away(postgresql_server, url)
    assert database.read(note_texts) == ["before"]
    send_everybody_away(postgresql_server, url)
    database.write_now(lambda connection: put_note(connection, 2, "after"))
    assert database.read(note_texts) == ["before", "after"]


def test_connection_lost_in_a_work_commits_nothing_of_the_group(
    postgresql_server: Postgresql, database: Database, url: str
) -> None:
    def loses_it(connection: Connection) -> None:
        put_note(connection, 1, "lost")
        send_everybody_away(postgresql_server, url)

    with pytest.raises(DatabaseUnavailableError):
        database.write_now(loses_it)
    assert database.read(note_texts) == []
    database.write_now(lambda connection: put_note(connection, 2, "next"))
    assert database.read(note_texts) == ["next"]


def test_stopped_server_is_refused_at_once_and_served_again_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with postgresql.running(tmp_path) as server, server.database() as url:
        database = Database.open(url)
        database.write_now(create_notes)
        database.write_now(lambda connection: put_note(connection, 1, "kept"))
        seen = database.data_version()

        server.stop()
        refused_after = until(lambda: not serves(database))
        began = time.monotonic()
        for _ in range(100):
            with pytest.raises(DatabaseUnavailableError):
                database.read(note_texts)
            with pytest.raises(DatabaseUnavailableError):
                database.write_now(lambda connection: put_note(connection, 2, "refused"))
        each_ms = (time.monotonic() - began) * 1000 / 200
        until(lambda: not knows_of_commits(database))

        server.start()
        back_after = until(lambda: serves(database))
        assert database.data_version() != seen
        database.write_now(lambda connection: put_note(connection, 3, "again"))
        assert database.read(note_texts) == ["kept", "again"]
        database.close()
    with capsys.disabled():
        print(  # noqa: T201 - measured for the report
            f"\n  PostgreSQL stopped: refused after {refused_after * 1000:.0f} ms,"
            f" then {each_ms:.1f} ms each; back: serves after {back_after * 1000:.0f} ms"
        )
    assert each_ms < 50


@pytest.mark.requirement("trap-lost-write")
def test_writer_outlives_a_server_that_went_away_before_anybody_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.PostgresqlBackend, "require_reachable", lambda _: None)
    with postgresql.running(tmp_path) as server, server.database() as url:
        database = Database.open(url)
        database.write_now(create_notes)
        server.stop()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError):
                database.write_now(lambda connection: put_note(connection, 1, "refused"))
        server.start()
        database.write_now(lambda connection: put_note(connection, 2, "again"))
        assert database.read(note_texts) == ["again"]
        database.close()


def knows_of_commits(database: Database) -> bool:
    try:
        database.data_version()
    except DatabaseUnavailableError:
        return False
    return True


@pytest.mark.requirement("trap-lost-write")
def test_server_killed_while_works_are_confirmed_keeps_all_of_them(tmp_path: Path) -> None:
    with postgresql.running(tmp_path) as server, server.database() as url:
        database = Database.open(url)
        database.write_now(create_notes)
        with contender(url, "count", "-") as process:
            assert line_of(process) == "ready"
            confirmed = [int(line_of(process)) for _ in range(200)]
            server.kill()
            assert process.stdout is not None
            process.wait(30)  # its threads end: each was refused
            confirmed += [int(line) for line in process.stdout.read().split("\n") if line.strip()]
        server.start()
        until(lambda: serves(database))
        ids = text("SELECT id FROM notes")
        stored = database.read(lambda connection: set(connection.execute(ids).scalars()))
        assert stored >= set(confirmed)
        database.close()


def test_open_a_server_that_is_not_there_says_where_it_looked() -> None:
    url = "postgresql+psycopg://app:hunter2@127.0.0.1:1/countersign"
    with pytest.raises(DatabaseUnavailableError, match=r"countersign: .*127.*refused") as refused:
        Database.open(url)
    assert "hunter2" not in str(refused.value)


# --- news -----------------------------------------------------------------------------------------


def test_commit_nobody_told_of_is_noticed_within_a_second(
    postgresql_server: Postgresql, database: Database, url: str
) -> None:
    """As when a pooler swallows what we listen for."""
    before = database.data_version()
    with postgresql_server.connect(name_of(url)) as stranger:
        stranger.execute("INSERT INTO notes VALUES (1, 'silently')")
    assert until(lambda: database.data_version() != before) < 2 * postgresql_news.LOOK_SECONDS


def test_commit_of_another_process_is_heard_of_in_milliseconds(
    database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_news, "LOOK_SECONDS", 1000.0)
    following, took = Database.open(url), []
    for number in range(10):
        # What was said before is heard by now: nothing was committed for longer than that takes.
        database.read(lambda connection: connection.execute(text("SELECT pg_sleep(0.1)")).all())
        before, told = following.data_version(), time.monotonic()
        database.write_now(partial(put_note, note=number, content="news"))
        while following.data_version() == before:
            pass
        took.append(time.monotonic() - told)
    following.close()
    assert sorted(took)[len(took) // 2] < 0.05


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["a\0b", "x" * 9])
def test_value_the_database_cannot_hold_is_named_so_and_its_neighbours_are_kept(
    database: Database, content: str
) -> None:
    database.write_now(
        lambda connection: connection.execute(text("CREATE TABLE short (name VARCHAR(8))"))
    )
    put = text("INSERT INTO short VALUES (:name)")
    with pytest.raises(UnstorableValueError):
        database.write_now(lambda connection: connection.execute(put, {"name": content}))
    database.write_now(lambda connection: connection.execute(put, {"name": "x" * 8}))
    names = text("SELECT name FROM short")
    assert database.read(lambda connection: connection.execute(names).scalars().all()) == ["x" * 8]


def test_value_the_database_cannot_hold_is_not_looked_for(database: Database) -> None:
    find = text("SELECT id FROM notes WHERE text = :text")
    with pytest.raises(UnstorableValueError):
        database.read(lambda connection: connection.execute(find, {"text": "a\0b"}).all())


# --- the write lock -------------------------------------------------------------------------------


def test_process_that_stalls_in_a_write_loses_the_lock_and_its_work(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused machine must not keep everybody else from writing."""
    monkeypatch.setattr(backend, "STALLED_WRITE_MS", 300)
    stalling = Database.open(url)

    def stalls(connection: Connection) -> None:
        put_note(connection, 1, "stalled")
        database.write_now(lambda other: put_note(other, 2, "went on"))  # waits for the lock
        put_note(connection, 3, "too late")

    with pytest.raises(DatabaseUnavailableError):
        stalling.write_now(stalls)
    assert database.read(note_texts) == ["went on"]
    stalling.write_now(lambda connection: put_note(connection, 4, "recovered"))
    assert database.read(note_texts) == ["went on", "recovered"]
    stalling.close()


def test_statement_without_an_end_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "STATEMENT_MS", 100)
    database = Database.open(url)
    endless = text("SELECT pg_sleep(60)")
    with pytest.raises(DatabaseUnavailableError):
        database.read(lambda connection: connection.execute(endless).all())
    with pytest.raises(DatabaseUnavailableError):
        database.write_now(lambda connection: connection.execute(endless).all())
    database.close()


def test_write_while_another_keeps_the_lock_is_named_busy(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "LOCK_WAIT_MS", 50)
    waiting = Database.open(url)

    def keeps(_connection: Connection) -> None:
        with pytest.raises(DatabaseBusyError):
            waiting.write_now(lambda connection: put_note(connection, 1, "refused"))

    database.write_now(keeps)
    waiting.write_now(lambda connection: put_note(connection, 2, "accepted"))
    assert database.read(note_texts) == ["accepted"]
    waiting.close()


# --- what the server and the role are -------------------------------------------------------------


def test_database_of_another_encoding_is_refused(postgresql_server: Postgresql) -> None:
    with postgresql_server.connect() as connection:
        connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        with pytest.raises(UnsupportedDatabaseError, match="UTF8"):
            Database.open(postgresql_server.url("ascii"))
    finally:
        with postgresql_server.connect() as connection:
            connection.execute("DROP DATABASE ascii WITH (FORCE)")


def test_server_that_only_reads_is_refused(postgresql_server: Postgresql, url: str) -> None:
    """A standby may not know of a revocation yet."""
    name = sql.Identifier(name_of(url))
    setting = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name)
    unset = sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name)
    with postgresql_server.connect() as connection:
        connection.execute(setting)
        with pytest.raises(DatabaseUnavailableError):
            Database.open(url)
        connection.execute(unset)
    Database.open(url).close()


def test_role_that_does_not_wait_for_the_disk_is_made_to(
    postgresql_server: Postgresql, url: str
) -> None:
    show = text("SHOW synchronous_commit")
    name = sql.Identifier(name_of(url))
    with postgresql_server.connect() as connection:
        for own, wanted in (("off", "on"), ("remote_apply", "remote_apply")):
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET synchronous_commit = {}").format(name, own)
            )
            database = Database.open(url)
            found = database.write_now(lambda writing: writing.execute(show).scalar_one())
            database.close()
            assert found == wanted
        connection.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(name))


def test_role_without_the_right_to_change_tables_runs_on_what_another_migrated(
    postgresql_server: Postgresql, url: str
) -> None:
    upgrade(url)
    with postgresql_server.connect(name_of(url)) as connection:
        for statement in GRANTS:
            connection.execute(statement)
    try:
        restricted = url.replace("//countersign@", "//countersign_runs@")
        upgrade(restricted)  # nothing to do
        database = Database.open(restricted)
        change_stored(database, "INSERT INTO registry_counters VALUES ('registry_version', 1)")
        for statement in ("CREATE TABLE mine (id INTEGER)", "DROP TABLE audit_events"):
            with pytest.raises(DatabaseError):
                change_stored(database, statement)
        database.close()
    finally:
        with postgresql_server.connect(name_of(url)) as connection:
            connection.execute("DROP OWNED BY countersign_runs; DROP ROLE countersign_runs")


# The words of docs/guides/postgresql.md.
GRANTS = (
    "CREATE ROLE countersign_runs LOGIN",
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    "GRANT USAGE ON SCHEMA public TO countersign_runs",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO countersign_runs",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO countersign_runs",
)


def test_restarted_pool_is_not_asked_twice_for_a_wrong_statement(database: Database) -> None:
    runs = []

    def wrong(connection: Connection) -> None:
        runs.append(1)
        connection.execute(text("SELECT nonsense"))

    with pytest.raises(DatabaseUnavailableError):
        database.read(wrong)
    assert len(runs) == 1
