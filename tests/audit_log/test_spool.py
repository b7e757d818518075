import asyncio
import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from audit_log import source_log
from audit_log.event import AuditBatch, AuditEvent, EventType, Outcome, source_owner
from audit_log.spool import Spool, SpoolUnavailable
from tests.audit_log.samples import clock, intent, outcome_of


def opened(directory: Path, *, maximum_bytes: int = 1_000_000) -> Spool:
    return Spool.open(
        directory,
        "gateway.demo",
        clock=clock,
        maximum_bytes=maximum_bytes,
        background_flush=False,
    )


def crash(spool: Spool) -> None:
    """What the kernel does for a killed process: its files are closed, nothing else happens."""
    spool._log.close()


def pushed(spool: Spool) -> list[AuditEvent]:
    """Take everything a pusher would send, acknowledging each batch."""
    spool.flush()
    events: list[AuditEvent] = []
    while (batch := spool.pending(3)) is not None:
        events.extend(batch.decoded.events)
        spool.acknowledge(batch.source, events[-1].sequence)
    return events


def filled(spool: Spool) -> list[str]:
    """Append intents until one is refused; the decision ids accepted."""
    accepted: list[str] = []
    with suppress(SpoolUnavailable):
        for number in range(1_000):
            spool.append(intent(f"dec_{number}"))
            accepted.append(f"dec_{number}")
    return accepted


def sequences(events: Sequence[AuditEvent]) -> list[int]:
    return [event.sequence for event in events]


@pytest.mark.requirement("audit-sequence")
def test_spool_appends_number_events_without_gap_and_push_them_in_order(tmp_path: Path) -> None:
    spool = opened(tmp_path)

    stamped = [spool.append(intent(f"dec_{number}")) for number in range(7)]

    events = pushed(spool)
    assert sequences(events) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert events[0].type is EventType.SOURCE_STARTED
    assert events[1:] == stamped
    assert {event.source for event in events} == {spool.source}
    assert source_owner(spool.source) == "gateway.demo"
    spool.close()


@pytest.mark.requirement("audit-sequence")
def test_spool_of_each_process_start_has_its_own_source(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)

    assert first.source != second.source
    assert first.adopt_orphans() == ()
    first.close()
    second.close()


@pytest.mark.requirement("audit-durable")
def test_spool_event_is_in_the_file_before_append_returns(tmp_path: Path) -> None:
    spool = opened(tmp_path)

    spool.append(intent("dec_1"))

    written = b"".join(path.read_bytes() for path in tmp_path.glob("*/*.log"))
    assert b'"dec_1"' in written
    spool.close()


@pytest.mark.requirement("audit-durable")
def test_spool_event_not_yet_fsynced_is_not_pushed(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.flush()
    spool.append(intent("dec_1"))

    before = spool.pending(10)
    spool.flush()
    after = spool.pending(10)

    assert before is not None
    assert after is not None
    assert sequences(before.decoded.events) == [1]
    assert sequences(after.decoded.events) == [1, 2]
    assert before.high_water == 2
    spool.close()


@pytest.mark.requirement("audit-durable")
def test_spool_batch_body_decodes_as_the_batch_the_control_channel_takes(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(intent("dec_1"))
    spool.flush()
    batch = spool.pending(10)

    assert batch is not None
    assert msgspec.json.decode(batch.body, type=AuditBatch) == batch.decoded
    assert msgspec.json.decode(spool.heartbeat().body, type=AuditBatch).events == ()
    spool.close()


@pytest.mark.requirement("audit-durable")
def test_spool_acknowledged_segments_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_log, "MAXIMUM_SEGMENT_BYTES", 500)
    spool = opened(tmp_path)
    for number in range(20):
        spool.append(intent(f"dec_{number}"))
        spool.append(outcome_of(f"dec_{number}"))
    many = len(list(tmp_path.glob("*/*.log")))

    events = pushed(spool)

    assert sequences(events) == list(range(1, 42))
    assert many > 5
    assert len(list(tmp_path.glob("*/*.log"))) == 1
    spool.close()


@pytest.mark.requirement("audit-fail-closed")
def test_spool_full_refuses_but_keeps_room_for_outcomes(tmp_path: Path) -> None:
    spool = opened(tmp_path, maximum_bytes=16_000)
    accepted = filled(spool)
    with pytest.raises(SpoolUnavailable, match="full"):
        spool.append(intent("dec_refused"))

    spool.append(outcome_of(accepted[-1]))

    assert len(accepted) > 10
    pushed(spool)
    spool.close()


@pytest.mark.requirement("audit-fail-closed")
def test_spool_emptied_accepts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_log, "IDLE_SEGMENT_BYTES", 1_000)
    spool = opened(tmp_path, maximum_bytes=16_000)
    filled(spool)

    pushed(spool)

    assert spool.append(intent("dec_again")).sequence > 10
    spool.close()


