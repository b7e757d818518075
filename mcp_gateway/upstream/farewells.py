"""What a server is still told when nobody waits any more: owned, bounded, and never waited for.

A call that was given up or a session that is over costs the server something until it hears of it;
the agent, or a kill, must not wait for that. So it is said in tasks of this owner, each with its
own time limit, all of them ended by `aclose`.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from mcp_gateway.upstream.protocol import UpstreamError

MAXIMUM_TASKS: Final = 512
SECONDS: Final = 2.0


class Farewells:
    """Runs farewells; beyond `MAXIMUM_TASKS` they are left unsaid."""

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def say(self, farewell: Coroutine[Any, Any, None]) -> bool:
        """Begin one; it has `SECONDS`. False: there are too many, and it was not begun."""
        if len(self._tasks) >= MAXIMUM_TASKS:
            farewell.close()
            return False
        task = asyncio.get_running_loop().create_task(_within_limits(farewell))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def aclose(self) -> None:
        """Let those under way come to their end, within their time."""
        while self._tasks:
            await asyncio.wait(self._tasks, timeout=SECONDS)
            for task in self._tasks:
                task.cancel()


async def _within_limits(farewell: Coroutine[Any, Any, None]) -> None:
    with suppress(UpstreamError, TimeoutError):
        async with asyncio.timeout(SECONDS):
            await farewell
