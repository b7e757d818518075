import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import Connection, delete, event

from audit_log import completeness, search
from audit_log.completeness import Gap
from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp
from audit_log.event_rows import EVENTS, SOURCES
from audit_log.search import AuditFilter
from audit_log.store import (
    AuditStore,
    IngestConflictError,
    IngestRefusedError,
    SearchResult,
    UnknownSourceError,
)
from audit_log.transaction_log import SOURCE as CUTS
from audit_log.transaction_log import append_in
from database.engine import Database
from tests.audit_log.samples import NOW, intent

SOURCE = "gateway.demo.0001"
AUTHORITY = "authz-server.0001"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url_with_tables: str) -> Iterator[Database]:
    opened = Database.open(database_url_with_tables)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database, clock: Clock) -> AuditStore:
    return AuditStore(database, clock=clock)


def events(first: int, last: int, source: str = SOURCE) -> list[AuditEvent]:
    return [
        msgspec.structs.replace(
            intent(f"dec_{number}"),
            event_id=f"evt_{source}_{number}",
            source=source,
            sequence=number,
        )
        for number in range(first, last + 1)
    ]


def ingest(
    store: AuditStore,
    batch: Sequence[AuditEvent],
    *,
    high_water: int | None = None,
    source: str = SOURCE,
) -> int:
    high_water = batch[-1].sequence if high_water is None else high_water
    return asyncio.run(store.ingest(source, high_water, batch))


def found(store: AuditStore, **wanted: object) -> SearchResult:
    return store.search(replace(AuditFilter(), **wanted))  # type: ignore[arg-type]


@pytest.mark.requirement("audit-push")
def test_store_same_batch_twice_is_stored_once(store: AuditStore) -> None:
    first = ingest(store, events(1, 5))
    again = ingest(store, events(1, 5))
    overlapping = ingest(store, events(4, 7))

    assert (first, again, overlapping) == (5, 5, 7)
    result = found(store)
    assert [each.event.sequence for each in result.events] == [7, 6, 5, 4, 3, 2, 1]
    assert result.completeness.complete


@pytest.mark.requirement("audit-push")
def test_store_event_that_contradicts_a_stored_one_is_refused_and_the_first_stands(
    store: AuditStore,
) -> None:
    ingest(store, events(1, 3))
    forged = msgspec.structs.replace(events(2, 2)[0], agent="somebody-else")

    with pytest.raises(IngestConflictError):
        ingest(store, [forged], high_water=3)

    assert {each.event.agent for each in found(store).events} == {"support-bot"}


@pytest.mark.requirement("audit-push")
def test_store_event_id_of_another_source_is_refused_whole(store: AuditStore) -> None:
    ingest(store, events(1, 1))
    taken = msgspec.structs.replace(events(1, 1)[0], source="gateway.other.0002", sequence=2)
    fresh = events(1, 1, source="gateway.other.0002")

    with pytest.raises(IngestConflictError):
        ingest(store, [*fresh, taken], source="gateway.other.0002")

    assert len(found(store).events) == 1


@pytest.mark.requirement("audit-push")
@pytest.mark.parametrize(
    ("batch", "high_water", "message"),
    [
        (events(1, 2, source="gateway.other.9"), 2, "another source"),
        (list(reversed(events(1, 2))), 2, "rise"),
        (events(1, 2), 1, "high_water"),
        (events(0, 0), 1, "rise"),
        (events(1, 1_001), 1_001, "at once"),
        ([msgspec.structs.replace(events(1, 1)[0], timestamp="yesterday")], 1, "timestamp"),
        ([msgspec.structs.replace(events(1, 1)[0], event_id="e" * 129)], 1, "called"),
        ([msgspec.structs.replace(events(1, 1)[0], event_id="evt\0")], 1, "called"),
        (
            [msgspec.structs.replace(events(1, 1)[0], timestamp="2026-11-21T00:00:00.000")],
            1,
            "timestamp",
        ),
    ],
)
def test_store_malformed_batch_is_refused(
    store: AuditStore, batch: list[AuditEvent], high_water: int, message: str
) -> None:
    with pytest.raises(IngestRefusedError, match=message):
        ingest(store, batch, high_water=high_water)

    assert found(store).events == ()


