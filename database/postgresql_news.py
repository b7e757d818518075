"""Hears of commits: a thread with a connection of its own that listens.

A notification is a hint: it makes whoever follows the database look sooner. INVARIANT: nothing
depends on its arrival. The version changes at least every second by itself, and at each connect,
so what a lost connection or a pooler swallowed is seen a second later.

The thread also knows whether the database is there. While connecting fails, `require_reachable`
refuses at once what would only wait. Once nothing was confirmed for three seconds, by an answer
over this connection, both refuse: whoever follows the database then grows stale and fails closed.
Every wait of the thread is bounded (`database.postgresql_url`); it tries again for ever.
"""

import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from database.errors import DatabaseUnavailableError

LOOK_SECONDS: Final = 1.0  # the version changes, and the server is asked, this often
COALESCE_SECONDS: Final = 0.005  # commits in a row are one piece of news
CONFIRMED_SECONDS: Final = 3.0
RECONNECT_SECONDS: Final = 0.25
FIRST_SECONDS: Final = 10.0


class CommitNews:
    """A version that changes with every commit anybody made."""

    def __init__(self, connect: Callable[[], "psycopg.Connection[Any]"]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._version = 0
        self._confirmed_at: float | None = None
        self._is_reachable = True
        self._first = threading.Event()
        self._closing = threading.Event()
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="database-news", daemon=True)

    def start(self) -> None:
        """Begin to listen; returns once we do.

        Raises:
            DatabaseUnavailableError: We cannot.
        """
        self._thread.start()
        if not self._first.wait(FIRST_SECONDS):
            raise DatabaseUnavailableError("the database does not let us listen")

    def heard(self) -> None:
        """Somebody committed, or may have."""
        with self._lock:
            self._version += 1

    def version(self) -> int:
        """What changes when somebody has committed.

        Raises:
            DatabaseUnavailableError: We would not know.
        """
        with self._lock:
            confirmed, version = self._confirmed_at, self._version
        if confirmed is None or time.monotonic() - confirmed > CONFIRMED_SECONDS:
            raise DatabaseUnavailableError("the database was not heard of for too long")
        return version

    def require_reachable(self) -> None:
        """Refuse what would only wait: the last attempt to connect failed, or nothing answers.

        Raises:
            DatabaseUnavailableError: That is so.
        """
        if not self._is_reachable:
            raise DatabaseUnavailableError("the database cannot be reached")
        self.version()

    def close(self) -> None:
        """Stop listening."""
        if self._closing.is_set():
            return
        self._closing.set()
        os.write(self._wake, b".")
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._wake)
        os.close(self._woken)
        with self._lock:
            self._confirmed_at = None

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                connection = self._connect()
            except psycopg.Error:
                self._is_reachable = False
                self._closing.wait(RECONNECT_SECONDS)
                continue
            try:
                self._follow(connection)
            except psycopg.Error:
                pass  # connect again at once: whether that fails says whether it is there
            finally:
                connection.close()

    def _follow(self, connection: "psycopg.Connection[Any]") -> None:
        self._confirm()
        with selectors.DefaultSelector() as arriving:
            arriving.register(self._woken, selectors.EVENT_READ)
            arriving.register(connection.fileno(), selectors.EVENT_READ)
            asked_at = time.monotonic()
            while not self._closing.is_set():
                left = asked_at + LOOK_SECONDS - time.monotonic()
                if left <= 0:
                    connection.execute("SELECT 1")
                    self._confirm()
                    asked_at = time.monotonic()
                elif arriving.select(left):
                    for _ in connection.notifies(timeout=0):
                        self.heard()
                    self._closing.wait(COALESCE_SECONDS)

    def _confirm(self) -> None:
        with self._lock:
            self._version += 1
            self._confirmed_at = time.monotonic()
        self._is_reachable = True
        self._first.set()
