"""Turns for work that strangers can ask for, so that it never holds up the event loop as a crowd.

Requests that arrive together would otherwise all be computed within one round of the loop, and
the heartbeats of the control channel, which are every gateway's lease, would wait for the sum.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LoopTurns:
    """At most one piece of work per round of the event loop; the others wait in order."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Compute inside, and await nothing: whoever waits, waits for it."""
        async with self._lock:
            try:
                yield
            finally:
                await asyncio.sleep(0)  # everything else that is ready goes first
