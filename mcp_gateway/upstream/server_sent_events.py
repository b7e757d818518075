"""Reads server-sent events from bytes as they arrive, and writes them (WHATWG HTML §9.2). Pure.

Used for the event streams of tools, which are read and written anew, and to read the control
channel. `last_event_id` and `retry_ms` matter only where a legacy stream is taken up again.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAXIMUM_EVENT_BYTES: Final = 16_777_216
MAXIMUM_EVENT_LINES: Final = 100_000  # also empty lines cost
KEEP_ALIVE: Final = b": \n\n"
_RETRY_DIGITS: Final = 9


class EventTooLargeError(Exception):
    """One event exceeds the cap of the reader."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event; `name` is `message` when the stream named none."""

    name: str
    data: bytes


class EventReader:
    """Feed it chunks, get whole events. Line ends may be CRLF, LF or CR, split anywhere."""

    def __init__(self, maximum_event_bytes: int = MAXIMUM_EVENT_BYTES) -> None:
        """Take the cap on the bytes of one event."""
        self._maximum = maximum_event_bytes
        self._pending = bytearray()
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._start: bytes | None = b""  # what may be a byte order mark; None: it is behind us
        self._id: bytes | None = None
        self.last_event_id: bytes | None = None  # of the last event that was whole
        self.retry_ms: int | None = None
        self.comments = 0  # how many there were: a server keeps a silent stream alive by them

    @property
    def is_within_event(self) -> bool:
        """Whether something came that no empty line has completed."""
        return bool(self._pending or self._data)

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that `chunk` completes.

        Raises:
            EventTooLargeError: an event is larger than the cap.
        """
        chunk = self._without_mark(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._pending += chunk
        if b"\n" not in chunk:  # a long line is not copied again for each of its pieces
            if self._size + len(self._pending) > self._maximum:
                raise EventTooLargeError
            return
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        for line in lines:
            event = self._line(line)
            if event is not None:
                yield event
        if self._size + len(rest) > self._maximum:
            raise EventTooLargeError

    def _without_mark(self, chunk: bytes) -> bytes:
        """The bytes without the one byte order mark a stream may begin with (§9.2.5)."""
        if self._start is None:
            return chunk
        begun = self._start + chunk
        if len(begun) < len(BOM_UTF8) and BOM_UTF8.startswith(begun):
            self._start = begun
            return b""
        self._start = None
        return begun.removeprefix(BOM_UTF8)

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            event = None
            if self._data:
                name = self._name.decode("utf-8", "replace") or "message"
                event = ServerSentEvent(name, b"\n".join(self._data))
            self._name, self._data, self._size = b"", [], 0
            self.last_event_id = self._id
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
            if self._size > self._maximum or len(self._data) > MAXIMUM_EVENT_LINES:
                raise EventTooLargeError
        elif field == b"event":
            self._name = value
        elif field == b"id" and b"\0" not in value:
            self._id = value
        elif not field:
            self.comments += 1
        elif field == b"retry" and len(value) <= _RETRY_DIGITS and value.isdigit():
            self.retry_ms = int(value)
        return None


def event_of(message: bytes) -> bytes:
    """One event; a line end inside the JSON, where it is white space, begins another data line."""
    lines = b"".join(b"data: %b\n" % line for line in message.splitlines())
    return b"event: message\n" + lines + b"\n"
