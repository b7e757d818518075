"""SQLite: one file shared by several processes of one machine.

WAL lets readers and the writer pass each other; `BEGIN IMMEDIATE` takes the write lock before the
first read of a write, so that what a work read cannot have changed when it writes. The file is
always reachable: what can fail is a single statement.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from database.errors import (
    DatabaseBusyError,
    DatabaseUnavailableError,
    UnsupportedDatabaseError,
)

READ_WAIT_MS: Final = 5_000  # a reader waits only for recovery after a crash
OPEN_WAIT_SECONDS: Final = 10.0  # several processes may create the file at the same moment
READ_POOL: Final = 8
READ_OVERFLOW: Final = 8
POOL_WAIT_SECONDS: Final = 5.0  # for one of those connections
LOCK_WAIT_SECONDS: Final = 5.0  # for another process to release the write lock
# SQLite's own busy handler sleeps up to 100 ms at a time, which is unfair between processes.
LOCK_RETRY_SECONDS: Final = 0.001
MAXIMUM_GROUP: Final = 256  # works of one commit


class SqliteBackend:
    """The connections of one process to one SQLite file."""

    maximum_group = MAXIMUM_GROUP

    def __init__(self, path: Path) -> None:
        self.readers = _engine(path, _begin_reading, read_only=True)
        self.writing = _engine(path, _begin_writing, read_only=False)
        self._watcher = _connected(path, read_only=True)
        self._watching = threading.Lock()

    @classmethod
    def open(cls, url: URL) -> "SqliteBackend":
        """Open `sqlite:///PATH`, creating the file (mode 0600) when it does not exist.

        Raises:
            UnsupportedDatabaseError: A database in memory, or options.
            DatabaseUnavailableError: The file cannot be created, opened or is no database.
        """
        if not url.database or url.database == ":memory:" or url.query:
            raise UnsupportedDatabaseError("the database must be a plain file: sqlite:///PATH")
        path = Path(url.database)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            _switch_to_write_ahead_log(path)
            return cls(path)
        except OSError as error:
            raise DatabaseUnavailableError(f"cannot open {path}: {error.strerror}") from error
        except (sqlite3.Error, DBAPIError) as error:
            raise DatabaseUnavailableError(f"cannot open {path} as a database") from error

    def require_reachable(self) -> None:
        """A file is."""

    def committed(self) -> None:
        """The file itself says so."""

    def data_version(self) -> int:
        """A number that changes whenever anybody has committed."""
        try:
            with self._watching:
                version: int = self._watcher.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise DatabaseUnavailableError("the database could not be read") from error
        return version

    def close(self) -> None:
        """Close every connection."""
        with self._watching:
            self._watcher.close()
        self.readers.dispose()
        self.writing.dispose()


def _connected(path: Path, *, read_only: bool, busy_ms: int = READ_WAIT_MS) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA foreign_keys = ON")
    # FULL: what was answered as done survives loss of power; group commit pays for it.
    connection.execute("PRAGMA synchronous = FULL")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _switch_to_write_ahead_log(path: Path) -> None:
    """Once per file. Two processes doing it together see BUSY without their busy handler."""
    deadline = time.monotonic() + OPEN_WAIT_SECONDS
    connection = _connected(path, read_only=False)
    try:
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return
    finally:
        connection.close()


def _engine(path: Path, begin: Callable[[Connection], None], *, read_only: bool) -> Engine:
    def connected() -> sqlite3.Connection:
        # The writer waits for the lock itself, hence no busy handler.
        return _connected(path, read_only=read_only, busy_ms=READ_WAIT_MS if read_only else 0)

    engine = create_engine(
        f"sqlite:///{path}",
        creator=connected,
        pool_size=READ_POOL if read_only else 1,
        max_overflow=READ_OVERFLOW if read_only else 0,
        pool_timeout=POOL_WAIT_SECONDS,
        # A password hash is a value: it must not get into the text of an error.
        hide_parameters=True,
    )
    event.listen(engine, "begin", begin)
    return engine


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: Connection) -> None:
    """Take the write lock, with short and therefore fair retries."""
    driver: Any = connection.connection.dbapi_connection
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise DatabaseUnavailableError("the database cannot be written") from error
            if time.monotonic() > deadline:
                raise DatabaseBusyError("another process keeps the write lock") from error
            time.sleep(LOCK_RETRY_SECONDS)
        else:
            return
