"""The calls in flight of one legacy session, by request id, so that they can be cancelled by name.

Ids are the session's: another one may use the same. Two calls of one session may as well (each
POST has its own reply); a cancellation then means both.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mcp_gateway.inbound import RequestId


class InFlight:
    """One call, from its arrival on: a cancellation may come before there is much to cancel."""

    def __init__(self) -> None:
        """Start as not cancelled."""
        self.is_cancelled = False
        self._callback: Callable[[], None] | None = None

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Call `callback` when cancelled; at once if that has happened."""
        self._callback = callback
        if self.is_cancelled:
            callback()

    def cancel(self) -> None:
        """The agent wants no reply any more."""
        self.is_cancelled = True
        if self._callback is not None:
            self._callback()


class InFlightCalls:
    """The calls of one session. Bounded by what its principal may have in flight."""

    def __init__(self) -> None:
        """Start with none."""
        self._calls: dict[tuple[type, RequestId], list[InFlight]] = {}
        self._number = 0

    def __len__(self) -> int:
        return self._number

    @contextmanager
    def registered(self, request_id: RequestId) -> Iterator[InFlight]:
        """Keep a call reachable while it runs. The id 1 is not the id "1"."""
        key, call = (type(request_id), request_id), InFlight()
        self._calls.setdefault(key, []).append(call)
        self._number += 1
        try:
            yield call
        finally:
            self._number -= 1
            same = self._calls[key]
            same.remove(call)
            if not same:
                del self._calls[key]

    def cancel(self, request_id: RequestId) -> None:
        """Cancel the calls with this id."""
        for call in tuple(self._calls.get((type(request_id), request_id), ())):
            call.cancel()

    def cancel_all(self) -> None:
        """Cancel every call."""
        for calls in tuple(self._calls.values()):
            for call in tuple(calls):
                call.cancel()