@pytest.mark.requirement("audit-complete")
def test_store_text_that_postgresql_has_no_column_for_is_kept_and_found(store: AuditStore) -> None:
    """Else one such event would hold up every later one of its gateway."""
    (event,) = events(1, 1)
    strange = msgspec.structs.replace(event, agent="a\0gent")

    assert ingest(store, [strange]) == 1
    assert ingest(store, [strange]) == 1

    result = store.search(AuditFilter(agent="a\0gent"))
    assert [each.event.agent for each in result.events] == ["a\0gent"]
    assert store.search(AuditFilter(agent="agent")).events == ()


def test_store_gap_makes_answers_incomplete_until_it_is_filled(store: AuditStore) -> None:
    ingest(store, events(3, 4))
    ingest(store, events(7, 8), high_water=9)

    before = found(store).completeness
    ingest(store, events(1, 2))
    ingest(store, events(5, 6))
    ingest(store, events(9, 9))
    after = found(store).completeness

    assert not before.complete
    assert before.gaps == (Gap(SOURCE, 1, 2), Gap(SOURCE, 5, 6), Gap(SOURCE, 9, 9))
    assert after.complete
    assert after.gaps == ()


@pytest.mark.requirement("audit-complete")
def test_store_source_that_reported_more_than_arrived_is_incomplete(store: AuditStore) -> None:
    ingest(store, [], high_water=3)

    assert found(store).completeness.gaps == (Gap(SOURCE, 1, 3),)
    assert ingest(store, [], high_water=3) == 0


@pytest.mark.requirement("audit-complete")
def test_store_source_not_heard_of_is_silent_and_a_heartbeat_mends_it(
    store: AuditStore, clock: Clock
) -> None:
    ingest(store, events(1, 2))
    clock.now += 11

    before = found(store).completeness
    ingest(store, [], high_water=2)
    after = found(store).completeness

    assert (before.complete, before.silent) == (False, (SOURCE,))
    assert before.as_of_ms == int(NOW * 1000)
    assert (after.complete, after.silent) == (True, ())


@pytest.mark.requirement("audit-complete")
def test_store_source_that_ended_need_not_be_heard_of(store: AuditStore, clock: Clock) -> None:
    (end,) = events(2, 2)
    end = msgspec.structs.replace(end, type=EventType.SOURCE_STOPPED, decision_id=None)
    ingest(store, [*events(1, 1), end])
    clock.now += 3_600

    assert found(store).completeness.complete


@pytest.mark.requirement("audit-complete")
def test_store_gap_of_a_source_that_ended_before_the_time_asked_for_does_not_count(
    store: AuditStore, clock: Clock
) -> None:
    (end,) = events(3, 3)
    end = msgspec.structs.replace(end, type=EventType.SOURCE_STOPPED, decision_id=None)
    ingest(store, [*events(1, 1), end])
    clock.now += 3_600

    assert not found(store).completeness.complete
    assert found(store, since_ms=int((NOW + 60) * 1000)).completeness.complete


@pytest.mark.requirement("audit-complete")
def test_store_gap_of_a_source_whose_events_say_1970_counts_while_it_may_be_recent(
    store: AuditStore, clock: Clock
) -> None:
    long_ago = [
        msgspec.structs.replace(each, timestamp=iso_timestamp(each.sequence))
        for each in events(1, 3)
    ]
    end = msgspec.structs.replace(long_ago[2], type=EventType.SOURCE_STOPPED, decision_id=None)
    ingest(store, [long_ago[0], end])
    clock.now += 3_600

    assert not found(store, since_ms=int((NOW - 60) * 1000)).completeness.complete
    assert found(store, since_ms=int((NOW + 60) * 1000)).completeness.complete


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_asks_the_database_as_often_for_many_sources_as_for_few(
    store: AuditStore, database: Database
) -> None:
    def statements() -> int:
        asked: list[str] = []

        def note(*said: object) -> None:
            asked.append(str(said[2]))

        def look(connection: Connection) -> None:
            event.listen(connection, "before_cursor_execute", note)
            completeness.completeness(connection, since_ms=None, now_ms=int(NOW * 1000))
            event.remove(connection, "before_cursor_execute", note)

        database.read(look)
        return len(asked)

    def more(first: int, last: int) -> None:
        for number in range(first, last):
            source = f"g.{number}"
            batch = [
                msgspec.structs.replace(each, source=source, event_id=f"{source}_{each.sequence}")
                for each in events(1, 5)
            ]
            ingest(store, batch, source=source)

    more(0, 3)
    few = statements()
    more(3, 12)
    assert statements() == few


