"""The seam to the web server: one request in, one reply out. The pipeline knows nothing else.

`asgi.py` feeds it from ASGI; another front end would implement the same two shapes. Header names
are lower case, values are the bytes of the wire.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

RawHeaders = tuple[tuple[bytes, bytes], ...]


class Headers:
    """Request header lines, with repeats kept visible: a folded mapping would hide them."""

    __slots__ = ("_lines",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        """Collect the lines by lower-case name, in the order of the wire."""
        lines: dict[bytes, list[str]] = {}
        for name, value in raw:
            lines.setdefault(name.lower(), []).append(value.decode("latin-1"))
        self._lines = lines

    def all(self, name: bytes) -> list[str]:
        """Every value of `name`."""
        return self._lines.get(name, [])

    def first(self, name: bytes) -> str | None:
        """The first value of `name`; only where `is_repeated` was asked before."""
        values = self._lines.get(name)
        return values[0] if values else None

    def is_repeated(self, name: bytes) -> bool:
        """Whether two readers could disagree about `name`."""
        return len(self._lines.get(name, ())) > 1

    def names(self) -> Iterable[bytes]:
        """Every header name present."""
        return self._lines.keys()


@dataclass(frozen=True, slots=True)
class BodyProblem:
    """Why a body was not read to its end."""

    status: int
    description: str


class PeerLeftError(Exception):
    """The peer takes no more bytes."""


@dataclass(frozen=True, slots=True)
class InboundRequest:
    """One HTTP request. `path` is undecoded: `/%63rm/mcp` is not `/crm/mcp`.

    `target_origin` is `scheme://authority` of an absolute-form request target (RFC 9112 §3.2.2).
    `is_trailer_safe` says that no trailer field can be among `headers`. `read_body` applies the
    size and time limits and may be awaited once.
    """

    method: str
    path: str
    headers: Headers
    read_body: Callable[[], Awaitable[bytes | BodyProblem]]
    target_origin: str | None = None
    is_trailer_safe: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete reply."""

    status: int
    headers: RawHeaders
    body: bytes


class Reply(Protocol):
    """Where a reply goes. `write` returns when the peer has drained below a mark."""

    @property
    def status(self) -> int:
        """The HTTP status that was sent; 0 before."""

    @property
    def is_started(self) -> bool:
        """Whether a status has been sent."""

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, soon after the peer gave the call up by going away."""

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Call `callback` if the peer cancels the call by saying so."""

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send the status and headers."""

    async def write(self, chunk: bytes) -> None:
        """Send a part of the body."""

    async def finish(self, last: bytes = b"") -> None:
        """Send the last part of the body, and end it cleanly."""

    def abort(self) -> None:
        """Cut the connection: the peer must see that the body is not complete."""
