"""An answer that costs something, made for one caller at a time and shared by those behind it."""

from collections.abc import Awaitable, Callable

import anyio


class SharedAnswer:
    """The last answer of this process, repeated while it is younger than `same_for_ms`."""

    def __init__(self, same_for_ms: int) -> None:
        self._same_for_ms = same_for_ms
        self._last: object = None
        self._made_at_ms: int | None = None
        self._making = anyio.Lock()

    async def get(self, make: Callable[[], Awaitable[object]], now_ms: Callable[[], int]) -> object:
        """The last answer, or a new one. `now_ms` is Unix milliseconds."""
        async with self._making:
            if self._made_at_ms is None or not (
                0 <= now_ms() - self._made_at_ms < self._same_for_ms
            ):
                self._last = await make()
                self._made_at_ms = now_ms()
            return self._last
