"""One child process: started, started again when it dies, drained when nobody wants it any more.

A machine that has no process or descriptor left for a child is asked again later: the child's
siblings serve on meanwhile.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

FIRST_BACKOFF_SECONDS: Final = 0.2
LAST_BACKOFF_SECONDS: Final = 5.0
HEALTHY_SECONDS: Final = 10.0  # a child that lived this long starts again without delay

_logger = structlog.get_logger(__name__)

Start = Callable[[], Awaitable[asyncio.subprocess.Process]]


class KeptProcess:
    """Owns one child from its first start to its drain."""

    def __init__(
        self, name: str, start: Start, clock: Callable[[], float], drain_seconds: float
    ) -> None:
        """Take how to start it, a clock (Unix seconds), and how long it may take to end."""
        self._name = name
        self._start = start
        self._clock = clock
        self._drain_seconds = drain_seconds
        self.was_forced = False

    async def run(self) -> int:
        """Run the child again and again; cancelling drains it.

        Returns only when the first child failed within `HEALTHY_SECONDS` (not when somebody killed
        it): the status.

        Raises:
            OSError: The first child could not be made at all.
        """
        backoff = FIRST_BACKOFF_SECONDS
        is_first = True
        while True:
            try:
                process = await self._start()
            except OSError as error:
                if is_first:
                    raise
                _logger.warning("child.not_started", child=self._name, reason=str(error))
                await asyncio.sleep(backoff)
                backoff = _longer(backoff)
                continue
            started = self._clock()
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                await self._drain(process)
                raise
            if self._clock() - started > HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            elif is_first and status > 0:
                _logger.error("child.cannot_start", child=self._name, status=status)
                return status
            is_first = False
            _logger.warning("child.ended", child=self._name, status=status, restart_seconds=backoff)
            await asyncio.sleep(backoff)
            backoff = _longer(backoff)

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._drain_seconds):
                await process.wait()
        except TimeoutError:
            self.was_forced = True
            process.kill()
            await process.wait()


def _longer(backoff_seconds: float) -> float:
    return min(LAST_BACKOFF_SECONDS, backoff_seconds * 2)
