"""The one writer of a process: a thread that commits queued works in groups.

Order of one group: wait for a first work, take the write lock of all processes (what that is, each
backend says), run that work and whatever else is queued, each in a savepoint of its own, commit
once, then answer everybody. A work that raises is rolled back alone and its exception goes to its
caller. INVARIANT: nobody is told of success before the commit that contains their work returned.

Left out: retrying a work. A work runs at most once. What is retried is taking the lock, once, on a
new connection: the old one may be of before a restart of the database.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    PendingRollbackError,
    SQLAlchemyError,
)

from database.backend import Backend
from database.errors import (
    DatabaseBusyError,
    DatabaseClosedError,
    DatabaseUnavailableError,
    UnstorableValueError,
)

MAXIMUM_QUEUED_WORKS: Final = 10_000  # beyond this a caller is refused instead of kept waiting
MAXIMUM_GROUP_SECONDS: Final = 0.02  # then commit: other processes want the write lock as well
CLOSE_WAIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Queued:
    """A work and where its result goes."""

    work: Callable[[Connection], Any]
    result: "Future[Any]"


class WriterThread:
    """Runs works one after the other on one connection, several to a commit."""

    def __init__(self, backend: Backend, *, maximum_queued: int = MAXIMUM_QUEUED_WORKS) -> None:
        self._backend = backend
        self._queue: queue.Queue[_Queued | None] = queue.Queue(maximum_queued)
        self._closing = threading.Event()
        self._ended = False  # the end marker was read; only the thread touches it
        self._submitting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Connection], Any]) -> "Future[Any]":
        """Queue `work`; the future is done after the commit that contains it.

        Raises:
            DatabaseClosedError: The writer was closed.
            DatabaseBusyError: Too many works are waiting.
        """
        queued = _Queued(work, Future())
        with self._submitting:
            if self._closing.is_set() or not self._thread.is_alive():
                raise DatabaseClosedError("the database is closed")
            try:
                self._queue.put_nowait(queued)
            except queue.Full:
                raise DatabaseBusyError("too many writes are waiting") from None
        return queued.result

    def runs_here(self) -> bool:
        """Whether the caller is inside a work: waiting for another one would never end."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Finish what is queued, then stop. Works still waiting after that are refused."""
        with self._submitting:
            if self._closing.is_set():
                return
            self._closing.set()
        try:
            self._queue.put(None, timeout=CLOSE_WAIT_SECONDS)
        except queue.Full:
            return  # the thread hangs in a work; it dies with the process
        self._thread.join(CLOSE_WAIT_SECONDS)
        self._refuse_waiting()

    def _run(self) -> None:
        connection: Connection | None = None
        group: list[_Queued] = []
        try:
            while group := self._first():
                try:
                    connection, transaction = self._begun(connection)
                    self._commit_group(connection, transaction, group)
                except Exception as error:  # noqa: BLE001 - all of the group must hear of it
                    _refuse(group, _translated(error))
                    _discard(connection)
                    connection = None
        finally:
            # Whatever ended this thread, nobody may wait for ever.
            with self._submitting:
                self._closing.set()
            _refuse(group, DatabaseClosedError("the writer ended during this write"))
            self._refuse_waiting()
            _discard(connection)

    def _first(self) -> list[_Queued]:
        """The work that opens the next group; empty at the end."""
        while not self._ended:
            queued = self._queue.get()
            if queued is None:
                self._ended = True
            elif queued.result.set_running_or_notify_cancel():
                return [queued]
        return []

    def _begun(self, connection: Connection | None) -> tuple[Connection, RootTransaction]:
        """The write lock, on the connection of last time if that still serves."""
        self._backend.require_reachable()
        if connection is not None:
            try:
                return connection, connection.begin()
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                _discard(connection)
        connection = self._backend.writing.connect()
        try:
            return connection, connection.begin()
        except BaseException:
            _discard(connection)
            raise

    def _commit_group(
        self, connection: Connection, transaction: RootTransaction, group: list[_Queued]
    ) -> None:
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        until = time.monotonic() + MAXIMUM_GROUP_SECONDS
        with transaction:
            outcomes.append(_outcome(connection, group[0]))
            while len(group) < self._backend.maximum_group and time.monotonic() < until:
                queued = self._next_without_waiting()
                if queued is None:
                    break
                group.append(queued)
                outcomes.append(_outcome(connection, queued))
        self._backend.committed()
        for result, value, error in outcomes:
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)

    def _next_without_waiting(self) -> _Queued | None:
        while not self._ended:
            try:
                queued = self._queue.get_nowait()
            except queue.Empty:
                return None
            if queued is None:
                self._ended = True
            elif queued.result.set_running_or_notify_cancel():
                return queued
        return None

    def _refuse_waiting(self) -> None:
        waiting = []
        while True:
            try:
                queued = self._queue.get_nowait()
            except queue.Empty:
                break
            if queued is not None:
                waiting.append(queued)
        _refuse(waiting, DatabaseClosedError("the database was closed before this write"))


def _outcome(
    connection: Connection, queued: _Queued
) -> tuple["Future[Any]", Any, Exception | None]:
    """Run one work in its savepoint."""
    savepoint = connection.begin_nested()
    try:
        value = queued.work(connection)
        savepoint.commit()
    except Exception as error:  # noqa: BLE001 - handed to the caller, whose exception it is
        if savepoint.is_active:
            savepoint.rollback()
        return queued.result, None, _translated(error)
    return queued.result, value, None


def _refuse(group: list[_Queued], error: Exception) -> None:
    for queued in group:
        if not queued.result.done():
            queued.result.set_exception(error)


def _translated(error: Exception) -> Exception:
    """The database's own failures as ours; an IntegrityError is for the work's caller to read."""
    if isinstance(error, IntegrityError):
        return error
    if isinstance(error, DataError):
        unstorable = UnstorableValueError("the database cannot hold a value of the write")
        unstorable.__cause__ = error
        return unstorable
    if isinstance(error, DBAPIError | PendingRollbackError):
        unavailable = DatabaseUnavailableError("the database did not accept the write")
        unavailable.__cause__ = error
        return unavailable
    return error


def _discard(connection: Connection | None) -> None:
    """INVARIANT: never raises, whatever has become of the connection: the writer must go on."""
    if connection is None or connection.closed:
        return
    with contextlib.suppress(SQLAlchemyError):
        connection.invalidate()
    with contextlib.suppress(SQLAlchemyError):
        connection.close()
