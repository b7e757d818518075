"""The memory of what was used: one success, whoever asks and in whichever process."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from authz_server.store.replay import CLEANED_AT_ONCE, OnceKind, ReplayStore, UsedOnce, UsedOnceRow
from database.engine import Database

NOW = 1_800_000_000


def proof(name: str, expires_at: int = NOW + 60, scope: str = "key") -> UsedOnce:
    return UsedOnce(OnceKind.DPOP_PROOF, scope, name, expires_at)


@pytest.fixture
def database(database_url_with_tables: str) -> Iterator[Database]:
    database = Database.open(database_url_with_tables)
    yield database
    database.close()


def test_token_replay_first_use_is_fresh_and_second_is_not(database: Database) -> None:
    store = ReplayStore(database)
    assert asyncio.run(store.use((proof("a"),), NOW)) is None
    assert asyncio.run(store.use((proof("a"),), NOW)) == proof("a")


def test_token_replay_names_the_one_that_was_used(database: Database) -> None:
    store = ReplayStore(database)
    asyncio.run(store.use((proof("b"),), NOW))
    assert asyncio.run(store.use((proof("a"), proof("b")), NOW)) == proof("b")


def test_token_replay_ids_of_different_owners_do_not_meet(database: Database) -> None:
    store = ReplayStore(database)
    things = (
        proof("a", scope="k1"),
        proof("a", scope="k2"),
        proof("bc", scope="a"),
        proof("c", scope="ab"),
        UsedOnce(OnceKind.DECISION, "k1", "a", NOW + 60),
    )
    assert asyncio.run(store.use(things, NOW)) is None


@pytest.mark.requirement("attack-5")
def test_token_replay_twenty_at_once_over_two_processes_give_one_success(
    database: Database, database_url_with_tables: str
) -> None:
    other = Database.open(database_url_with_tables)
    stores = [ReplayStore(database), ReplayStore(other)]

    async def at_once() -> list[UsedOnce | None]:
        return await asyncio.gather(*(stores[n % 2].use((proof("a"),), NOW) for n in range(20)))

    assert asyncio.run(at_once()).count(None) == 1
    other.close()


def test_token_replay_memory_forgets_what_has_expired(database: Database) -> None:
    store = ReplayStore(database)
    asyncio.run(store.use(tuple(proof(str(n)) for n in range(10)), NOW))
    # Kept a minute longer than they last: another request may have read its clock earlier.
    asyncio.run(store.use((proof("later", NOW + 400),), NOW + 200))
    count = select(func.count()).select_from(UsedOnceRow)
    assert database.read(lambda connection: connection.scalar(count)) == 1


def test_token_replay_memory_keeps_what_has_not_expired(database: Database) -> None:
    store = ReplayStore(database)
    asyncio.run(store.use((proof("a", NOW + 200),), NOW))
    assert asyncio.run(store.use((proof("a", NOW + 200),), NOW + 100)) is not None


def test_token_replay_accepts_ids_of_any_text(database: Database) -> None:
    store = ReplayStore(database)
    odd = (proof("\ud800"), proof("\0"), proof("x" * 10_000), proof("'; drop table used_once; --"))
    assert asyncio.run(store.use(odd, NOW)) is None
    assert asyncio.run(store.use(odd, NOW)) == odd[0]


@pytest.mark.requirement("attack-30")
def test_token_replay_memory_forgets_as_fast_as_it_is_filled(database: Database) -> None:
    store = ReplayStore(database)
    overdue = 5 * CLEANED_AT_ONCE
    asyncio.run(store.use(tuple(proof(str(n)) for n in range(overdue)), NOW))
    count = select(func.count()).select_from(UsedOnceRow)
    for done in range(1, 7):
        asyncio.run(store.use((proof(f"later{done}", NOW + 400),), NOW + 200))
        left = max(0, overdue - done * CLEANED_AT_ONCE)
        assert database.read(lambda connection: connection.scalar(count)) == left + done
