"""The database of one process: short reads in threads, writes through one writer.

SQLite (`database.sqlite`) or PostgreSQL (`database.postgresql`), told apart by the URL. On both
there is one writer at a time over all processes, so that every work may read, decide and write as
if it were alone (decision 0010). Statements of repositories are SQLAlchemy Core and portable; what
is peculiar to one database is in its file.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from database import naming
from database.backend import Backend
from database.errors import (
    DatabaseBusyError,
    DatabaseError,
    DatabaseUnavailableError,
    UnstorableValueError,
    UnsupportedDatabaseError,
)
from database.reader_threads import ReaderThreads
from database.sqlite import SqliteBackend
from database.transactions import WriterThread

T = TypeVar("T")

# Longer than the databases let the group before wait for another process (5 s), then it fails.
WRITE_WAIT_SECONDS: Final = 8.0
_NOT_BEGUN: Final = "the write had not begun in time"

NAMING_CONVENTION: Final = naming.NAMING_CONVENTION


class Database:
    """One database, safe for threads. Open it once per process and close it at the end."""

    def __init__(self, backend: Backend, path: Path) -> None:
        self._path = path
        self._backend = backend
        self._writer = WriterThread(backend)
        self._readers = ReaderThreads(self.read)

    @classmethod
    def open(cls, url: str) -> "Database":
        """Open `sqlite:///PATH` or `postgresql+psycopg://USER@HOST/NAME`.

        A SQLite file is created (mode 0600) when it does not exist; a PostgreSQL database is not.

        Raises:
            UnsupportedDatabaseError: Another database, or options we do not take.
            DatabaseUnavailableError: It cannot be created, opened or reached.
        """
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise UnsupportedDatabaseError("the database URL cannot be read") from error
        if parsed.drivername == "postgresql+psycopg":
            # Here, because the driver takes a while to load and SQLite does without it.
            from database.postgresql import PostgresqlBackend  # noqa: PLC0415

            return cls(PostgresqlBackend.open(parsed), Path())
        if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
            return cls(SqliteBackend.open(parsed), Path(parsed.database or ""))
        # The URL itself may hold a password.
        raise UnsupportedDatabaseError(
            f"{parsed.drivername} is not supported; use sqlite:///PATH or "
            "postgresql+psycopg://USER@HOST/NAME"
        )

    @property
    def path(self) -> Path:
        """The file of a SQLite database."""
        return self._path

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction: one consistent picture, in the caller's thread.

        `work` must return plain values: a result that is still open dies with the transaction. It
        runs again when its connection turns out to be of before a restart of the database.

        INVARIANT: never in the thread of an event loop: a database that stalls would stall all the
        loop serves. That is what `fetch` is for.
        """
        self._backend.require_reachable()
        try:
            try:
                return self._read(work)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return self._read(work)
        except DataError as error:
            raise UnstorableValueError("the database cannot hold what was looked for") from error
        except DBAPIError as error:
            raise DatabaseUnavailableError("the database could not be read") from error
        except PoolTimeoutError as error:
            raise DatabaseBusyError("too many reads at once") from error

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._backend.readers.connect() as connection, connection.begin():
            return work(connection)

    async def fetch(self, work: Callable[[Connection], T]) -> T:
        """As `read`, for event loops: in a thread of our own, and for a bounded time.

        Raises:
            DatabaseUnavailableError: Also when the read did not end in time; its thread goes on.
            DatabaseBusyError: Too many reads at once.
        """
        return await self._readers.fetch(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in the writer; returns after the commit that contains it.

        `work` runs in another thread and must not await, block or call the database again. When
        the caller is cancelled, a work that has not begun is dropped, one that has begun commits.
        An exception of `work` is raised here and undoes that work only.

        Raises:
            DatabaseBusyError: It had not begun in time and was dropped, or too many wait.
        """
        submitted = self._writer.submit(work)
        answered = asyncio.wrap_future(submitted)
        try:
            await asyncio.wait((answered,), timeout=WRITE_WAIT_SECONDS)
        except asyncio.CancelledError:
            answered.cancel()
            raise
        # INVARIANT: what has begun is waited for: nobody is refused whose work may be committed.
        if not answered.done() and submitted.cancel():
            raise DatabaseBusyError(_NOT_BEGUN)
        value: T = await answered
        return value

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """As `write`, for threads and the command line: blocks until committed."""
        if self._writer.runs_here():
            raise DatabaseError("a work may not wait for another work")
        submitted = self._writer.submit(work)
        try:
            value: T = submitted.result(WRITE_WAIT_SECONDS)
        except TimeoutError:  # ours, or one of the work's own
            if submitted.cancel():
                raise DatabaseBusyError(_NOT_BEGUN) from None
            value = submitted.result()
        return value

    def data_version(self) -> int:
        """A number that changes whenever anybody, this process included, has committed.

        It never waits for the network. On PostgreSQL it also changes every second, because news
        of other processes is a hint there that may be lost.

        Raises:
            DatabaseUnavailableError: Whether anybody has committed is not known.
        """
        return self._backend.data_version()

    def close(self) -> None:
        """Finish queued writes and close every connection."""
        self._writer.close()
        self._readers.close()
        self._backend.close()
