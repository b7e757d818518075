"""The durable spool: an event is in a file before anything is done on its strength.

One `Spool` per worker process, one source id per process start, a gapless sequence per source.
`append` writes with one system call before it returns, so the event survives `kill -9` of the
process (`durability="process"`); an fsync follows within 20 ms, shared by all events of that
time. With `durability="power"` an event counts only after that fsync: `record` awaits it,
`append` blocks for it. Only fsynced events are handed out for pushing, so the store never knows
more of a source than the source's own disk.

Fails closed: a full or unwritable spool raises `SpoolUnavailable` and the caller refuses. The
last sixteenth of the space is kept for outcomes of what was already let through. No database is
reachable from here.
"""

import os
import re
import secrets
import threading
from collections.abc import Callable, Container
from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from audit_log.adoption import dead_sources, let_go
from audit_log.batch import Batch
from audit_log.event import AuditEvent, EventType, Outcome, encoded, iso_timestamp
from audit_log.framing import MAXIMUM_PAYLOAD_BYTES
from audit_log.group_commit import GroupCommit
from audit_log.orphans import end_source
from audit_log.source_log import SourceLog, create_source_log, root_lock

Durability = Literal["process", "power"]

FLUSH_SECONDS: Final = 0.02
MAXIMUM_SPOOL_BYTES: Final = 256 * 1024 * 1024
RESERVED_FRACTION: Final = 16
BATCH_EVENTS: Final = 500
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CLOSING: Final = frozenset(
    {EventType.CALL_FINISHED, EventType.STREAM_CLOSED, EventType.SOURCE_STOPPED}
)


class SpoolUnavailable(Exception):  # noqa: N818 - a state the caller must answer, not a bug
    """The event could not be made durable: refuse what it was to record."""


