"""What uvicorn with httptools leaves open: how large the head of a request may be, and how slow.

Without this a client could hold a connection for ever by sending one header line a minute, or
send a header of any size, which is kept in memory until it ends. The bodies are bounded where
they are read. The protocol of every listener of ours derives from it.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAXIMUM_HEAD_BYTES: Final = 65_536  # a token may have 16 kB, a proof 4 kB
HEAD_SECONDS: Final = 10.0
FIRST_HEAD_SECONDS: Final = 5.0  # whoever connects wants something


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose next head is larger than `MAXIMUM_HEAD_BYTES` or late."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """A first request must begin to make sense soon."""
        super().connection_made(transport)
        self._head_bytes = self._header_bytes = 0
        self.is_in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._expect_head(FIRST_HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, also inside one endless line."""
        if self.is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        is_too_large = self.is_in_head and self._head_bytes > MAXIMUM_HEAD_BYTES
        if is_too_large and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """A new head begins."""
        super().on_message_begin()
        self.is_in_head = True
        self._head_bytes = self._header_bytes = 0
        self._expect_head(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; a head that arrives whole is counted here."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAXIMUM_HEAD_BYTES:
            # Raised through the parser: answered 400, and the connection is closed.
            raise ValueError("the head of the request is too large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole; what follows has the limits of its reader."""
        self.is_in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def _expect_head(self, seconds: float) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
