import asyncio
from collections.abc import Container
from pathlib import Path

import pytest

from audit_log import pusher
from audit_log.batch import Batch
from audit_log.pusher import SpoolPusher
from audit_log.spool import Spool
from tests.audit_log.samples import clock, intent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pusher, "FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(pusher, "IDLE_SECONDS", 0.001)
    monkeypatch.setattr(pusher, "HEARTBEAT_SECONDS", 0.0)


class Collector:
    """A store that fails as often as it is told, then takes everything."""

    def __init__(self, *, wanted: int, failures: int = 0) -> None:
        self.sequences: list[int] = []
        self.sources: list[str] = []
        self.heartbeats: list[int] = []
        self.failures = failures
        self.wanted = wanted
        self.done = asyncio.Event()

    async def send(self, batch: Batch) -> int:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the authorization server is away")
        events = batch.decoded.events
        if not events:
            self.heartbeats.append(batch.high_water)
            if len(self.sequences) >= self.wanted:
                self.done.set()  # a heartbeat comes only when everything else is acknowledged
            return batch.high_water
        self.sources.append(batch.source)
        self.sequences.extend(event.sequence for event in events)
        return self.sequences[-1]


def opened(directory: Path, events: int) -> Spool:
    spool = Spool.open(directory, "gateway.demo", clock=clock, background_flush=False)
    for number in range(events):
        spool.append(intent(f"dec_{number}"))
    spool.flush()
    return spool


async def run_until_done(spool: Spool, collector: Collector, *, batch_events: int) -> None:
    task = asyncio.create_task(SpoolPusher(spool, batch_events=batch_events).run(collector.send))
    async with asyncio.timeout(10):
        await collector.done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.requirement("audit-push")
def test_pusher_sends_bounded_batches_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = opened(tmp_path, events=24)
        collector = Collector(wanted=25)
        await run_until_done(spool, collector, batch_events=10)
        assert collector.sequences == list(range(1, 26))
        assert len(collector.sources) == 3
        spool.close()

    asyncio.run(scenario())


@pytest.mark.requirement("audit-push")
def test_pusher_store_away_tries_again_and_loses_nothing(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        spool = opened(tmp_path, events=4)
        collector = Collector(wanted=5, failures=3)
        await run_until_done(spool, collector, batch_events=10)
        assert collector.sequences == [1, 2, 3, 4, 5]
        spool.close()

    asyncio.run(scenario())


@pytest.mark.requirement("audit-push")
def test_pusher_sends_adopted_sources_before_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        dead = opened(tmp_path, events=1)
        dead._log.close()
        spool = opened(tmp_path, events=1)
        collector = Collector(wanted=6)
        await run_until_done(spool, collector, batch_events=10)
        assert collector.sources == [dead.source, spool.source]
        spool.close()

    asyncio.run(scenario())


@pytest.mark.requirement("audit-push")
def test_pusher_goes_on_with_its_own_source_when_an_adopted_one_is_refused(
    tmp_path: Path,
) -> None:
    class Refusing(Collector):
        refused = 0

        async def send(self, batch: Batch) -> int:
            if batch.source == foreign:
                self.refused += 1
                raise PermissionError("not a source of this gateway")
            return await super().send(batch)

    async def scenario() -> None:
        spool = opened(tmp_path, events=4)
        collector = Refusing(wanted=5)
        await run_until_done(spool, collector, batch_events=2)
        assert collector.sequences == [1, 2, 3, 4, 5]
        assert collector.refused  # and it is tried again
        waiting = spool.pending()
        assert waiting is not None
        assert waiting.source == foreign  # kept
        spool.close()

    before = opened(tmp_path, events=2)
    foreign = before.source
    before.close()
    asyncio.run(scenario())


@pytest.mark.requirement("audit-push")
def test_pusher_lets_others_run_while_a_spool_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority is away, so one source failed; then reading what comes next fails as well."""

    async def scenario() -> int:
        spool, beats = opened(tmp_path, events=2), 0
        collector = Collector(wanted=1, failures=10**9)
        pending = spool.pending

        def unreadable(limit: int, *, but: Container[str] = ()) -> Batch | None:
            if spool.source in but:
                raise OSError("the segment cannot be read")
            return pending(limit, but=but)

        monkeypatch.setattr(spool, "pending", unreadable)
        task = asyncio.create_task(SpoolPusher(spool).run(collector.send))
        while beats < 20:
            await asyncio.sleep(0.001)
            beats += 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not await SpoolPusher(spool).drain(collector.send, within_seconds=5)
        monkeypatch.undo()
        spool.close()
        return beats

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == 20


@pytest.mark.requirement("audit-push")
def test_pusher_with_nothing_to_send_says_how_far_the_source_has_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = opened(tmp_path, events=1)
        collector = Collector(wanted=2)
        await run_until_done(spool, collector, batch_events=10)
        assert collector.heartbeats[0] == 2
        spool.close()

    asyncio.run(scenario())


def test_pusher_drain_after_stop_sends_the_end_of_the_source(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = opened(tmp_path, events=1)
        collector = Collector(wanted=3)
        spool.stop()
        assert await SpoolPusher(spool).drain(collector.send, within_seconds=5)
        assert collector.sequences == [1, 2, 3, 4]
        spool.close()

    asyncio.run(scenario())


def test_pusher_drain_with_the_store_away_leaves_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = opened(tmp_path, events=1)
        spool.stop()
        collector = Collector(wanted=3, failures=9)
        assert not await SpoolPusher(spool).drain(collector.send, within_seconds=5)
        spool.close()

    asyncio.run(scenario())
    assert list(tmp_path.glob("*/*.log"))
