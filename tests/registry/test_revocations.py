"""The revocation sequence: in order, gapless, and folding to one state everywhere."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from authz_server.grants.client_credentials import MAXIMUM_PAUSE_SECONDS
from authz_server.store.sessions import SESSION_LIFETIME_SECONDS
from database.engine import Database
from database.server_clock import server_now_ms
from registry import revocation_rows
from registry.blocks import (
    AGENT_AUTHOR,
    FORGET_EVERY_SECONDS,
    FORGET_SECONDS,
    FORGETTABLE,
    BlockEntry,
    BlockKind,
    BlockState,
    RevocationEvent,
    Subject,
)
from registry.revocation_rows import DROPPED_AT_ONCE, append_event, last_event
from registry.revocations import InvalidSubjectError, RevocationStore
from token_exchange.token_types import MAXIMUM_LIFETIME_SECONDS

NOW_MS = 1_700_000_000_123


class Action(TypedDict):
    reason: str
    author: str


ACTION: Action = {"reason": "leaked", "author": "usr_alice"}


class Time:
    """Stands still until told. Half a millisecond more, so that no rounding takes one away."""

    now_ms = NOW_MS

    def __call__(self) -> float:
        return (self.now_ms + 0.5) / 1000


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server tells the time of today, unless a test lets it."""
    monkeypatch.setattr(revocation_rows, "server_now_ms", lambda _: None)


@pytest.fixture
def revocations(database: Database) -> RevocationStore:
    return RevocationStore(database, Time())


def at(revocations: RevocationStore, now_ms: int) -> RevocationStore:
    clock = revocations._clock
    assert isinstance(clock, Time)
    clock.now_ms = now_ms
    return revocations


def block(
    revocations: RevocationStore, kind: BlockKind, name: str, now_ms: int = NOW_MS
) -> RevocationEvent:
    return asyncio.run(at(revocations, now_ms).block(kind, name, **ACTION))


def restore(
    revocations: RevocationStore, kind: BlockKind, name: str, now_ms: int = NOW_MS
) -> RevocationEvent | None:
    return asyncio.run(at(revocations, now_ms).restore(kind, name, **ACTION))


def outdate(database: Database, kind: BlockKind, name: str, now_ms: int) -> RevocationEvent:
    """An epoch alone, as a change of a person moves it."""
    return database.write_now(
        lambda connection: append_event(
            connection, kind, name, blocked=None, now_ms=now_ms, **ACTION
        )
    )


@pytest.mark.requirement("C57")
def test_block_sets_block_and_an_epoch_rounded_up_to_the_next_second(
    revocations: RevocationStore,
) -> None:
    event = block(revocations, BlockKind.AGENT, "support-bot")
    assert event == RevocationEvent(
        1, BlockKind.AGENT, "support-bot", True, 1_700_000_001, "leaked", "usr_alice", NOW_MS
    )
    assert revocations.events_after(0) == (event,)