@pytest.mark.requirement("audit-fail-closed")
def test_spool_unwritable_disk_refuses_and_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    real_write = os.write

    def half_write(descriptor: int, data: bytes) -> int:
        real_write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half_write)
        with pytest.raises(SpoolUnavailable, match="No space"):
            spool.append(intent("dec_lost"))
    spool.append(intent("dec_kept"))

    events = pushed(spool)
    assert [event.decision_id for event in events] == [None, "dec_kept"]
    assert sequences(events) == [1, 2]
    spool.close()


@pytest.mark.requirement("audit-fail-closed")
def test_spool_after_a_failed_fsync_refuses_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)

    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="Input/output"):
            spool.flush()

    with pytest.raises(SpoolUnavailable, match="Input/output"):
        spool.append(intent("dec_1"))
    spool.close()


@pytest.mark.requirement("audit-fail-closed")
def test_spool_event_larger_than_a_record_is_refused(tmp_path: Path) -> None:
    spool = opened(tmp_path)

    with pytest.raises(SpoolUnavailable, match="larger"):
        spool.append(msgspec.structs.replace(intent("dec_1"), detail="x" * 70_000))

    assert spool.append(intent("dec_2")).sequence == 2
    spool.close()


@pytest.mark.requirement("audit-durable")
def test_spool_event_with_a_text_that_utf_8_cannot_say_is_written_all_the_same(
    tmp_path: Path,
) -> None:
    spool = opened(tmp_path)
    half = {"tool": "crm/\ud800", "reasons": ("\udfff", "é"), "evidence": {"\udcff": "/bin/\udc80"}}

    spool.append(msgspec.structs.replace(intent("dec_1"), **half))
    spool.append(msgspec.structs.replace(outcome_of("dec_2"), detail="text/\udcff"))

    crash(spool)
    successor = opened(tmp_path)
    successor.adopt_orphans()
    _, decided, finished, unknown, *_ = pushed(successor)
    assert (decided.tool, decided.reasons) == ("crm/?", ("?", "é"))
    assert decided.evidence == {"?": "/bin/?"}
    assert decided.type is EventType.CALL_DECIDED
    assert finished.detail == "text/?"
    assert (unknown.outcome, unknown.tool) == (Outcome.UNKNOWN, "crm/?")
    successor.close()


@pytest.mark.requirement("audit-durable")
def test_spool_power_durability_awaits_the_shared_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real_sync = os.fdatasync

    def counting(descriptor: int) -> None:
        real_sync(descriptor)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fdatasync", counting)
    spool = Spool.open(tmp_path, "gateway.demo", clock=clock, durability="power")

    async def many() -> list[AuditEvent]:
        synced.clear()
        return list(await asyncio.gather(*(spool.record(intent(f"dec_{n}")) for n in range(50))))

    events = asyncio.run(many())

    assert sorted(sequences(events)) == list(range(2, 52))
    assert 1 <= len(synced) < 50
    batch = spool.pending(100)
    assert batch is not None
    assert len(batch.payloads) == 51
    spool.close()


@pytest.mark.requirement("audit-fail-closed")
def test_spool_power_durability_refuses_when_the_fsync_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool.open(tmp_path, "gateway.demo", clock=clock, durability="power")

    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)

    with pytest.raises(SpoolUnavailable, match="Input/output"):
        asyncio.run(spool.record(intent("dec_1")))
    with pytest.raises(SpoolUnavailable):
        asyncio.run(spool.record(intent("dec_2")))
    spool.close()


