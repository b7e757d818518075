"""The registry in memory follows the database, and tells its subscribers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import Connection, text

from database.engine import Database
from database.errors import DatabaseError
from registry.blocks import BlockKind, RevocationEvent
from registry.live import LiveRegistry, Notice, RewoundDatabaseError
from registry.publisher import UnpublishableRegistryError
from registry.revocations import RevocationStore
from tests.registry.samples import (
    ISSUER,
    SETTINGS_MODELS,
    FakeClock,
    Registry,
    small_set,
)

NOW = 1_700_000_000.0


async def block(registry: Registry, name: str) -> RevocationEvent:
    return await registry.revocations.block(
        BlockKind.AGENT, name, reason="leaked", author="usr_alice"
    )


@asynccontextmanager
async def following(live: LiveRegistry) -> AsyncIterator[None]:
    task = asyncio.create_task(live.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        live._reader.submit(int).result(5)  # a read under way ends before its database is closed


async def taken(
    live: LiveRegistry, number: int, act: Callable[[], Awaitable[object]]
) -> list[Notice]:
    """The next `number` notices a subscriber gets from `act`."""
    with live.subscribe() as subscription:
        await act()
        return [await asyncio.wait_for(anext(subscription), 5) for _ in range(number)]


def test_live_registry_starts_with_what_is_stored(registry: Registry, clock: FakeClock) -> None:
    registry.apply(*small_set())
    asyncio.run(block(registry, "support-bot"))
    live = LiveRegistry(
        registry.database, issuer=ISSUER, settings_models=SETTINGS_MODELS, monotonic=clock
    )
    assert live.snapshot.version == 1
    assert live.blocks.sequence == 1
    assert set(live.snapshot.agents) == {"support-bot"}


def test_refresh_takes_in_what_was_committed_and_swaps_one_reference(
    registry: Registry, live: LiveRegistry
) -> None:
    before = live.state
    registry.apply(*small_set())

    async def scenario() -> None:
        await block(registry, "support-bot")
        await live.refresh()

    asyncio.run(scenario())
    assert before.snapshot.version == 0  # who began with the old picture keeps it
    assert (live.snapshot.version, live.blocks.sequence) == (1, 1)
    assert live.state is not before


def test_refresh_without_a_commit_keeps_the_very_same_picture(live: LiveRegistry) -> None:
    before = live.state
    asyncio.run(live.refresh())
    assert live.state is before


def test_commit_that_is_neither_registry_nor_revocation_keeps_the_snapshot(
    registry: Registry, live: LiveRegistry
) -> None:
    asyncio.run(registry.enrolment.create_code("demo", "local:0", 1))
    before = live.state
    asyncio.run(live.refresh())
    assert live.state is before


def test_run_follows_another_processes_database_connection(
    registry: Registry, live: LiveRegistry, open_database: Callable[[], Database]
) -> None:
    foreign = RevocationStore(open_database(), lambda: NOW)

    async def scenario() -> None:
        async with following(live):
            await foreign.block(BlockKind.AGENT, "a", reason="leaked", author="usr_alice")
            await asyncio.wait_for(live.changed(after_version=0, after_sequence=0), 5)
            assert live.blocks.sequence == 1
            await registry.store.apply(registry.plan(*small_set()), "usr_alice")
            state = await asyncio.wait_for(live.changed(after_version=0, after_sequence=1), 5)
            assert state.snapshot.version == 1

    asyncio.run(scenario())


def test_changed_returns_at_once_for_somebody_behind(
    registry: Registry, live: LiveRegistry
) -> None:
    registry.apply(*small_set())

    async def scenario() -> int:
        await live.refresh()
        state = await asyncio.wait_for(live.changed(after_version=0, after_sequence=0), 5)
        return state.snapshot.version

    assert asyncio.run(scenario()) == 1


@pytest.mark.requirement("trap-slow-subscriber")
def test_subscriber_gets_each_revocation_in_order_and_a_notice_for_the_snapshot(
    registry: Registry, live: LiveRegistry
) -> None:
    async def act() -> None:
        for name in ("a", "b"):
            await block(registry, name)
        await registry.store.apply(registry.plan(*small_set()), "usr_alice")

    async def scenario() -> list[Notice]:
        async with following(live):
            return await taken(live, 3, act)

    first, second, third = asyncio.run(scenario())
    assert isinstance(first, RevocationEvent)
    assert isinstance(second, RevocationEvent)
    assert [first.id, second.id, third] == ["a", "b", "snapshot"]


@pytest.mark.requirement("trap-slow-subscriber")
def test_slow_subscriber_is_told_to_resync_and_holds_nobody_up(
    registry: Registry, live: LiveRegistry
) -> None:
    async def scenario() -> tuple[list[Notice], list[Notice]]:
        with live.subscribe(limit=2) as slow, live.subscribe() as quick:
            for number in range(4):
                await block(registry, f"a{number}")
                await live.refresh()
            quick_got = [await anext(quick) for _ in range(4)]
            slow_got = [await anext(slow) for _ in range(2)]
            return slow_got, quick_got

    slow_got, quick_got = asyncio.run(scenario())
    assert slow_got[0] == "resync"
    assert isinstance(slow_got[1], RevocationEvent)
    assert slow_got[1].id == "a3"
    assert [each.id for each in quick_got if isinstance(each, RevocationEvent)] == [
        f"a{number}" for number in range(4)
    ]


def test_many_snapshots_are_one_notice_until_it_is_read(live: LiveRegistry) -> None:
    async def scenario() -> int:
        with live.subscribe() as subscription:
            for _ in range(10):
                subscription.put("snapshot")
            return len(subscription._waiting)

    assert asyncio.run(scenario()) == 1


def test_cancelled_wait_loses_no_notice(registry: Registry, live: LiveRegistry) -> None:
    async def scenario() -> Notice:
        with live.subscribe() as subscription:
            waiting = asyncio.ensure_future(anext(subscription))
            await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            await block(registry, "a")
            await live.refresh()
            return await asyncio.wait_for(anext(subscription), 5)

    notice = asyncio.run(scenario())
    assert isinstance(notice, RevocationEvent)


def test_closed_subscription_gets_nothing_more(registry: Registry, live: LiveRegistry) -> None:
    async def scenario() -> None:
        with live.subscribe() as subscription:
            pass
        await block(registry, "a")
        await live.refresh()
        assert not subscription._waiting

    asyncio.run(scenario())
    assert not live._subscribers


@pytest.mark.requirement("trap-stale-registry")
def test_unreadable_database_makes_the_picture_stale_and_following_goes_on(
    registry: Registry, live: LiveRegistry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    failed_thrice = asyncio.Event()

    def fails() -> int:
        failures.append("failed")
        if len(failures) == 3:
            failed_thrice.set()
        raise DatabaseError("gone")

    async def scenario() -> None:
        async with following(live):
            clock.advance(10)
            with monkeypatch.context() as broken:
                broken.setattr(registry.database, "data_version", fails)
                await asyncio.wait_for(failed_thrice.wait(), 5)
                assert live.is_stale(3.0)
            await block(registry, "a")
            await asyncio.wait_for(live.changed(after_version=0, after_sequence=0), 5)
            assert not live.is_stale(3.0)

    asyncio.run(scenario())


@pytest.mark.requirement("trap-stale-registry")
def test_database_put_back_from_an_old_copy_is_never_believed_again(
    registry: Registry, live: LiveRegistry, clock: FakeClock
) -> None:
    """A new revocation gets a number that was seen already: nobody would take it in."""

    def put_back(connection: Connection) -> None:
        connection.execute(text("DELETE FROM revocations WHERE sequence = 2"))
        connection.execute(
            text("UPDATE registry_counters SET value = 1 WHERE name = 'revocation_sequence'")
        )

    async def scenario() -> None:
        await block(registry, "a")
        await block(registry, "b")
        await live.refresh()
        await registry.database.write(put_back)
        clock.advance(10)
        for _ in range(2):
            with pytest.raises(RewoundDatabaseError):
                await live.refresh()
            await block(registry, "another")  # now the numbers are as before, or larger
        assert live.is_stale(3.0)

    asyncio.run(scenario())


def test_revocations_are_taken_in_although_the_snapshot_cannot_be_compiled(
    registry: Registry, clock: FakeClock
) -> None:
    live = LiveRegistry(registry.database, issuer=ISSUER, settings_models={}, monotonic=clock)
    registry.apply(*small_set())  # declared by a release that knows more types

    async def scenario() -> None:
        await block(registry, "support-bot")
        async with following(live):
            await asyncio.wait_for(live.changed(after_version=0, after_sequence=0), 5)

    asyncio.run(scenario())
    assert live.blocks.sequence == 1
    assert live.snapshot.version == 0


def test_commit_stands_although_what_it_made_cannot_be_read_yet(
    registry: Registry, clock: FakeClock
) -> None:
    """Whoever wrote goes on; whoever judges by the picture may not."""
    live = LiveRegistry(registry.database, issuer=ISSUER, settings_models={}, monotonic=clock)
    registry.apply(*small_set())  # declared by a release that knows more types

    async def scenario() -> None:
        await block(registry, "support-bot")
        clock.advance(10)
        await live.refresh_after_commit()
        assert (live.blocks.sequence, live.snapshot.version) == (1, 0)
        with pytest.raises(UnpublishableRegistryError):
            await live.refresh()
        assert live.is_stale(3.0)

    asyncio.run(scenario())
