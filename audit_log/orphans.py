"""What to do with the spool of a process that died: repair it, say what is unknown, push it.

The lock of a directory that can be taken proves that its process is gone. In order: keep every
whole record; cut a torn tail (its append never returned, so nothing was done on its strength);
put damage in the middle aside as evidence, where it stays visible as a gap in the sequence; then
continue that source's own sequence with one `call.finished` of outcome `unknown` for each allowed
decision without an outcome, and one `source.stopped`. Done twice it adds nothing.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp
from audit_log.framing import Scan, encode_frame, scan_segment
from audit_log.source_log import (
    OPEN_INTENTS_NAME,
    SEGMENT_SUFFIX,
    Segment,
    SourceLog,
    note_intent,
    take_lock,
)

DAMAGED_SUFFIX: Final = ".damaged"
UNKNOWN_REASON: Final = "the process ended before it could record the outcome"

_decode_event = msgspec.json.Decoder(AuditEvent).decode
_decode_intents = msgspec.json.Decoder(list[AuditEvent]).decode
_encode = msgspec.json.Encoder().encode


def adopt_source_log(
    directory: Path, *, now: float, new_event_id: Callable[[], str]
) -> SourceLog | None:
    """The dead process's log, repaired and ended; None when it lives or never said anything.

    The caller holds the lock of the spool's root directory.

    Raises:
        OSError: the directory cannot be read or repaired; it is left for a later attempt.
    """
    descriptor = take_lock(directory)
    if descriptor is None:
        return None
    log = SourceLog(directory.name, directory, descriptor)
    try:
        last_event = _load(log)
        if log.high_water == 0:
            log.remove()
            return None
        log.reopen_last_segment()
        end_source(
            log,
            stopped=last_event is not None and last_event.type is EventType.SOURCE_STOPPED,
            outcome=Outcome.UNKNOWN,
            now=now,
            new_event_id=new_event_id,
        )
        os.fsync(log.descriptor)
    except BaseException:
        log.close()
        raise
    return log


def end_source(
    log: SourceLog,
    *,
    stopped: bool,
    outcome: Outcome,
    now: float,
    new_event_id: Callable[[], str],
) -> None:
    """Append what is still unsaid: unknown outcomes, and that the source ended."""
    timestamp = iso_timestamp(now)
    for intent in tuple(log.open_intents.values()):
        unknown = msgspec.structs.replace(
            intent,
            event_id=new_event_id(),
            timestamp=timestamp,
            type=EventType.CALL_FINISHED,
            outcome=Outcome.UNKNOWN,
            sequence=log.high_water + 1,
            reasons=(UNKNOWN_REASON,),
        )
        log.append(unknown, _encode(unknown))
        stopped = False
    if not stopped:
        end = AuditEvent(
            event_id=new_event_id(),
            timestamp=timestamp,
            type=EventType.SOURCE_STOPPED,
            outcome=outcome,
            source=log.source,
            sequence=log.high_water + 1,
        )
        log.append(end, _encode(end))


def _load(log: SourceLog) -> AuditEvent | None:
    """Read and repair every segment; the last whole event, if any."""
    carried = log.directory / OPEN_INTENTS_NAME
    if carried.exists():
        for intent in _decode_intents(carried.read_bytes()):
            note_intent(log.open_intents, intent)
    last_event: AuditEvent | None = None
    for path in sorted(log.directory.glob(f"*{SEGMENT_SUFFIX}")):
        data = path.read_bytes()
        scan = scan_segment(data)
        if scan.has_gap:
            log.damaged = True
        if scan.has_tail or scan.has_gap:
            _rewrite(path, scan)
        first = int(path.stem)
        events = [_decode_event(frame.payload) for frame in scan.frames]
        for event in events:
            note_intent(log.open_intents, event)
        last_event = events[-1] if events else last_event
        last = events[-1].sequence if events else first - 1
        log.segments.append(Segment(path, first, last, scan.size))
        log.size += scan.size
    return last_event


def _rewrite(path: Path, scan: Scan) -> None:
    """Leave only the whole records in the file; keep a damaged original beside it."""
    if scan.has_gap:
        path.with_suffix(".evidence").write_bytes(path.read_bytes())
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.writelines(encode_frame(frame.payload) for frame in scan.frames)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