@pytest.mark.requirement("audit-complete")
@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_store_deleted_row_is_noticed(store: AuditStore, database: Database, sequence: int) -> None:
    ingest(store, events(1, 3))
    database.write_now(
        lambda connection: (
            connection.execute(delete(EVENTS).where(EVENTS.c.sequence == sequence)).rowcount
        )
    )

    result = found(store).completeness

    assert result.gaps == (Gap(SOURCE, sequence, sequence),)


@pytest.mark.requirement("audit-complete")
def test_store_deleted_source_line_is_noticed(store: AuditStore, database: Database) -> None:
    ingest(store, events(1, 3))
    database.write_now(lambda connection: connection.execute(delete(SOURCES)).rowcount)

    assert not found(store).completeness.complete


@pytest.fixture
def small_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four events of a source, six in all."""
    monkeypatch.setattr(completeness, "MAXIMUM_COUNTED_OF_SOURCE", 4)
    monkeypatch.setattr(completeness, "MAXIMUM_COUNTED", 6)


def at_its_second(batch: Sequence[AuditEvent]) -> list[AuditEvent]:
    """Each event as many seconds later as its number."""
    return [
        msgspec.structs.replace(each, timestamp=iso_timestamp(NOW + each.sequence))
        for each in batch
    ]


def second(number: int) -> int:
    return int((NOW + number) * 1000)


def ingest_as_they_happen(store: AuditStore, clock: Clock, batch: Sequence[AuditEvent]) -> None:
    for each in batch:
        clock.now = NOW + each.sequence
        ingest(store, [each])


def delete_of(database: Database, source: str, *sequences: int) -> None:
    rows = (EVENTS.c.source == source) & EVENTS.c.sequence.in_(sequences)
    database.write_now(lambda connection: connection.execute(delete(EVENTS).where(rows)).rowcount)


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_log_too_large_to_count_says_since_when_it_did(
    store: AuditStore, clock: Clock
) -> None:
    ingest_as_they_happen(store, clock, at_its_second(events(1, 4)))
    assert found(store).completeness.complete

    ingest_as_they_happen(store, clock, at_its_second(events(5, 10)))
    large = found(store).completeness
    assert (large.complete, large.gaps, large.silent) == (False, (), ())
    assert large.counted_since_ms == second(7)
    for since, is_complete in ((7, False), (8, True)):
        assert found(store, since_ms=second(since)).completeness.complete == is_complete


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_page_of_a_large_log_is_about_its_own_time(store: AuditStore, clock: Clock) -> None:
    ingest_as_they_happen(store, clock, at_its_second(events(1, 10)))

    newest = store.search(AuditFilter(), limit=3)
    assert newest.next_before is not None
    assert newest.completeness.complete
    assert newest.completeness.counted_since_ms is None
    assert not store.search(AuditFilter(), limit=4).completeness.complete
    older = store.search(AuditFilter(), limit=3, before=newest.next_before).completeness
    assert (older.complete, older.counted_since_ms) == (False, second(7))
    # Nothing found, and nothing more to come: that is about all the time there was.
    assert not store.search(AuditFilter(agent="nobody"), limit=3).completeness.complete


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_page_of_events_that_say_2099_is_about_when_they_were_received(
    store: AuditStore, database: Database, clock: Clock
) -> None:
    own = at_its_second(events(1, 10))
    far = [
        msgspec.structs.replace(each, timestamp="2099-12-31T23:59:59.000Z")
        for each in events(1, 2, "gateway.far.1")
    ]
    for some in (own[:5], own[5:6], own[6:]):
        ingest_as_they_happen(store, clock, some)
        if far:
            ingest(store, [far.pop(0)], source="gateway.far.1")
    delete_of(database, SOURCE, 6)  # between the two

    before = store.search(AuditFilter(), limit=4).next_before
    page = store.search(AuditFilter(), limit=2, before=before)
    assert {each.event.source for each in page.events} == {"gateway.far.1"}
    assert not page.completeness.complete
    assert page.completeness.counted_since_ms == second(7)


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
@pytest.mark.parametrize(("sequence", "is_counted"), [(6, False), (7, True), (8, True), (10, True)])
def test_store_deleted_row_of_a_large_log_is_noticed_where_it_was_counted(
    store: AuditStore, database: Database, clock: Clock, sequence: int, is_counted: bool
) -> None:
    ingest_as_they_happen(store, clock, at_its_second(events(1, 10)))
    database.write_now(
        lambda connection: (
            connection.execute(delete(EVENTS).where(EVENTS.c.sequence == sequence)).rowcount
        )
    )

    large = found(store).completeness
    assert large.gaps == ((Gap(SOURCE, sequence, sequence),) if is_counted else ())
    assert not large.complete  # never called complete in what was not counted
    assert found(store, since_ms=second(9)).completeness.complete != is_counted


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_event_that_says_1970_makes_nothing_look_counted(
    store: AuditStore, database: Database, clock: Clock
) -> None:
    batch = at_its_second(events(1, 10))
    batch[6] = msgspec.structs.replace(batch[6], timestamp=iso_timestamp(1))  # the first counted
    ingest_as_they_happen(store, clock, batch)
    delete_of(database, SOURCE, 5, 6)

    large = found(store, since_ms=second(5)).completeness
    assert (large.complete, large.gaps, large.counted_since_ms) == (False, (), second(7))
    assert found(store, since_ms=second(8)).completeness.complete


def ingest_with_a_clock_ahead_at_first(store: AuditStore, clock: Clock) -> None:
    """Ten events, a second each; the first three say an hour more."""
    batch = at_its_second(events(1, 10))
    for number in range(3):
        ahead = iso_timestamp(NOW + 3_600 + number)
        batch[number] = msgspec.structs.replace(batch[number], timestamp=ahead)
    ingest_as_they_happen(store, clock, batch)


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
@pytest.mark.parametrize("is_deleted", [False, True])
def test_store_events_of_a_clock_that_ran_ahead_are_not_of_a_time_after_their_receipt(
    store: AuditStore, database: Database, clock: Clock, is_deleted: bool
) -> None:
    """Else a search of later would rest on events that were not counted, and be called complete."""
    ingest_with_a_clock_ahead_at_first(store, clock)
    if is_deleted:
        delete_of(database, SOURCE, 2)  # where nothing is counted
    for since, is_complete in ((1, False), (3, False), (7, False), (8, True), (9, True)):
        result = found(store, since_ms=second(since))
        here = [each.event.sequence for each in result.events]
        deleted = {2} if is_deleted else set()
        assert here == [n for n in range(10, since - 1, -1) if n not in deleted]
        assert result.completeness.complete == is_complete
    hour_later = found(store, since_ms=second(3_000))
    assert (hour_later.events, hour_later.completeness.complete) == ((), True)


def test_store_search_until_a_time_has_what_was_received_by_then_whatever_it_says(
    store: AuditStore, clock: Clock
) -> None:
    ingest_with_a_clock_ahead_at_first(store, clock)
    for until in (2, 5):
        result = found(store, until_ms=second(until))
        assert [each.event.sequence for each in result.events] == list(range(until, 0, -1))


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_source_for_which_no_count_was_left_is_not_called_counted(
    store: AuditStore, clock: Clock
) -> None:
    """Whatever its clock said: what it reported and is not here may be of any time."""
    old = [
        msgspec.structs.replace(each, timestamp=iso_timestamp(1))
        for each in events(1, 3, "gateway.old.1")
    ]
    ingest(store, old, source="gateway.old.1")
    for name in ("a", "b"):
        source = f"gateway.{name}.1"
        ingest(store, at_its_second(events(1, 3, source)), source=source)
    clock.now += 5
    assert found(store, since_ms=second(1)).completeness.complete
    ingest(store, [], high_water=4, source="gateway.old.1")

    large = found(store, since_ms=second(1)).completeness
    assert (large.complete, large.gaps) == (False, (Gap("gateway.old.1", 4, 4),))
    assert large.counted_since_ms == second(5)


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_counts_the_sources_with_the_latest_events_first(
    store: AuditStore, clock: Clock
) -> None:
    for number, name in enumerate("abc", 1):
        clock.now = NOW + number
        batch = [
            msgspec.structs.replace(each, timestamp=iso_timestamp(clock.now))
            for each in events(1, 3, f"gateway.{name}.1")
        ]
        ingest(store, batch, source=f"gateway.{name}.1")
    ingest(store, [], high_water=3, source="gateway.a.1")  # it goes on, and nothing happened

    assert found(store).completeness.counted_since_ms == second(1)
    assert found(store, since_ms=second(2)).completeness.complete
    ingest(store, [], high_water=4, source="gateway.c.1")  # said, and not here yet
    large = found(store).completeness
    assert large.gaps == (Gap("gateway.c.1", 4, 4),)
    assert large.counted_since_ms == second(2)


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
def test_store_counts_a_gateway_that_says_2099_no_sooner_than_others(
    store: AuditStore, database: Database, clock: Clock
) -> None:
    for number, name in enumerate(("far", "a", "b"), 1):
        clock.now = NOW + number
        said = "2099-12-31T23:59:59.000Z" if name == "far" else iso_timestamp(clock.now)
        batch = [
            msgspec.structs.replace(each, timestamp=said)
            for each in events(1, 3, f"gateway.{name}.1")
        ]
        ingest(store, batch, source=f"gateway.{name}.1")
    delete_of(database, "gateway.a.1", 1)

    assert found(store).completeness.gaps == (Gap("gateway.a.1", 1, 1),)


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("small_count")
@pytest.mark.parametrize("source", [CUTS, "authz-server.0001"])
def test_store_counts_the_sources_of_the_authority_before_all_gateways(
    store: AuditStore, database: Database, clock: Clock, source: str
) -> None:
    """Else whoever makes events at gateways keeps the kills and logins from being counted."""
    own = at_its_second(events(1, 3, source))
    if source == CUTS:
        database.write_now(lambda connection: append_in(connection, own, second(1)))
    else:
        ingest(store, own, source=source)
    clock.now += 4
    for name in ("a", "b"):
        batch = [
            msgspec.structs.replace(each, timestamp=iso_timestamp(clock.now))
            for each in events(1, 4, f"gateway.{name}.1")
        ]
        ingest(store, batch, source=f"gateway.{name}.1")
    assert found(store).completeness.gaps == ()

    delete_of(database, source, 2)

    assert found(store).completeness.gaps == (Gap(source, 2, 2),)


@pytest.mark.requirement("audit-search")
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"agent": "support-bot"}, {1, 2}),
        ({"agent": "support"}, set()),
        ({"user": "usr_bob"}, {2, 3}),
        ({"tool": "crm/refund"}, {1}),
        ({"target_service": "notes"}, {2, 3}),
        ({"type": EventType.CALL_DECIDED}, {1, 2}),
        ({"outcome": Outcome.DENIED}, {2}),
        ({"decision_id": "dec_2"}, {2, 3}),
        ({"session": "ses_9"}, {3}),
        ({"agent": "support-bot", "outcome": Outcome.ALLOWED}, {1}),
        ({"since_ms": int(NOW * 1000) + 5_000}, {2, 3}),
        ({"until_ms": int(NOW * 1000) + 5_000}, {1, 2}),
        ({"agent": "' OR 1=1 --"}, set()),
    ],
)
def test_store_search_filters_exactly(
    store: AuditStore, clock: Clock, wanted: dict[str, object], expected: set[int]
) -> None:
    clock.now += 10
    base = intent("dec_1")
    change = msgspec.structs.replace
    batch = [
        change(base, event_id="evt_1", sequence=1),
        change(
            base,
            event_id="evt_2",
            sequence=2,
            user="usr_bob",
            outcome=Outcome.DENIED,
            tool="notes/search",
            target_service="notes",
            decision_id="dec_2",
            timestamp=iso_timestamp(NOW + 5),
        ),
        change(
            base,
            event_id="evt_3",
            sequence=3,
            type=EventType.CALL_FINISHED,
            outcome=Outcome.SUCCEEDED,
            agent="other-bot",
            user="usr_bob",
            tool="notes/search",
            target_service="notes",
            session="ses_9",
            decision_id="dec_2",
            timestamp=iso_timestamp(NOW + 9),
        ),
    ]
    ingest(store, [change(event, source=SOURCE) for event in batch])

    assert {each.event.sequence for each in found(store, **wanted).events} == expected


def marked(batch: Sequence[AuditEvent], *sequences: int, **fields: object) -> list[AuditEvent]:
    """The batch, with some of its events changed."""
    return [
        msgspec.structs.replace(each, **fields) if each.sequence in sequences else each
        for each in batch
    ]


def pages_of(store: AuditStore, wanted: AuditFilter, limit: int = 2) -> list[list[int]]:
    pages, before = [], None
    while True:
        result = store.search(wanted, limit=limit, before=before)
        pages.append([each.event.sequence for each in result.events])
        before = result.next_before
        if before is None:
            return pages


@pytest.fixture
def short_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks at four events."""
    monkeypatch.setattr(search, "MAXIMUM_WALKED", 4)