class Spool:
    """The audit spool of one process. Thread-safe; never used across a fork."""

    def __init__(
        self,
        root: Path,
        log: SourceLog,
        *,
        clock: Callable[[], float],
        durability: Durability,
        maximum_bytes: int,
    ) -> None:
        """Use `Spool.open`."""
        self._root = root
        self._log = log
        self._clock = clock
        self._durability = durability
        self._maximum_bytes = maximum_bytes
        self._adopted: dict[str, SourceLog] = {}
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._failure: str | None = None
        self._synced = 0
        self._commit = GroupCommit(self.flush, 0.0 if durability == "power" else FLUSH_SECONDS)

    @classmethod
    def open(
        cls,
        directory: Path,
        source_prefix: str,
        *,
        clock: Callable[[], float],
        durability: Durability = "process",
        maximum_bytes: int = MAXIMUM_SPOOL_BYTES,
        background_flush: bool = True,
    ) -> Self:
        """Start a new source `<source_prefix>.<random>`; its first event is `source.started`.

        Args:
            directory: the spool directory, shared by the workers that may adopt each other's.
            source_prefix: who writes, such as `gateway.demo`.
            clock: Unix seconds, for the events the spool itself adds.
            durability: what an event survives once appended.
            maximum_bytes: of everything not yet acknowledged, adopted segments included.
            background_flush: whether a thread does the fsyncs; without it call `flush`.

        Raises:
            SpoolUnavailable: the directory cannot be written.
        """
        if _PREFIX.fullmatch(source_prefix) is None:
            raise ValueError("source_prefix may hold letters, digits, dot, dash, underscore")
        source = f"{source_prefix}.{secrets.token_hex(8)}"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with root_lock(directory):
                log = create_source_log(directory, source)
        except OSError as error:
            raise _unavailable(error) from error
        spool = cls(directory, log, clock=clock, durability=durability, maximum_bytes=maximum_bytes)
        if background_flush:
            spool._commit.start()
        spool.append(
            AuditEvent(
                event_id=_new_event_id(),
                timestamp=iso_timestamp(clock()),
                type=EventType.SOURCE_STARTED,
                outcome=Outcome.SUCCEEDED,
            )
        )
        return spool

    @property
    def source(self) -> str:
        """This process's source id."""
        return self._log.source

    @property
    def high_water(self) -> int:
        """The last sequence appended by this process."""
        return self._log.high_water

    @property
    def backlog_bytes(self) -> int:
        """How much is not in the store yet, adopted spools too."""
        with self._lock:
            return sum(log.backlog_bytes for log in (*self._adopted.values(), self._log))

    def append(self, event: AuditEvent) -> AuditEvent:
        """Stamp `event` with source and sequence and write it; durable when this returns.

        Raises:
            SpoolUnavailable: nothing was recorded; refuse the action.
        """
        stamped = self._write(event)
        if self._durability == "power":
            try:
                self.flush()
            except OSError as error:
                raise _unavailable(error) from error
        else:
            self._commit.notify()
        return stamped

    async def record(self, event: AuditEvent) -> AuditEvent:
        """As `append`, but awaits the shared fsync instead of blocking for one of its own.

        Raises:
            SpoolUnavailable: nothing was recorded; refuse the action.
        """
        if self._durability == "process":
            return self.append(event)
        stamped = self._write(event)
        try:
            await self._commit.wait_for(stamped.sequence, lambda: self._synced)
        except OSError as error:
            raise _unavailable(error) from error
        return stamped

    def flush(self) -> int:
        """Make everything appended durable; the last sequence that now is.

        Raises:
            OSError: the disk refused. INVARIANT: after a failed fsync the kernel may have dropped
                the pages, so this spool never writes again.
        """
        with self._sync_lock:
            with self._lock:
                if self._failure is not None:
                    raise OSError(self._failure)
                through, current = self._log.high_water, self._log.descriptor
                finished, self._log.unsynced = self._log.unsynced, []
            try:
                for descriptor in finished:
                    os.fdatasync(descriptor)
                    os.close(descriptor)
                os.fdatasync(current)
            except OSError as error:
                self._failure = f"audit spool: {error.strerror or error}"
                raise
            self._synced = through
            return through

    def pending(self, limit: int = BATCH_EVENTS, *, but: Container[str] = ()) -> Batch | None:
        """The next events to push, adopted sources first; None when nothing waits but `but`'s."""
        with self._lock:
            for log in (*self._adopted.values(), self._log):
                through = self._synced if log is self._log else log.high_water
                events = log.read(limit, through) if log.source not in but else ()
                if events:
                    payloads = tuple(event.payload for event in events)
                    return Batch(log.source, log.high_water, payloads)
        return None

    def heartbeat(self) -> Batch:
        """An empty batch that says how far this source has come."""
        return Batch(self._log.source, self._log.high_water, ())

    def acknowledge(self, source: str, sequence: int) -> None:
        """The store has everything of the last batch of `source` up to `sequence`: delete it.

        Raises:
            OSError: the spool directory is unwritable; what was pushed may be pushed again.
        """
        with self._lock:
            log = self._log if source == self._log.source else self._adopted.get(source)
            if log is None:
                return
            log.acknowledge(sequence)
            if log is not self._log and log.is_acknowledged:
                del self._adopted[source]
                with root_lock(self._root):
                    let_go(log)

    def adopt_orphans(self) -> tuple[str, ...]:
        """Take over the spools of dead processes; the source ids taken.

        One that cannot be read or repaired now is left as it is and reported in the log.
        """
        taken: list[str] = []
        with root_lock(self._root):
            for log in dead_sources(self._root, now=self._clock(), new_event_id=_new_event_id):
                taken.append(log.source)
                with self._lock:
                    self._adopted[log.source] = log
        return tuple(taken)

    def stop(self) -> None:
        """End this source: unknown outcomes, `source.stopped`, fsync. Nothing can follow.

        Raises:
            OSError: the end could not be written; whoever adopts this source writes it.
        """
        self._commit.close()
        with self._lock:
            failed, self._failure = self._failure, self._failure or "the audit spool is closed"
            if failed is not None:
                return
            end_source(
                self._log,
                stopped=False,
                outcome=Outcome.SUCCEEDED,
                now=self._clock(),
                new_event_id=_new_event_id,
            )
            for descriptor in (*self._log.unsynced, self._log.descriptor):
                os.fdatasync(descriptor)
            self._synced = self._log.high_water

    def close(self) -> None:
        """Stop, and release the files. What was not pushed is adopted by the next process."""
        try:
            self.stop()
        finally:
            with root_lock(self._root), self._lock:
                if self._log.is_acknowledged:
                    self._log.remove()
                for log in (self._log, *self._adopted.values()):
                    log.close()

    def _write(self, event: AuditEvent) -> AuditEvent:
        with self._lock:
            if self._failure is not None:
                raise SpoolUnavailable(self._failure)
            log = self._log
            stamped = msgspec.structs.replace(event, source=log.source, sequence=log.high_water + 1)
            stamped, payload = encoded(stamped)
            self._require_room(len(payload), closing=event.type in _CLOSING)
            try:
                log.append(stamped, payload)
            except OSError as error:
                raise _unavailable(error) from error
            return stamped

    def _require_room(self, payload_bytes: int, *, closing: bool) -> None:
        if payload_bytes > MAXIMUM_PAYLOAD_BYTES:
            raise SpoolUnavailable("the audit event is larger than a record may be")
        limit = self._maximum_bytes
        if not closing:
            limit -= limit // RESERVED_FRACTION
        used = self._log.size + sum(log.size for log in self._adopted.values())
        if used + payload_bytes > limit:
            raise SpoolUnavailable("the audit spool is full: its events are not being collected")


def _new_event_id() -> str:
    return f"evt_{secrets.token_hex(16)}"


def _unavailable(error: OSError) -> SpoolUnavailable:
    return SpoolUnavailable(f"audit spool: {error.strerror or error}")