@pytest.mark.requirement("trap-epoch-rounding")
@pytest.mark.parametrize(
    ("now_ms", "epoch"), [(5_000, 5), (5_001, 6), (5_999, 6), (6_000, 6), (0, 0)]
)
def test_epoch_refuses_everything_issued_in_the_second_of_the_action(
    revocations: RevocationStore, database: Database, now_ms: int, epoch: int
) -> None:
    event = outdate(database, BlockKind.CLAIMS, "usr_1", now_ms)
    assert (event.blocked, event.not_before) == (False, epoch)
    state = revocations.state()
    subject = Subject(BlockKind.CLAIMS, "usr_1")
    # A token issued in the same second, before or after the action, is refused ...
    assert state.first_hit([subject], now_ms // 1000) is not None
    # ... and one issued after the epoch is not.
    assert state.first_hit([subject], epoch + 1) is None


@pytest.mark.requirement("trap-restore-revives")
def test_restore_clears_the_block_and_moves_the_epoch_up_to_now(
    revocations: RevocationStore,
) -> None:
    """What a process with old news issued during the block does not live either."""
    blocked = block(revocations, BlockKind.AGENT, "support-bot")
    restored = restore(revocations, BlockKind.AGENT, "support-bot", NOW_MS + 60_000)
    assert restored is not None
    assert (restored.blocked, restored.not_before) == (False, blocked.not_before + 60)
    state = revocations.state()
    subject = Subject(BlockKind.AGENT, "support-bot")
    assert state.first_hit([subject], blocked.not_before + 60) is not None
    assert state.first_hit([subject], blocked.not_before + 61) is None


@pytest.mark.requirement("C58")
def test_agent_class_is_blocked_and_restored_like_an_agent(revocations: RevocationStore) -> None:
    subjects = [Subject(BlockKind.AGENT_GROUP, "support-agents")]
    event = block(revocations, BlockKind.AGENT_GROUP, "support-agents")
    assert revocations.state().first_hit(subjects, event.not_before + 100) is not None
    restore(revocations, BlockKind.AGENT_GROUP, "support-agents")
    assert revocations.state().first_hit(subjects, event.not_before + 100) is None


def test_restore_of_what_is_not_blocked_writes_no_event(revocations: RevocationStore) -> None:
    assert restore(revocations, BlockKind.AGENT, "support-bot") is None
    block(revocations, BlockKind.AGENT, "support-bot")
    restore(revocations, BlockKind.AGENT, "support-bot")
    assert restore(revocations, BlockKind.AGENT, "support-bot") is None
    assert revocations.sequence() == 2


def test_claims_epoch_never_blocks_even_when_asked_to(revocations: RevocationStore) -> None:
    assert not block(revocations, BlockKind.CLAIMS, "usr_1").blocked


def test_epoch_of_a_blocked_subject_leaves_the_block(
    revocations: RevocationStore, database: Database
) -> None:
    block(revocations, BlockKind.CONSENT, "grt_1")
    event = outdate(database, BlockKind.CONSENT, "grt_1", NOW_MS + 5_000)
    assert event.blocked
    assert event.not_before == 1_700_000_006


@pytest.mark.requirement("trap-epoch-rounding")
def test_clock_that_runs_back_never_moves_an_epoch_back(revocations: RevocationStore) -> None:
    first = block(revocations, BlockKind.SUBJECT, "usr_1", NOW_MS)
    second = block(revocations, BlockKind.SUBJECT, "usr_1", NOW_MS - 60_000)
    assert second.not_before == first.not_before


@pytest.mark.requirement("trap-epoch-rounding")
@pytest.mark.parametrize(("slow_ms", "epoch"), [(-400, 1), (0, 1), (3_000, 4)])
def test_process_whose_clock_is_slow_outdates_what_others_issued_until_now(
    database: Database, monkeypatch: pytest.MonkeyPatch, slow_ms: int, epoch: int
) -> None:
    monkeypatch.setattr(revocation_rows, "server_now_ms", lambda _: NOW_MS + slow_ms)
    event = outdate(database, BlockKind.CLAIMS, "usr_1", NOW_MS)
    assert event.not_before - NOW_MS // 1000 == epoch
    assert event.at_ms == NOW_MS + min(slow_ms, 0)  # forgotten by the earlier one, as ever


@pytest.mark.requirement("trap-epoch-rounding")
def test_epoch_is_never_before_the_clock_of_postgresql(
    revocations: RevocationStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_rows, "server_now_ms", server_now_ms)
    server_ms = database.read(server_now_ms)
    event = block(revocations, BlockKind.SESSION, "ses_1")
    assert event.not_before * 1000 >= max(NOW_MS, server_ms or 0)
    assert event.at_ms == NOW_MS


@pytest.mark.requirement("trap-epoch-rounding")
def test_epoch_is_of_when_the_write_was_made_however_long_it_had_to_wait(
    revocations: RevocationStore, database: Database
) -> None:
    """What was issued while it waited, on what was true before, is refused as well."""
    written = threading.Event()

    async def scenario() -> tuple[RevocationEvent | None, ...]:
        block_now = await revocations.block(BlockKind.AGENT, "a", **ACTION)
        before = asyncio.create_task(database.write(lambda _: written.wait(5)))
        blocking = asyncio.create_task(revocations.block(BlockKind.AGENT, "b", **ACTION))
        restoring = asyncio.create_task(revocations.restore(BlockKind.AGENT, "a", **ACTION))
        await asyncio.sleep(0)  # all three are asked for
        at(revocations, NOW_MS + 3_000)
        written.set()
        await before
        return block_now, await blocking, await restoring

    events = asyncio.run(scenario())
    assert [event and event.at_ms - NOW_MS for event in events] == [0, 3_000, 3_000]
    assert [event and event.not_before - NOW_MS // 1000 for event in events] == [1, 4, 4]


@pytest.mark.parametrize("name", ["", "x" * 513])
def test_subject_without_a_usable_id_is_refused(revocations: RevocationStore, name: str) -> None:
    with pytest.raises(InvalidSubjectError):
        block(revocations, BlockKind.SUBJECT, name)
    assert revocations.sequence() == 0


@pytest.mark.requirement("trap-gapless-revocations")
def test_write_that_fails_after_taking_a_number_leaves_no_gap(
    revocations: RevocationStore, database: Database
) -> None:
    def fails(connection: Connection) -> None:
        append_event(connection, BlockKind.AGENT, "a", blocked=True, now_ms=NOW_MS, **ACTION)
        raise LookupError

    with pytest.raises(LookupError):
        database.write_now(fails)
    assert block(revocations, BlockKind.AGENT, "b").sequence == 1


def test_events_are_handed_out_in_portions(revocations: RevocationStore) -> None:
    for number in range(5):
        block(revocations, BlockKind.TOKEN, f"tok_{number}")
    first = revocations.events_after(1, limit=3)
    assert [each.sequence for each in first] == [2, 3, 4]
    assert [each.sequence for each in revocations.events_after(4, limit=3)] == [5]


@pytest.mark.requirement("trap-gapless-revocations")
def test_stores_on_one_file_share_one_sequence_without_gaps(
    open_database: Callable[[], Database], database: Database
) -> None:
    stores = [RevocationStore(database, Time()), RevocationStore(open_database(), Time())]

    async def scenario() -> list[RevocationEvent]:
        return await asyncio.gather(
            *(
                stores[number % 2].block(BlockKind.TOKEN, f"tok_{number}", **ACTION)
                for number in range(60)
            )
        )

    sequences = sorted(event.sequence for event in asyncio.run(scenario()))
    assert sequences == list(range(1, 61))


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["block", "restore", "epoch"]),
        st.sampled_from([BlockKind.AGENT, BlockKind.SUBJECT, BlockKind.CLAIMS]),
        st.sampled_from(["a", "b"]),
        st.integers(min_value=0, max_value=10_000),
    ),
    max_size=25,
)


