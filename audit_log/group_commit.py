"""One fsync for all events of the last milliseconds, in a thread, with awaiting callers."""

import asyncio
import threading
from collections.abc import Callable


class GroupCommit:
    """Calls `sync` some milliseconds after the first `notify`, and wakes whom that satisfies.

    `sync` answers the last sequence that is durable, or raises OSError; a failure is final, is
    handed to everyone who waits, and stops the thread.
    """

    def __init__(self, sync: Callable[[], int], delay_seconds: float) -> None:
        """Take what to call and how long to gather events before."""
        self._sync = sync
        self._delay_seconds = delay_seconds
        self._dirty = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._thread = threading.Thread(target=self._run, name="audit-fsync", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self) -> None:
        """Something was written."""
        if not self._dirty.is_set():
            self._dirty.set()

    async def wait_for(self, sequence: int, durable: Callable[[], int]) -> None:
        """Return once `sequence` is durable; `durable()` is the last sequence that is.

        Raises:
            OSError: the disk refused.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if durable() >= sequence:
                return
            self._waiting.append((sequence, loop, future))
        self.notify()
        await future

    def close(self) -> None:
        """Stop the thread; the caller syncs once more by itself."""
        self._stopping.set()
        self._dirty.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._dirty.wait()
            if self._delay_seconds:
                self._stopping.wait(self._delay_seconds)
            # INVARIANT: cleared before the sync, so an event written during it is not forgotten.
            self._dirty.clear()
            try:
                self._wake(self._sync(), None)
            except OSError as error:
                self._wake(None, error)
                return

    def _wake(self, through: int | None, error: OSError | None) -> None:
        with self._lock:
            ready = [w for w in self._waiting if through is None or w[0] <= through]
            self._waiting = [w for w in self._waiting if w not in ready]
        for _, loop, future in ready:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, future, error)


def _settle(future: asyncio.Future[None], error: OSError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
