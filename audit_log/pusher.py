"""Carries what the spool holds to the store: in order, again until acknowledged.

The answer of `send` is the last sequence of that source the store holds durably; only then does
the spool delete. Anything that goes wrong is tried again with growing pauses, for ever: a spool
that cannot be emptied fills up and refuses, it never forgets. A source the store does not take (one
of another Gateway's, left in the directory) keeps no other waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from audit_log.batch import Batch
from audit_log.spool import BATCH_EVENTS, Spool

IDLE_SECONDS: Final = 0.05
HEARTBEAT_SECONDS: Final = 2.0  # an empty batch: the store learns that nothing is missing
ADOPT_SECONDS: Final = 10.0
SEND_SECONDS: Final = 10.0
FIRST_BACKOFF_SECONDS: Final = 0.1
MAXIMUM_BACKOFF_SECONDS: Final = 5.0

Send = Callable[[Batch], Awaitable[int]]

_logger = structlog.get_logger(__name__)


class SpoolPusher:
    """Pushes the own and the adopted sources of one spool."""

    def __init__(self, spool: Spool, *, batch_events: int = BATCH_EVENTS) -> None:
        """Take the spool, and how many events one request carries at most."""
        self._spool = spool
        self._batch_events = batch_events
        self._failed: set[str] = set()  # left alone for a moment: others need not wait for them

    async def run(self, send: Send) -> None:
        """Push until cancelled. Safe to cancel at any point: unacknowledged events are kept."""
        loop = asyncio.get_running_loop()
        adopt_at = heartbeat_at = again_at = loop.time()
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            if loop.time() >= again_at:
                self._failed.clear()
            failed = len(self._failed)
            try:
                if loop.time() >= adopt_at:
                    adopt_at = loop.time() + ADOPT_SECONDS
                    await asyncio.to_thread(self._spool.adopt_orphans)
                if await self._push_one(send):
                    heartbeat_at = loop.time() + HEARTBEAT_SECONDS
                elif loop.time() >= heartbeat_at and self._spool.source not in self._failed:
                    heartbeat_at = loop.time() + HEARTBEAT_SECONDS
                    await self._sent(send, self._spool.heartbeat())
                else:
                    await asyncio.sleep(IDLE_SECONDS)
                if not self._failed:
                    backoff = FIRST_BACKOFF_SECONDS
            except Exception as error:  # noqa: BLE001 - outermost: whatever it is, try again
                _logger.warning("audit_push_failed", error=type(error).__name__)
                again_at = loop.time() + backoff
                backoff = min(backoff * 2, MAXIMUM_BACKOFF_SECONDS)
                if len(self._failed) <= failed:  # no source to leave out: it would fail again
                    await asyncio.sleep(backoff)

    async def drain(self, send: Send, *, within_seconds: float) -> bool:
        """After `Spool.stop`: push what is there; whether all of it went out in time."""
        with suppress(TimeoutError):  # what stays is adopted by the next process
            async with asyncio.timeout(within_seconds):
                while await self._pushed_or_left_out(send):
                    pass
        return self._spool.pending(1) is None

    async def _pushed_or_left_out(self, send: Send) -> bool:
        failed = len(self._failed)
        try:
            return await self._push_one(send)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            _logger.warning("audit_push_failed", error=type(error).__name__)
            return len(self._failed) > failed

    async def _push_one(self, send: Send) -> bool:
        batch = self._spool.pending(self._batch_events, but=self._failed)
        if batch is None:
            return False
        self._spool.acknowledge(batch.source, await self._sent(send, batch))
        return True

    async def _sent(self, send: Send, batch: Batch) -> int:
        try:
            # Not wait_for: on Python 3.11 it can swallow a cancellation that meets the result.
            async with asyncio.timeout(SEND_SECONDS):
                await asyncio.sleep(0)  # a backlog never keeps the loop for itself
                return await send(batch)
        except Exception:
            self._failed.add(batch.source)
            raise