@pytest.mark.requirement("audit-fail-closed")
def test_spool_directory_that_cannot_be_made_refuses_to_open(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")

    with pytest.raises(SpoolUnavailable):
        opened(tmp_path / "spool")


def test_spool_close_says_that_the_source_ended(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(intent("dec_open"))

    spool.stop()

    events: list[AuditEvent] = []
    while (batch := spool.pending(10)) is not None:
        events.extend(batch.decoded.events)
        spool.acknowledge(batch.source, events[-1].sequence)
    assert [(event.type, event.outcome) for event in events[2:]] == [
        (EventType.CALL_FINISHED, Outcome.UNKNOWN),
        (EventType.SOURCE_STOPPED, Outcome.SUCCEEDED),
    ]
    with pytest.raises(SpoolUnavailable, match="closed"):
        spool.append(intent("dec_late"))
    spool.close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.requirement("audit-unknown-outcome")
def test_spool_adopts_a_dead_process_and_marks_its_open_intents_unknown(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    dead.append(intent("dec_done"))
    dead.append(outcome_of("dec_done"))
    dead.append(intent("dec_denied", outcome=Outcome.DENIED))
    dead.append(intent("dec_open"))
    crash(dead)
    spool = opened(tmp_path)

    adopted = spool.adopt_orphans()

    events = [event for event in pushed(spool) if event.source == dead.source]
    assert adopted == (dead.source,)
    assert sequences(events) == [1, 2, 3, 4, 5, 6, 7]
    unknown = events[5]
    assert (unknown.type, unknown.outcome) == (EventType.CALL_FINISHED, Outcome.UNKNOWN)
    assert (unknown.decision_id, unknown.tool) == ("dec_open", "crm/refund")
    assert unknown.event_id != "evt_intent_dec_open"
    assert events[6].type is EventType.SOURCE_STOPPED
    assert not (tmp_path / dead.source).exists()
    spool.close()


@pytest.mark.requirement("audit-unknown-outcome")
def test_spool_adopting_twice_adds_nothing(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    dead.append(intent("dec_open"))
    crash(dead)
    died_adopting = opened(tmp_path)
    died_adopting.adopt_orphans()
    died_adopting._adopted[dead.source].close()
    crash(died_adopting)
    spool = opened(tmp_path)

    spool.adopt_orphans()

    events = [event for event in pushed(spool) if event.source == dead.source]
    assert [event.outcome for event in events if event.decision_id] == ["allowed", "unknown"]
    assert [event.type for event in events].count(EventType.SOURCE_STOPPED) == 1
    spool.close()


@pytest.mark.requirement("audit-unknown-outcome")
def test_spool_intent_in_a_deleted_segment_is_still_reported_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_log, "MAXIMUM_SEGMENT_BYTES", 500)
    dead = opened(tmp_path)
    dead.append(intent("dec_stream"))
    for number in range(10):
        dead.append(intent(f"dec_{number}"))
        dead.append(outcome_of(f"dec_{number}"))
    pushed(dead)
    assert b"dec_stream" not in b"".join(p.read_bytes() for p in tmp_path.glob("*/*.log"))
    crash(dead)
    spool = opened(tmp_path)

    spool.adopt_orphans()

    unknown = [event for event in pushed(spool) if event.outcome is Outcome.UNKNOWN]
    assert [event.decision_id for event in unknown] == ["dec_stream", None]
    assert sequences(unknown) == [23, 24]
    spool.close()


@pytest.mark.requirement("audit-durable")
@pytest.mark.parametrize("lost_bytes", [1, 20, 100])
def test_spool_torn_tail_is_cut_and_everything_before_kept(tmp_path: Path, lost_bytes: int) -> None:
    dead = opened(tmp_path)
    dead.append(intent("dec_1"))
    dead.append(intent("dec_torn"))
    crash(dead)
    (segment,) = (tmp_path / dead.source).glob("*.log")
    os.truncate(segment, segment.stat().st_size - lost_bytes)
    spool = opened(tmp_path)

    spool.adopt_orphans()

    events = [event for event in pushed(spool) if event.source == dead.source]
    assert sequences(events) == [1, 2, 3, 4]
    assert [event.decision_id for event in events] == [None, "dec_1", "dec_1", None]
    spool.close()


@pytest.mark.requirement("audit-durable")
def test_spool_damage_in_the_middle_keeps_the_rest_and_stays_visible_as_a_gap(
    tmp_path: Path,
) -> None:
    dead = opened(tmp_path)
    for number in range(3):
        dead.append(intent(f"dec_{number}", outcome=Outcome.DENIED))
    crash(dead)
    (segment,) = (tmp_path / dead.source).glob("*.log")
    segment.write_bytes(segment.read_bytes().replace(b'"dec_1"', b'"dec_X"', 1))
    spool = opened(tmp_path)

    spool.adopt_orphans()

    events = [event for event in pushed(spool) if event.source == dead.source]
    assert sequences(events) == [1, 2, 4, 5]
    assert list((tmp_path / f"{dead.source}.damaged").glob("*.evidence"))
    assert spool.adopt_orphans() == ()
    spool.close()


def test_spool_source_that_never_wrote_is_removed(tmp_path: Path) -> None:
    (tmp_path / "gateway.demo.0000").mkdir()
    spool = opened(tmp_path)

    assert spool.adopt_orphans() == ()
    assert not (tmp_path / "gateway.demo.0000").exists()
    spool.close()


def test_spool_directory_that_cannot_be_repaired_is_left_for_later(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    crash(dead)
    (tmp_path / dead.source / "open-intents").write_bytes(b"not json")
    spool = opened(tmp_path)

    assert spool.adopt_orphans() == ()

    (tmp_path / dead.source / "open-intents").unlink()
    assert spool.adopt_orphans() == (dead.source,)
    spool.close()


@pytest.mark.parametrize("prefix", ["", "a/b", "../up", ".hidden", "x" * 200])
def test_spool_source_prefix_that_is_no_file_name_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ValueError, match="source_prefix"):
        Spool.open(tmp_path, prefix, clock=clock)
