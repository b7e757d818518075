"""Keeps what was fetched, and that a fetch failed: one fetch per source and cool-down.

A value is fresh for `FRESH_SECONDS`; after that it is fetched again, and if that fails it serves
on until it is `USABLE_SECONDS` old, so that a source that is down for a moment stops nobody and a
key that was withdrawn dies all the same. Whoever misses something in a fresh value may ask for a
newer one; that, and a failure, is answered from memory until the cool-down is over, however many
ask. One fetch per source at a time. Bounded: the source not asked for longest goes first.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from outbound.fetcher import FetchError

FRESH_SECONDS: Final = 300.0
USABLE_SECONDS: Final = 3600.0
COOL_DOWN_SECONDS: Final = 10.0
MAXIMUM_SOURCES: Final = 256

Clock = Callable[[], float]
Value = TypeVar("Value")


@dataclass(slots=True)
class _Entry(Generic[Value]):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: Value | None = None
    fetched_at: float = 0.0
    attempted_at: float = float("-inf")
    failure: FetchError | None = None


class FetchCache(Generic[Value]):
    """Values by source. A source is whatever the fetch depends on, all of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry[Value]] = OrderedDict()

    async def get(
        self,
        source: Hashable,
        fetch: Callable[[], Awaitable[Value]],
        *,
        suffices: Callable[[Value], bool] = lambda _: True,
    ) -> Value:
        """The value of a source: a fresh one that `suffices`, or the newest there may be.

        Raises:
            FetchError: there is none, and the fetch failed now or within the cool-down.
        """
        entry = self._entry(source)
        value = self._good(entry, suffices)
        if value is not None:
            return value
        async with entry.lock:
            value = self._good(entry, suffices)  # somebody may have fetched it meanwhile
            if value is not None:
                return value
            if self._clock() - entry.attempted_at >= COOL_DOWN_SECONDS:
                await self._renew(entry, fetch)
            return self._usable(entry)

    def _entry(self, source: Hashable) -> _Entry[Value]:
        entry = self._entries.get(source)
        if entry is None:
            while len(self._entries) >= MAXIMUM_SOURCES:
                self._entries.popitem(last=False)
            entry = self._entries[source] = _Entry()
        self._entries.move_to_end(source)
        return entry

    def _good(self, entry: _Entry[Value], suffices: Callable[[Value], bool]) -> Value | None:
        value = entry.value
        if value is None or not 0 <= self._clock() - entry.fetched_at < FRESH_SECONDS:
            return None
        return value if suffices(value) else None

    async def _renew(self, entry: _Entry[Value], fetch: Callable[[], Awaitable[Value]]) -> None:
        try:
            value = await fetch()
        except FetchError as error:
            entry.failure, entry.attempted_at = error, self._clock()
            return
        # A fetch that is cancelled counts for nothing: the next one asks itself.
        entry.value, entry.failure = value, None
        entry.fetched_at = entry.attempted_at = self._clock()

    def _usable(self, entry: _Entry[Value]) -> Value:
        if entry.value is not None and self._clock() - entry.fetched_at < USABLE_SECONDS:
            return entry.value
        code = "unreachable" if entry.failure is None else entry.failure.code
        raise FetchError(code, "not to be had; asked again after the cool-down")
