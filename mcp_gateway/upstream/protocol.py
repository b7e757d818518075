"""What the pipeline needs of an MCP server's transport. Implementations live beside this file."""

from collections.abc import AsyncIterator, Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from registry.blocks import RevocationEvent, Subject

PROTOCOL_AUTO: Final = "auto"
HOLDER_HEADER: Final = "Countersign-Holder"  # told to the stdio host, and to nobody else
_TOLD_MEDIA_TYPES: Final = frozenset(
    {
        "application/json",
        "application/octet-stream",
        "application/problem+json",
        "text/event-stream",
        "text/html",
        "text/plain",
    }
)
STDIO_SCHEME: Final = "stdio://"  # a server of this machine's stdio host, by its name


@dataclass(frozen=True, slots=True)
class SessionIdentity:
    """For whom a server may keep something between calls.

    INVARIANT: two requests have equal keys only if all that the server could see of the principal
    and of the credential, or a block could hit, is the same. `subjects` are whose revocation ends
    the session. `holder` is whose share it counts against: the person with the agents that act for
    them, whatever run or token it is (hex of a digest, ours alone).
    """

    key: Hashable = field(repr=False)
    subjects: frozenset[Subject] = frozenset()
    holder: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One POST to an MCP server. `headers` are complete and hold the target's credential.

    `timeout_seconds` bounds the wait for the reply's head and for each next part of its body.
    `protocol` is what the operator says of the server's era; without a `session` nothing of this
    request is kept for a later one.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    timeout_seconds: float
    maximum_response_bytes: int
    protocol: str = PROTOCOL_AUTO
    session: SessionIdentity | None = None


class UpstreamReply(Protocol):
    """The head of a reply, and its body as it arrives."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def media_type(self) -> str:
        """The media type in lower case, without parameters; empty when absent."""

    @property
    def content_encoding(self) -> str:
        """The content coding in lower case; `identity` when absent."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body in parts, at once as they arrive.

        Raises:
            UpstreamError: it broke off, fell silent or grew too large.
        """


class Upstream(Protocol):
    """Sends requests to MCP servers: no redirects, no cookies.

    Takes and answers the modern wire form (2026-07-28), whatever the server behind it speaks. What
    is kept between calls is kept under the whole `SessionIdentity`.
    """

    def post(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamReply]:
        """Send and wait for the head; leaving the context closes the exchange at once.

        Raises:
            UpstreamError: on entry, when no head arrived.
        """

    def era_spoken(self, url: str, protocol: str) -> str:
        """How a server is spoken to: modern or legacy, empty while that is not known."""

    def forget(self, event: RevocationEvent) -> None:
        """End whatever is kept for a revoked subject."""

    def forget_all(self) -> None:
        """End whatever is kept."""


def told_media_type(media_type: str) -> str:
    """What may be written down of a reply's media type: a server could put a credential there."""
    if not media_type:
        return "no type"
    return media_type if media_type in _TOLD_MEDIA_TYPES else "another type"


class UpstreamError(Exception):
    """The MCP server could not be asked or did not answer. `code` is a stable word."""

    code = "upstream_error"


class UpstreamUnreachableError(UpstreamError):
    """No connection, or it broke before or during the reply."""

    code = "upstream_unreachable"


class UpstreamTimeoutError(UpstreamError):
    """Silent for longer than the server's timeout."""

    code = "upstream_timeout"


class UpstreamTooLargeError(UpstreamError):
    """The reply exceeds the server's `maximum_response_bytes`."""

    code = "upstream_reply_too_large"


class UpstreamFullError(UpstreamError):
    """The caller has as many sessions there as one may have, or there are too many at all."""

    code = "too_many_sessions"


class UpstreamInvalidError(UpstreamError):
    """The reply is not one an MCP server may send."""

    code = "upstream_reply_invalid"


class InputRequiredError(UpstreamError):
    """The server asks the agent for input, which this gateway does not relay."""

    code = "input_required"
