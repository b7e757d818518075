"""The threads that read for the event loop: few, bounded, and given up on when they stall.

A read in the thread of the event loop stops everything that loop serves, heartbeats of the control
channel included, for as long as the database takes. So it runs here, in order: refused at once when
too many wait; run by one of a few threads, started when they are needed; answered, or given up
after a limit. What was given up on keeps its thread until the database answers or its connection
ends: a database that stalls holds these threads and nothing else, and once all of them wait, so do
the next reads, each no longer than its limit.

The threads are daemons: a process ends whatever the database does.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from database.errors import DatabaseBusyError, DatabaseClosedError, DatabaseUnavailableError

T = TypeVar("T")

READER_THREADS: Final = 8  # as many as connections are kept for reads
MAXIMUM_WAITING: Final = 1_000  # beyond this a caller is refused instead of kept waiting
# Longer than the pool, the busy handler of SQLite and the wait for a thread usually take; shorter
# than what PostgreSQL lets a statement run.
READ_WAIT_SECONDS: Final = 6.0

Work = Callable[[Connection], Any]


class ReaderThreads:
    """Runs reads for an event loop. `read` is the blocking read of the database."""

    def __init__(
        self,
        read: Callable[[Work], Any],
        *,
        threads: int = READER_THREADS,
        maximum_waiting: int = MAXIMUM_WAITING,
        wait_seconds: float = READ_WAIT_SECONDS,
    ) -> None:
        self._read = read
        self._most = threads
        self._maximum_waiting = maximum_waiting
        self._wait_seconds = wait_seconds
        self._queue: queue.SimpleQueue[tuple[Work, Future[Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._outstanding = 0  # waiting and running
        self._is_closed = False

    async def fetch(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction of one of the threads.

        Raises:
            DatabaseUnavailableError: It did not end in time.
            DatabaseBusyError: Too many reads wait already.
            DatabaseClosedError: The database was closed.
        """
        result = self._submitted(work)
        try:
            async with asyncio.timeout(self._wait_seconds):
                value: T = await asyncio.wrap_future(result)
        except TimeoutError as error:
            raise DatabaseUnavailableError("the database did not answer a read in time") from error
        return value

    def close(self) -> None:
        """Start nothing any more. Reads that wait are refused, those that run end by themselves."""
        with self._lock:
            self._is_closed = True
            started = self._started
        for _ in range(started):
            self._queue.put(None)

    def _submitted(self, work: Work) -> "Future[Any]":
        result: Future[Any] = Future()
        with self._lock:
            if self._is_closed:
                raise DatabaseClosedError("the database is closed")
            if self._outstanding >= self._maximum_waiting:
                raise DatabaseBusyError("too many reads are waiting")
            self._outstanding += 1
            self._queue.put((work, result))
            if self._started < min(self._most, self._outstanding):
                self._started += 1
                name = f"database-reader-{self._started}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
        return result

    def _run(self) -> None:
        while (queued := self._queue.get()) is not None:
            work, result = queued
            try:
                self._answer(work, result)
            finally:
                with self._lock:
                    self._outstanding -= 1
                del work, result, queued  # the next wait must not keep what was read

    def _answer(self, work: Work, result: "Future[Any]") -> None:
        if not result.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        if self._is_closed:
            result.set_exception(DatabaseClosedError("the database was closed before this read"))
            return
        try:
            value = self._read(work)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whose it is
            result.set_exception(error)
        else:
            result.set_result(value)
