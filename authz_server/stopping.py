"""That this process was asked to end, for the responses that would otherwise never finish."""

import anyio


class Stopping:
    """Set once. Open event streams wait on it; new ones are refused."""

    def __init__(self) -> None:
        self._begun = anyio.Event()

    def begin(self) -> None:
        """Finish now. Call it from the event loop when the server starts its shutdown."""
        self._begun.set()

    @property
    def has_begun(self) -> bool:
        """Whether the process is ending."""
        return self._begun.is_set()

    async def wait(self) -> None:
        """Return when the process is asked to end."""
        await self._begun.wait()
