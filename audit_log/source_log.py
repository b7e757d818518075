"""The files of one source: a locked directory of append-only segments.

`ROOT/SOURCE/lock` is held by flock while the source's process lives, so a directory whose lock
can be taken belongs to nobody. `ROOT/SOURCE/<first sequence>.log` are the segments, in the format
of `framing`. A segment whose events are all acknowledged is deleted; intents in it that still
await their outcome are carried over in `ROOT/SOURCE/open-intents`, so that a later crash can
still report them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from audit_log.event import AuditEvent, EventType, Outcome
from audit_log.framing import encode_frame, frames_from_start

LOCK_NAME: Final = "lock"
OPEN_INTENTS_NAME: Final = "open-intents"
SEGMENT_SUFFIX: Final = ".log"
MAXIMUM_SEGMENT_BYTES: Final = 4 * 1024 * 1024
IDLE_SEGMENT_BYTES: Final = 256 * 1024  # an acknowledged live segment larger than this is deleted
READ_BYTES: Final = 1024 * 1024  # one batch; more than one frame at its largest

_encode_intents = msgspec.json.Encoder().encode


class _SequenceOnly(msgspec.Struct):
    sequence: int


_decode_sequence = msgspec.json.Decoder(_SequenceOnly).decode


@dataclass(slots=True)
class Segment:
    """One file. `last` is its last sequence (`first - 1` when empty), `size` its bytes.

    `read_offset` is where the first event not yet acknowledged begins.
    """

    path: Path
    first: int
    last: int
    size: int
    read_offset: int = 0


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as it lies in the segment: its JSON, and where to go on reading after it."""

    sequence: int
    payload: bytes
    segment: Segment
    end: int


@dataclass(slots=True)
class SourceLog:
    """One source's segments, oldest first; the last is the one appended to.

    Not safe for threads by itself: the spool calls it under its lock. `size` is bytes on disk;
    `unsynced` are descriptors of finished segments that still want an fsync and a close.
    """

    source: str
    directory: Path
    lock_descriptor: int
    segments: list[Segment] = field(default_factory=list)
    open_intents: dict[str, AuditEvent] = field(default_factory=dict)
    damaged: bool = False
    size: int = 0
    descriptor: int = -1
    unsynced: list[int] = field(default_factory=list)
    _last_read: tuple[StoredEvent, ...] = ()
    _needs_cut: bool = False

    @property
    def high_water(self) -> int:
        """The last sequence appended; 0 before the first."""
        return self.segments[-1].last if self.segments else 0

    @property
    def is_acknowledged(self) -> bool:
        """Whether nothing is left to push."""
        return all(segment.read_offset == segment.size for segment in self.segments)

    @property
    def backlog_bytes(self) -> int:
        """How much is left to push."""
        return sum(segment.size - segment.read_offset for segment in self.segments)

    def start_segment(self) -> None:
        """Append to a new file from now on."""
        first = self.segments[-1].last + 1 if self.segments else 1
        path = self.directory / f"{first:020d}{SEGMENT_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        if self.descriptor >= 0:
            self.unsynced.append(self.descriptor)
        self.descriptor = descriptor
        self.segments.append(Segment(path, first, first - 1, 0))

    def reopen_last_segment(self) -> None:
        """Append to the newest existing file."""
        self.descriptor = os.open(self.segments[-1].path, os.O_WRONLY | os.O_APPEND)

    def append(self, event: AuditEvent, payload: bytes) -> None:
        """Write one record with one system call.

        INVARIANT: `event.sequence` is `high_water + 1` and becomes it only when all bytes are in
        the file; after a failed or short write the next append first cuts the file back.

        Raises:
            OSError: nothing was appended.
        """
        segment = self.segments[-1]
        if segment.size >= MAXIMUM_SEGMENT_BYTES:
            self.start_segment()
            segment = self.segments[-1]
        record = encode_frame(payload)
        if self._needs_cut:
            os.ftruncate(self.descriptor, segment.size)
            self._needs_cut = False
        self._needs_cut = True
        written = os.write(self.descriptor, record)
        if written != len(record):
            raise OSError("short write to the audit spool")
        self._needs_cut = False
        segment.size += written
        self.size += written
        segment.last = event.sequence
        note_intent(self.open_intents, event)

    def read(self, limit: int, through: int) -> tuple[StoredEvent, ...]:
        """The oldest unacknowledged events, at most `limit`, none after sequence `through`."""
        found: list[StoredEvent] = []
        for segment in self.segments:
            if len(found) >= limit or segment.read_offset == segment.size:
                continue
            with segment.path.open("rb") as file:
                file.seek(segment.read_offset)
                data = file.read(min(READ_BYTES, segment.size - segment.read_offset))
            for frame in frames_from_start(data):
                sequence = _decode_sequence(frame.payload).sequence
                if len(found) >= limit or sequence > through:
                    break
                end = segment.read_offset + frame.end
                found.append(StoredEvent(sequence, frame.payload, segment, end))
            break  # one segment per batch: a batch stays small and its order is plain
        self._last_read = tuple(found)
        return self._last_read

    def acknowledge(self, sequence: int) -> None:
        """Forget what was read up to `sequence`, and delete segments nobody needs."""
        for event in self._last_read:
            if event.sequence <= sequence:
                event.segment.read_offset = event.end
        live = self.segments[-1]
        if self.is_acknowledged and live.size > IDLE_SEGMENT_BYTES:
            self.start_segment()
        finished = [s for s in self.segments[:-1] if s.read_offset == s.size]
        if not finished:
            return
        self._carry_open_intents(finished[-1].last)
        for segment in finished:
            segment.path.unlink(missing_ok=True)
            self.segments.remove(segment)
            self.size -= segment.size

    def _carry_open_intents(self, through: int) -> None:
        """Keep intents of segments about to be deleted that have no outcome yet."""
        carried = [event for event in self.open_intents.values() if event.sequence <= through]
        path = self.directory / OPEN_INTENTS_NAME
        if not carried:
            path.unlink(missing_ok=True)
            return
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(_encode_intents(carried))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def close(self) -> None:
        """Release the files and the lock; the directory stays for whoever adopts it."""
        for descriptor in (*self.unsynced, self.descriptor, self.lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self.unsynced, self.descriptor, self.lock_descriptor = [], -1, -1

    def remove(self) -> None:
        """Delete the directory of a source that has nothing left to say."""
        for path in self.directory.iterdir():
            path.unlink(missing_ok=True)
        self.directory.rmdir()
        self.close()


def note_intent(open_intents: dict[str, AuditEvent], event: AuditEvent) -> None:
    """Follow which allowed decisions still await their outcome."""
    if event.decision_id is None:
        return
    if event.type is EventType.CALL_DECIDED and event.outcome is Outcome.ALLOWED:
        open_intents[event.decision_id] = event
    elif event.type is EventType.CALL_FINISHED:
        open_intents.pop(event.decision_id, None)


def create_source_log(root: Path, source: str) -> SourceLog:
    """A new, locked source directory. The caller holds the lock of `root`.

    Raises:
        OSError: the directory cannot be written.
    """
    directory = root / source
    directory.mkdir(mode=0o700)
    descriptor = take_lock(directory)
    if descriptor is None:
        raise OSError("the new source's directory is locked by another process")
    log = SourceLog(source, directory, descriptor)
    log.start_segment()
    return log


def take_lock(directory: Path) -> int | None:
    """The descriptor that holds the directory's lock, or None when another process does."""
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Between processes: nobody creates, adopts or deletes a source directory meanwhile."""
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