@pytest.mark.requirement("trap-gapless-revocations")
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions=ACTIONS, resume_at=st.integers(min_value=0, max_value=25))
def test_folding_events_from_anywhere_gives_the_stored_state(
    database: Database, actions: list[tuple[str, BlockKind, str, int]], resume_at: int
) -> None:
    store = RevocationStore(database, Time())
    database.write_now(forget_everything)
    model: dict[tuple[BlockKind, str], BlockEntry] = {}
    states = [BlockState()]
    for action, kind, name, now_ms in actions:
        perform(store, action, kind, name, now_ms)
        expect(model, action, kind, name, now_ms)
        states.append(store.state())
    events = store.events_after(0)
    assert [each.sequence for each in events] == list(range(1, len(events) + 1))
    resumed = states[min(resume_at, len(states) - 1)]
    for event in (*events, *events):  # sending an event twice changes nothing
        resumed = resumed.applying(event)
    assert dict(resumed.entries) == model
    assert resumed == store.state() == BlockState().applying(*events)


@pytest.mark.requirement("runs-forgotten")
@pytest.mark.parametrize("kind", [BlockKind.INVOCATION, BlockKind.TOKEN])
def test_run_and_token_are_forgotten_a_day_later_alike_everywhere(
    revocations: RevocationStore, kind: BlockKind
) -> None:
    followed = BlockState()
    for name, seconds in (("old", 0), ("young", 2 * FORGET_EVERY_SECONDS)):
        block(revocations, kind, name, NOW_MS + seconds * 1000)
    block(revocations, BlockKind.AGENT, "support-bot")
    for seconds, remembered in (
        (FORGET_SECONDS, {"old", "young"}),
        (FORGET_SECONDS + FORGET_EVERY_SECONDS + 1, {"young"}),
    ):
        block(revocations, BlockKind.SESSION, "ses_1", NOW_MS + seconds * 1000)
        followed = BlockState()
        for event in revocations.events_after(0):
            followed = followed.applying(event)
        assert {each.id for each in followed.entries.values() if each.kind is kind} == remembered
        assert followed == revocations.state()
        assert followed == BlockState().applying(*revocations.events_after(0))
    assert (BlockKind.AGENT, "support-bot") in followed.entries  # for ever
    assert [each.id for each in revocations.events_after(0)] == [
        "young",
        "support-bot",
        "ses_1",
        "ses_1",
    ]


