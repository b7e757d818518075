"""How a record lies in a spool segment: `LENGTH CRC32 JSON` and a newline, numbers in hex digits.

Pure. A record counts only when all of it is there and its checksum holds, so a write that a crash
cut short is never taken for an event.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HEADER_BYTES: Final = 18  # "0000002a 1c291ca3 "
MAXIMUM_PAYLOAD_BYTES: Final = 65_536  # an event is a few hundred bytes; far more is a fault


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole record: `payload` is its JSON, `end` the offset after its newline."""

    payload: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """All whole records of a segment; `size` is the bytes they alone would take.

    `has_tail`: bytes that are no record follow the last: a write cut short. `has_gap`: such bytes
    lie *between* records: damage.
    """

    frames: tuple[Frame, ...]
    size: int
    has_tail: bool
    has_gap: bool


def encode_frame(payload: bytes) -> bytes:
    """The bytes to append for one record."""
    return b"%08x %08x %b\n" % (len(payload), zlib.crc32(payload), payload)


def frames_from_start(data: bytes) -> Iterator[Frame]:
    """The records at the start of `data`, up to the first that is not whole."""
    position = 0
    while (frame := _frame_at(data, position)) is not None:
        yield frame
        position = frame.end


def scan_segment(data: bytes) -> Scan:
    """Every whole record of a segment, also behind damage (records end with a newline)."""
    frames: list[Frame] = []
    position, skipped, has_gap = 0, False, False
    while position < len(data):
        frame = _frame_at(data, position)
        if frame is None:
            skipped = True
            newline = data.find(b"\n", position)
            position = len(data) if newline < 0 else newline + 1
            continue
        has_gap = has_gap or skipped
        frames.append(frame)
        position = frame.end
    size = sum(HEADER_BYTES + len(frame.payload) + 1 for frame in frames)
    has_tail = len(data) > (frames[-1].end if frames else 0)
    return Scan(tuple(frames), size, has_tail, has_gap)


def _frame_at(data: bytes, start: int) -> Frame | None:
    header = data[start : start + HEADER_BYTES]
    if len(header) < HEADER_BYTES or header[8] != 0x20 or header[17] != 0x20:  # noqa: PLR2004 - a space
        return None
    try:
        length, checksum = int(header[:8], 16), int(header[9:17], 16)
    except ValueError:
        return None
    end = start + HEADER_BYTES + length + 1
    payload = data[start + HEADER_BYTES : end - 1]
    if not 0 <= length <= MAXIMUM_PAYLOAD_BYTES or data[end - 1 : end] != b"\n":
        return None
    return Frame(payload, end) if zlib.crc32(payload) == checksum else None
