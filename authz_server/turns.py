"""One at a time for each key: whoever needs the same thing waits, others do not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

MAXIMUM_WAITING: Final = 1_000  # keys at once, in one process


@dataclass(slots=True)
class _Place:
    lock: asyncio.Lock
    waiting: int = 0


class Turns:
    """One holder per key, such as a session's id, in this process; forgotten when nobody waits."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[bool]:
        """Wait for this key's turn. False: too many keys are waiting for theirs."""
        if key not in self._places and len(self._places) >= MAXIMUM_WAITING:
            yield False
            return
        place = self._places.setdefault(key, _Place(asyncio.Lock()))
        place.waiting += 1
        try:
            async with place.lock:
                yield True
        finally:
            place.waiting -= 1
            if place.waiting == 0:
                del self._places[key]
