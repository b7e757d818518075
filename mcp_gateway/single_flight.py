"""One at a time per key: whoever comes second waits and then finds what the first one made."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Flight:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class SingleFlight(Generic[K]):
    """Locks by key, each as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        """Start with none."""
        self._flights: dict[K, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @asynccontextmanager
    async def of(self, key: K) -> AsyncIterator[None]:
        """Hold `key`. If its holder is cancelled, the next one goes on."""
        flight = self._flights.setdefault(key, _Flight())
        flight.waiting += 1
        try:
            async with flight.lock:
                yield
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._flights.pop(key, None)
