"""What speaking to a legacy server needs of a connection beyond `Upstream.post`."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mcp_gateway.upstream.protocol import UpstreamReply, UpstreamRequest


class TransportReply(UpstreamReply, Protocol):
    """A reply whose head can be asked for one header."""

    def header(self, name: str) -> str | None:
        """The value of `name`; None when it is absent or two readers could disagree about it."""


class Transport(Protocol):
    """Sends one HTTP request; keeps nothing, follows nothing, repeats nothing."""

    def send(
        self, method: str, request: UpstreamRequest
    ) -> AbstractAsyncContextManager[TransportReply]:
        """As `Upstream.post`, by any method; an empty body is none.

        Raises:
            UpstreamError: on entry, when no head arrived.
        """