@pytest.mark.requirement("audit-search")
@pytest.mark.usefixtures("short_walk")
@pytest.mark.parametrize(
    ("wanted", "pages"),
    [
        (AuditFilter(), [[10, 9], [8, 7], [6, 5], [4, 3], [2, 1]]),
        (AuditFilter(object_ref="McpServer/crm"), [[], [6], [2]]),
        (AuditFilter(object_ref="none"), [[], [], []]),
        (AuditFilter(agent="rare-bot"), [[2]]),  # an index leads to it
        (AuditFilter(type=EventType.BLOCKED), [[6]]),
        (AuditFilter(agent="rare-bot", object_ref="none"), [[]]),
        (AuditFilter(agent="support-bot", object_ref="McpServer/crm"), [[], [6], []]),
        (AuditFilter(type=EventType.CALL_DECIDED, agent="rare-bot"), [[2]]),
    ],
)
def test_store_search_page_looks_at_a_bounded_number_and_the_next_goes_on(
    store: AuditStore, wanted: AuditFilter, pages: list[list[int]]
) -> None:
    batch = marked(events(1, 10), 2, agent="rare-bot")
    batch = marked(batch, 2, 6, object_ref="McpServer/crm")
    batch = marked(batch, 6, type=EventType.BLOCKED)
    ingest(
        store, [msgspec.structs.replace(each, source=AUTHORITY) for each in batch], source=AUTHORITY
    )
    assert pages_of(store, wanted) == pages


