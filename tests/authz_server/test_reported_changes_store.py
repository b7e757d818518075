"""The memory of reported changes, on both databases, opened by two as by two processes."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, func, select

import countersign.migrations.tables  # noqa: F401 - every table there is
from authz_server.store import reported_changes
from authz_server.store.person_cuts import Ending, PersonCut, PersonCuts
from authz_server.store.replay import OnceKind, UsedOnce
from authz_server.store.reported_changes import (
    KEPT_SECONDS,
    PRUNED_AT_ONCE,
    ReportedChange,
    ReportedChangeRow,
    ReportedChanges,
    keep_in,
)
from authz_server.store.upstream_sessions import UpstreamSession, UpstreamSessionStore, sids_in
from database.engine import Database
from registry.objects import SubjectTokens
from token_exchange.token_types import MAXIMUM_LIFETIME_SECONDS

T = TypeVar("T")
NOW = 1_800_000_000
TIMES = 20


@pytest.fixture
def both(database_url_with_tables: str) -> Iterator[tuple[Database, Database]]:
    opened = Database.open(database_url_with_tables), Database.open(database_url_with_tables)
    yield opened
    for each in opened:
        each.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def keep(database: Database, *changes: ReportedChange, now: int = NOW) -> int:
    def work(connection: Connection) -> int:
        return sum(keep_in(connection, change, now) for change in changes)

    return run(database.write(work))


def is_outdated(database: Database, issued_at: int, **who: Any) -> bool:
    asked = {"identity_provider": "corp", "subject": "alice"} | who
    provider = asked.pop("identity_provider")
    return run(ReportedChanges(database).concern(provider, issued_at, **asked))


def rows_in(database: Database) -> int:
    query = select(func.count()).select_from(ReportedChangeRow)
    return database.read(lambda connection: connection.scalar(query)) or 0


def test_what_is_kept_by_one_process_refuses_in_the_other(both: tuple[Database, Database]) -> None:
    here, there = both
    keep(here, ReportedChange("corp", NOW, subject="alice"))
    keep(here, ReportedChange("corp", NOW + 5, upstream_session="kc-1"))
    assert is_outdated(there, NOW)
    assert not is_outdated(there, NOW + 1)
    assert is_outdated(there, NOW + 5, subject="bob", upstream_session="kc-1")
    assert not is_outdated(there, NOW, subject="bob")
    assert not is_outdated(there, NOW, subject="bob", upstream_session="alice")
    assert not is_outdated(there, NOW, identity_provider="other", upstream_session="kc-1")


def test_change_for_everybody_concerns_each(both: tuple[Database, Database]) -> None:
    here, there = both
    keep(here, ReportedChange("corp", NOW))
    assert is_outdated(there, NOW, subject="anybody", upstream_session="any")
    assert not is_outdated(there, NOW + 1)
    assert not is_outdated(there, NOW, identity_provider="other")


def test_an_older_change_that_comes_late_takes_nothing_back(
    both: tuple[Database, Database],
) -> None:
    newer = ReportedChange("corp", NOW, subject="alice")
    keep(both[0], newer, replace(newer, not_after=NOW - 60))
    assert is_outdated(both[1], NOW)
    assert rows_in(both[1]) == 1


def test_a_change_is_kept_for_as_long_as_a_token_of_before_could_be_presented() -> None:
    longest = SubjectTokens.model_json_schema()["properties"]["max_age_seconds"]["maximum"]
    assert longest + MAXIMUM_LIFETIME_SECONDS <= KEPT_SECONDS


def test_what_is_no_longer_needed_goes_with_the_next(both: tuple[Database, Database]) -> None:
    database, _ = both
    many = PRUNED_AT_ONCE + 1
    keep(database, *(ReportedChange("corp", NOW, subject=f"person-{n}") for n in range(many)))
    last = ReportedChange("corp", NOW + KEPT_SECONDS, subject="alice")
    keep(database, last, now=NOW + KEPT_SECONDS - 1)
    assert rows_in(database) == many + 1
    keep(database, last, now=NOW + KEPT_SECONDS)
    assert rows_in(database) == 2  # a batch at a time
    keep(database, last, now=NOW + KEPT_SECONDS)
    assert rows_in(database) == 1
    assert is_outdated(database, NOW + KEPT_SECONDS)


def test_when_it_is_full_the_oldest_go_and_everybody_of_their_time_is_refused(
    both: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reported_changes, "MAXIMUM_ROWS", 5)
    monkeypatch.setattr(reported_changes, "DROPPED_AT_ONCE", 3)
    here, there = both
    keep(here, ReportedChange("other", NOW, subject="alice"))
    changes = [ReportedChange("corp", NOW + n, subject=f"person-{n}") for n in range(5)]
    assert keep(here, *changes) == 0
    assert not is_outdated(there, NOW)  # alice: nothing was said of her
    assert keep(here, ReportedChange("corp", NOW + 5, subject="person-5")) == 3
    assert is_outdated(there, NOW + 2)
    assert not is_outdated(there, NOW + 3)
    assert is_outdated(there, NOW + 3, subject="person-3")
    assert rows_in(there) == 5  # everybody, three people, and her of the other provider
    # It never falls back behind what went, and never goes itself.
    more = [ReportedChange("corp", NOW + n, subject=f"person-{n}") for n in range(6, 20)]
    assert keep(here, *more) > 0
    assert is_outdated(there, NOW + 2)


@pytest.mark.requirement("trap-person-change-early")
def test_of_a_change_and_who_comes_meanwhile_one_always_sees_the_other(
    both: tuple[Database, Database],
) -> None:
    here, there = both

    async def comes(number: int) -> bool:
        """A token of a session not seen before is brought."""
        session = UpstreamSession(f"ses_{number}", "usr_alice", "corp", f"kc-{number}")
        await UpstreamSessionStore(here).note(session, NOW)
        return await ReportedChanges(here).concern(
            "corp", NOW, subject="alice", upstream_session=f"kc-{number}"
        )

    async def ends(number: int) -> bool:
        """That session ends."""
        found: list[str] = []

        def completed(connection: Connection, cut: PersonCut) -> PersonCut:
            found[:] = [sub for _, sub in sids_in(connection, "corp", f"kc-{number}")]
            change = ReportedChange("corp", NOW, upstream_session=f"kc-{number}")
            keep_in(connection, change, NOW)
            return replace(cut, subs=found)

        once = UsedOnce(OnceKind.PERSON_CHANGE, "corp", f"event-{number}", NOW + 600)
        cut = PersonCut(once, (), Ending.NONE, (), "ended", "test", lambda _: ())
        assert await PersonCuts(there, lambda: NOW).apply(cut, completed)
        return bool(found)

    async def at_once() -> list[tuple[bool, bool]]:
        both_ways = [asyncio.gather(comes(n), ends(n)) for n in range(TIMES)]
        return [(refused, cut) for refused, cut in await asyncio.gather(*both_ways)]

    assert all(refused or cut for refused, cut in run(at_once()))