@pytest.mark.requirement("runs-forgotten")
def test_process_whose_clock_is_days_ahead_makes_nobody_forget(
    revocations: RevocationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def server_says(now_ms: int) -> None:
        monkeypatch.setattr(revocation_rows, "server_now_ms", lambda _: now_ms)

    week_ms = 7 * FORGET_SECONDS * 1000
    server_says(NOW_MS)
    block(revocations, BlockKind.INVOCATION, "inv_1")
    for name in ("ses_1", "ses_2"):
        ahead = block(revocations, BlockKind.SESSION, name, NOW_MS + week_ms)
        # Its own tokens, which say they are from then, are refused all the same.
        assert (ahead.at_ms, ahead.not_before) == (NOW_MS, -(-(NOW_MS + week_ms) // 1000))
    run = (BlockKind.INVOCATION, "inv_1")
    assert run in revocations.state().entries
    assert run in BlockState().applying(*revocations.events_after(0)).entries
    assert [each.id for each in revocations.listed()[1]] == ["ses_2", "ses_1", "inv_1"]

    server_says(NOW_MS + week_ms)  # and really a week in which nobody was cut off
    block(revocations, BlockKind.SESSION, "ses_3", NOW_MS + week_ms)
    assert run not in revocations.state().entries
    assert "inv_1" not in {each.id for each in revocations.events_after(0)}


@pytest.mark.requirement("runs-forgotten")
def test_server_whose_clock_is_days_ahead_makes_nobody_forget(
    revocations: RevocationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    block(revocations, BlockKind.INVOCATION, "inv_1")
    ahead_ms = NOW_MS + 7 * FORGET_SECONDS * 1000
    monkeypatch.setattr(revocation_rows, "server_now_ms", lambda _: ahead_ms)
    assert block(revocations, BlockKind.SESSION, "ses_1").at_ms == NOW_MS
    assert (BlockKind.INVOCATION, "inv_1") in revocations.state().entries


HOURS_AND_WHAT = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=30),
        st.sampled_from(["block", "restore"]),
        st.sampled_from([BlockKind.INVOCATION, BlockKind.TOKEN, BlockKind.AGENT]),
        st.sampled_from(["a", "b", "c"]),
    ),
    min_size=1,
    max_size=20,
)


@pytest.mark.requirement("runs-forgotten")
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions=HOURS_AND_WHAT)
def test_whoever_was_away_while_rows_were_dropped_has_the_state_of_those_who_stayed(
    database: Database, actions: list[tuple[int, str, BlockKind, str]]
) -> None:
    store = RevocationStore(database, Time())
    database.write_now(forget_everything)
    now_ms, stayed, seen = NOW_MS, BlockState(), [BlockState()]
    for hours, action, kind, name in actions:
        now_ms += hours * 3_600_000
        perform(store, action, kind, name, now_ms)
        stayed = stayed.applying(*store.events_after(stayed.sequence))
        seen.append(stayed)
    assert stayed == store.state()
    assert stayed.sequence == store.sequence()
    for before in seen:
        assert before.applying(*store.events_after(before.sequence)) == stayed


@pytest.mark.requirement("runs-forgotten")
def test_rows_of_runs_are_dropped_some_at_a_time_and_the_newest_never(
    revocations: RevocationStore,
) -> None:
    later_ms = NOW_MS + (FORGET_SECONDS + FORGET_EVERY_SECONDS) * 1000 + 1_000
    for number in range(DROPPED_AT_ONCE + 2):
        block(revocations, BlockKind.INVOCATION, f"inv_{number}")
    # A clock that is behind: what it writes is forgotten already, and stays while it is the newest.
    block(revocations, BlockKind.SESSION, "ses_1", later_ms)
    assert [each.id for each in revocations.events_after(0)] == [
        f"inv_{DROPPED_AT_ONCE}",
        f"inv_{DROPPED_AT_ONCE + 1}",
        "ses_1",
    ]
    block(revocations, BlockKind.INVOCATION, "inv_behind", NOW_MS)
    assert [each.id for each in revocations.events_after(0)][-2:] == ["ses_1", "inv_behind"]
    block(revocations, BlockKind.SESSION, "ses_2", later_ms)
    assert [each.id for each in revocations.events_after(0)] == ["ses_1", "ses_2"]
    assert revocations.sequence() == DROPPED_AT_ONCE + 5