@pytest.mark.requirement("audit-search")
@pytest.mark.usefixtures("short_walk")
def test_store_search_goes_on_over_positions_that_nobody_has(
    store: AuditStore, database: Database
) -> None:
    ingest(store, marked(events(1, 12), 1, transaction="txn_1"))
    delete_of(database, SOURCE, *range(3, 12))
    assert pages_of(store, AuditFilter(transaction="txn_1")) == [[], [1]]


@pytest.mark.requirement("audit-search")
@pytest.mark.usefixtures("short_walk")
def test_store_search_since_a_time_ends_where_everything_was_received_before(
    store: AuditStore, clock: Clock
) -> None:
    ingest_as_they_happen(store, clock, at_its_second(events(1, 10)))
    clock.now += 3_600
    ingest(store, events(11, 15))

    wanted = AuditFilter(transaction="none", since_ms=second(1_800))
    assert pages_of(store, wanted) == [[], []]
    assert pages_of(store, replace(wanted, since_ms=None)) == [[], [], [], []]


@pytest.mark.requirement("audit-counted")
@pytest.mark.usefixtures("short_walk", "small_count")
def test_store_page_that_looked_no_further_is_complete_as_far_as_it_looked(
    store: AuditStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_as_they_happen(store, clock, at_its_second(events(1, 20)))
    wanted = AuditFilter(transaction="none")
    monkeypatch.setattr(completeness, "MAXIMUM_COUNTED_OF_SOURCE", 6)  # all of the first page
    first = store.search(wanted)
    assert (first.events, first.completeness.complete) == ((), True)
    older = store.search(wanted, before=first.next_before)
    assert (older.events, older.completeness.complete) == ((), False)


@pytest.mark.requirement("audit-search")
def test_store_search_pages_newest_first_without_repeating(store: AuditStore) -> None:
    ingest(store, events(1, 7))
    seen: list[int] = []
    before: int | None = None

    while True:
        page = store.search(AuditFilter(), limit=3, before=before)
        seen.extend(each.event.sequence for each in page.events)
        before = page.next_before
        if before is None:
            break

    assert seen == [7, 6, 5, 4, 3, 2, 1]


@pytest.mark.requirement("audit-search")
def test_store_events_of_a_decision_come_oldest_first(store: AuditStore) -> None:
    (one,) = events(1, 1)
    (two,) = events(2, 2)
    two = msgspec.structs.replace(two, type=EventType.CALL_FINISHED, decision_id="dec_1")
    ingest(store, [one, two])

    recorded = store.get("dec_1")

    assert [each.event.type for each in recorded] == ["call.decided", "call.finished"]
    assert store.get("dec_unknown") == ()


def test_source_that_an_operator_closed_spoils_no_search_of_later(
    store: AuditStore, clock: Clock
) -> None:
    far = [
        msgspec.structs.replace(event, timestamp="9999-12-31T23:59:59.000Z")
        for event in events(1, 1)
    ]
    asyncio.run(store.ingest(SOURCE, 999_999, far))
    clock.now += 60
    later = AuditFilter(since_ms=int(clock.now * 1000) + 1)
    assert not store.search(later).completeness.complete

    closed = asyncio.run(store.close_source(SOURCE))

    assert (closed.is_stopped, closed.high_water) == (True, 999_999)
    assert store.search(later).completeness.complete
    assert not store.search(AuditFilter()).completeness.complete  # then something was missing
    asyncio.run(store.ingest(SOURCE, 999_999, far))  # what comes late is kept, and reopens nothing
    assert store.search(later).completeness.complete


def test_source_that_nobody_heard_of_cannot_be_closed(store: AuditStore) -> None:
    with pytest.raises(UnknownSourceError):
        asyncio.run(store.close_source("gateway.demo.none"))


def test_gateway_has_a_bounded_number_of_sources_that_have_not_ended(
    store: AuditStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_log.store.MAXIMUM_LIVE_SOURCES", 3)
    for number in range(3):
        asyncio.run(store.ingest(f"gateway.demo.{number}", 1, []))
    with pytest.raises(IngestRefusedError, match="too many sources"):
        asyncio.run(store.ingest("gateway.demo.3", 1, []))
    asyncio.run(store.ingest("gateway.demo.2", 1, []))  # those it has go on
    asyncio.run(store.ingest("gateway.demo-eu.0", 1, []))  # as do others'
    asyncio.run(store.ingest("authz-server.0", 1, []))
    asyncio.run(store.close_source("gateway.demo.0"))
    asyncio.run(store.ingest("gateway.demo.3", 1, []))


@pytest.mark.requirement("audit-durable")
def test_store_event_with_texts_no_database_holds_is_written_all_the_same(
    store: AuditStore, database: Database
) -> None:
    odd = msgspec.structs.replace(intent("dec_1"), user="a\0b", tool="\ud800", detail="\udfff")

    database.write_now(lambda connection: append_in(connection, [odd], int(NOW * 1000)))

    (event,) = (each.event for each in found(store).events)
    assert (event.user, event.tool, event.detail) == ("a\0b", "?", "?")
