"""PostgreSQL: many processes on many machines, one writer at a time.

What `BEGIN IMMEDIATE` is on SQLite, one advisory lock is here: beginning a write takes it, the
commit or rollback gives it back. READ COMMITTED, so that each statement sees everything that was
committed before the lock was ours; a snapshot taken while we waited for it would be too old.
INVARIANT: writes are committed one after the other in the order they got the lock. A number taken
from a counter inside a write is therefore never seen before a smaller one, and a reader that has
seen a number has missed none. Reads are REPEATABLE READ, READ ONLY: one picture.

Nothing waits for ever: connecting, a statement, the lock, a silent network, and a writer that
stalls inside its write each have a limit. A connection that is lost at the commit leaves unknown
whether the group stands; its callers are refused.
"""

from functools import partial
from typing import Any, Final

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from database.errors import (
    DatabaseBusyError,
    DatabaseUnavailableError,
    UnsupportedDatabaseError,
)
from database.postgresql_news import CommitNews
from database.postgresql_url import connection_options

READ_POOL: Final = 8
READ_OVERFLOW: Final = 8
POOL_WAIT_SECONDS: Final = 5.0
STATEMENT_MS: Final = 10_000
LOCK_WAIT_MS: Final = 5_000  # for another process to finish its write
# A process that stopped inside a write (a paused machine) loses its connection and so the lock.
STALLED_WRITE_MS: Final = 5_000
# More savepoints of one transaction than this spill to disk for every reader (PostgreSQL's
# PGPROC_MAX_CACHED_SUBXIDS is 64).
MAXIMUM_GROUP: Final = 60
OLDEST_SERVER: Final = 140_000  # as `server_version_num`
# One number for all processes on a database: the letters of "counters".
WRITE_LOCK: Final = 0x636F756E74657273
CHANNEL: Final = "countersign_commit"

# NOTIFY is delivered at the commit, wherever in the transaction it was asked for.
_BEGIN_WRITING: Final = f"SELECT pg_advisory_xact_lock({WRITE_LOCK}), pg_notify('{CHANNEL}', '')"
_LOCK_NOT_AVAILABLE: Final = "55P03"


class PostgresqlBackend:
    """The connections of one process to one PostgreSQL database."""

    maximum_group = MAXIMUM_GROUP

    def __init__(self, url: URL, options: dict[str, Any]) -> None:
        self.readers = _engine(url, options, read_only=True)
        self.writing = _engine(url, options, read_only=False)
        event.listen(self.writing, "begin", _begin_writing)
        self._news = CommitNews(partial(_listening, self.writing.dialect, url, options))

    @classmethod
    def open(cls, url: URL) -> "PostgresqlBackend":
        """Open `postgresql+psycopg://USER@HOST/NAME`.

        Raises:
            UnsupportedDatabaseError: Options we do not take, or a server we cannot use.
            DatabaseUnavailableError: It cannot be reached or does not let us in.
        """
        options = connection_options(url)
        opened = cls(url, options)
        try:
            with opened.writing.connect() as connection:
                _require_usable(connection)
            opened._news.start()
        except DBAPIError as error:
            opened.close()
            # What libpq says names host, user and file, never a password.
            why = str(error.orig).partition("\n")[0]
            raise DatabaseUnavailableError(
                f"cannot reach the database {url.database}: {why}"
            ) from error
        except BaseException:
            opened.close()
            raise
        return opened

    def require_reachable(self) -> None:
        """Refuse at once while the last attempt to connect failed."""
        self._news.require_reachable()

    def committed(self) -> None:
        """Our own commit; the notification of it may arrive later."""
        self._news.heard()

    def data_version(self) -> int:
        """A number that changes with every commit we hear of, and every second."""
        return self._news.version()

    def close(self) -> None:
        """Close every connection."""
        self._news.close()
        self.readers.dispose()
        self.writing.dispose()


def _engine(url: URL, options: dict[str, Any], *, read_only: bool) -> Engine:
    engine = create_engine(
        url,
        connect_args=options,
        pool_size=READ_POOL if read_only else 1,
        max_overflow=READ_OVERFLOW if read_only else 0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_use_lifo=True,
        # A password hash is a value: it must not get into the text of an error.
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare_reader if read_only else _prepare_writer)
    event.listen(engine, "handle_error", _without_values)
    return engine


def _prepare_reader(connection: Any, _record: object) -> None:  # noqa: ANN401 - SQLAlchemy's event
    _limit(connection)
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True


def _prepare_writer(connection: Any, _record: object) -> None:  # noqa: ANN401 - SQLAlchemy's event
    _limit(connection)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False


def _limit(connection: "psycopg.Connection[Any]") -> None:
    """Whatever the role's or the server's defaults are, these hold."""
    connection.autocommit = True
    connection.execute(
        "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
        " set_config('idle_in_transaction_session_timeout', %s, false),"
        " set_config('timezone', 'UTC', false),"
        # What was answered as done survives loss of power; stricter settings stay.
        " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
        " WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)",
        (str(STATEMENT_MS), str(LOCK_WAIT_MS), str(STALLED_WRITE_MS)),
    )
    connection.autocommit = False


def _listening(dialect: Any, url: URL, options: dict[str, Any]) -> "psycopg.Connection[Any]":  # noqa: ANN401 - no type of SQLAlchemy's
    """A connection of its own that hears of commits."""
    arguments, named = dialect.create_connect_args(url)
    connection = psycopg.connect(*arguments, **{**named, **options}, autocommit=True)
    try:
        _limit(connection)
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}".encode())
    except BaseException:
        connection.close()
        raise
    return connection


def _require_usable(connection: Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if encoding != "UTF8":
        raise UnsupportedDatabaseError(f"the database's encoding is {encoding}; it must be UTF8")
    if version < OLDEST_SERVER:
        raise UnsupportedDatabaseError("PostgreSQL before 14 is not supported")


def _begin_writing(connection: Connection) -> None:
    """Take the write lock of all processes, and tell them at the commit."""
    try:
        connection.exec_driver_sql(_BEGIN_WRITING)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise DatabaseBusyError("another process keeps the write lock") from error
        raise


def _without_values(context: ExceptionContext) -> None:
    """Keep the first line of what PostgreSQL says: the next ones quote the row."""
    original, wrapped = context.original_exception, context.sqlalchemy_exception
    if not isinstance(original, psycopg.Error) or wrapped is None:
        return
    said = str(original)
    first = said.partition("\n")[0]
    original.args = (first,)
    wrapped.args = tuple(
        each.replace(said, first) if isinstance(each, str) else each for each in wrapped.args
    )