@pytest.mark.requirement("runs-forgotten")
def test_rows_of_whatever_else_is_cut_off_are_never_dropped(revocations: RevocationStore) -> None:
    kinds = [kind for kind in BlockKind if kind not in FORGETTABLE]
    for kind in kinds:
        block(revocations, kind, "it")
    block(revocations, BlockKind.SESSION, "ses_1", NOW_MS + 400 * FORGET_SECONDS * 1000)
    assert [each.kind for each in revocations.events_after(0)] == [*kinds, BlockKind.SESSION]


@pytest.mark.requirement("blocks-by-people")
def test_listing_has_the_newest_runs_of_agents_only_and_none_that_is_forgotten(
    revocations: RevocationStore,
) -> None:
    def end(name: str, now_ms: int) -> None:
        ended = at(revocations, now_ms).block(
            BlockKind.INVOCATION, name, reason="", author=f"{AGENT_AUTHOR}bot"
        )
        asyncio.run(ended)

    for number in range(DROPPED_AT_ONCE + 1):  # one more than goes with a new row
        end(f"inv_old_{number}", NOW_MS)
    later_ms = NOW_MS + (FORGET_SECONDS + FORGET_EVERY_SECONDS) * 1000 + 1_000
    for name in ("inv_1", "inv_2", "inv_3"):
        end(name, later_ms)
    block(revocations, BlockKind.INVOCATION, "inv_killed", later_ms)

    def names(runs: int) -> list[str]:
        return [each.id for each in revocations.listed(runs=runs)[1]]

    assert names(0) == ["inv_killed"]
    assert names(9) == ["inv_killed", "inv_3", "inv_2", "inv_1"]
    assert names(2) == ["inv_killed", "inv_3", "inv_2"]


def test_forgetting_is_slower_than_whatever_yields_a_token_of_a_run() -> None:
    longest = max(SESSION_LIFETIME_SECONDS, MAXIMUM_PAUSE_SECONDS) + MAXIMUM_LIFETIME_SECONDS
    assert 2 * longest < FORGET_SECONDS


def forget_everything(connection: Connection) -> None:
    connection.execute(text("DELETE FROM revocations"))
    connection.execute(text("DELETE FROM registry_counters"))


def perform(store: RevocationStore, action: str, kind: BlockKind, name: str, now_ms: int) -> None:
    if action == "block":
        block(store, kind, name, now_ms)
    elif action == "restore":
        restore(store, kind, name, now_ms)
    else:
        outdate(store._database, kind, name, now_ms)


def expect(
    model: dict[tuple[BlockKind, str], BlockEntry],
    action: str,
    kind: BlockKind,
    name: str,
    now_ms: int,
) -> None:
    """The rules of blocks and epochs, in other words than the code."""
    before = model.get((kind, name), BlockEntry(kind, name, False, 0))
    epoch = max(before.not_before, (now_ms + 999) // 1000)
    if action == "restore":
        if before.blocked:
            model[kind, name] = BlockEntry(kind, name, False, epoch)
    elif action == "block":
        model[kind, name] = BlockEntry(kind, name, kind is not BlockKind.CLAIMS, epoch)
    else:
        model[kind, name] = BlockEntry(kind, name, before.blocked, epoch)


def test_state_of_one_subject_is_its_last_event(database: Database) -> None:
    store = RevocationStore(database, Time())
    block(store, BlockKind.SESSION, "ses_1")
    restored = restore(store, BlockKind.SESSION, "ses_1")
    found = database.read(lambda connection: last_event(connection, BlockKind.SESSION, "ses_1"))
    assert found == restored
    assert database.read(lambda connection: last_event(connection, BlockKind.SESSION, "-")) is None


def test_block_that_is_to_be_there_once_leaves_the_word_of_who_blocked_first(
    revocations: RevocationStore,
) -> None:
    done: list[str] = []

    def blocked_once() -> RevocationEvent:
        return asyncio.run(
            revocations.block(
                BlockKind.INVOCATION,
                "inv_1",
                reason="over",
                author="agent:bot",
                once=True,
                also=lambda *_: done.append("new"),
                anyway=lambda _: done.append("anyway"),
            )
        )

    killed = block(revocations, BlockKind.INVOCATION, "inv_1")
    assert blocked_once() == killed
    assert (revocations.sequence(), done) == (1, ["anyway"])
    restore(revocations, BlockKind.INVOCATION, "inv_1")
    ended = blocked_once()
    assert (ended.sequence, ended.author, done) == (3, "agent:bot", ["anyway", "anyway", "new"])
    assert block(revocations, BlockKind.INVOCATION, "inv_1").author == ACTION["author"]
