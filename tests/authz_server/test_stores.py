"""What every store of the authorization server promises, on both databases.

Two `Database` objects stand for two processes. Whatever is used once is used once in both; who
comes second is told so; and what somebody else holds is not touched.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Engine, event

import countersign.migrations.tables  # noqa: F401 - every table there is
from admin_console.setup_codes import SetupCodes, use_in
from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp
from audit_log.search import AuditFilter
from audit_log.store import AuditStore
from authz_server.store import interactions
from authz_server.store.codes import CODE_LIFETIME_SECONDS, CodeGrant, CodeStore, save_in
from authz_server.store.consents import Consent, ConsentStore, grant_in
from authz_server.store.interactions import AuthorizationRequest, InteractionStore
from authz_server.store.person_cuts import Ending, PersonCut, PersonCuts
from authz_server.store.persons import PersonStore
from authz_server.store.refresh_tokens import RefreshGrant, RefreshTokenStore, begin_in
from authz_server.store.replay import OnceKind, UsedOnce
from authz_server.store.sessions import SESSION_LIFETIME_SECONDS, SessionStore
from authz_server.store.upstream_logins import UpstreamLoginStore
from authz_server.store.upstream_sessions import (
    KEPT_SECONDS,
    UpstreamSession,
    UpstreamSessionStore,
)
from database.engine import Database
from idp_connectors.evidence import Person
from registry.acks import Ack, AckStore
from registry.blocks import BlockKind, Subject
from registry.revocations import RevocationStore
from tests.authz_server.login_sessions import logged_in_at
from token_exchange.claims import JwkThumbprint

T = TypeVar("T")
NOW = 1_800_000_000
TIMES = 20
NUMBERS = count()

ALICE = Person(
    "local", "https://as.example.com", "acc_alice", "Alice Ærø 🎈", ("local/staff",), "pwd", NOW
)
GRANT = CodeGrant(
    client_id="support-bot",
    agent="support-bot",
    redirect_uri="http://127.0.0.1/callback",
    code_challenge="c" * 43,
    resource="https://gw.example.com/crm/mcp",
    scope="mcp:tools",
    details=(),
    nonce=None,
    dpop_jkt=None,
    sub="usr_alice",
    person=ALICE,
    sid="ses_1",
    session_created_at=NOW,
    valid_until=NOW + 600,
    gid="grt_1",
    invocation="inv_1",
    token_id="tok_1",
    transaction="txn_1",
    created_at=NOW,
)
REQUEST = AuthorizationRequest(
    client_id="support-bot",
    agent="support-bot",
    server="crm",
    redirect_uri="http://127.0.0.1/callback",
    state="s",
    code_challenge="c" * 43,
    resource="https://gw.example.com/crm/mcp",
    scope="mcp:tools",
    tools=("get_account",),
    nonce=None,
    dpop_jkt=None,
    fresh_login=False,
    ask_consent=False,
    silent=False,
    login_not_before=0,
)
CONSENT = Consent(
    gid="grt_1",
    sub="usr_alice",
    agent="support-bot",
    server="crm",
    tools={"get_account": "sha-256:a"},
    scope="mcp:tools",
    created_at=NOW,
    expires_at=NOW + 100,
)


@pytest.fixture
def both(database_url_with_tables: str) -> Iterator[tuple[Database, Database]]:
    """One database, opened by two."""
    opened = Database.open(database_url_with_tables), Database.open(database_url_with_tables)
    yield opened
    for each in opened:
        each.close()


@pytest.fixture
def database(both: tuple[Database, Database]) -> Database:
    return both[0]


def random() -> Any:
    """Different at each call."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def at_once(works: list[Coroutine[Any, Any, T]]) -> list[T]:
    async def scenario() -> list[T]:
        return list(await asyncio.gather(*works))

    return run(scenario())


# --- authorization codes --------------------------------------------------------------------------


@pytest.mark.requirement("trap-one-winner")
def test_code_consumed_twenty_times_in_two_processes_has_one_winner(
    both: tuple[Database, Database],
) -> None:
    stores = [CodeStore(each) for each in both]
    run(both[0].write(lambda each: save_in(each, "code", GRANT)))
    found = asyncio.run(stores[1].find("code"))
    assert found is not None
    assert found.grant == GRANT  # every character and number, whichever process wrote it
    won = at_once([stores[n % 2].consume(found.digest, NOW + 1) for n in range(TIMES)])
    assert won.count(True) == 1
    used = asyncio.run(stores[0].find("code"))
    assert used is not None
    assert used.used_at == NOW + 1


def test_code_that_expired_or_was_never_issued_is_not_consumed(database: Database) -> None:
    store = CodeStore(database)
    run(database.write(lambda each: save_in(each, "code", GRANT)))
    found = asyncio.run(store.find("code"))
    assert found is not None
    assert asyncio.run(store.find("another")) is None
    assert not run(store.consume(found.digest, NOW + CODE_LIFETIME_SECONDS))
    assert not run(store.consume("0" * 64, NOW))
    assert run(store.consume(found.digest, NOW))


# --- login sessions -------------------------------------------------------------------------------


def test_session_is_found_by_its_cookie_alone_until_it_ends(
    both: tuple[Database, Database],
) -> None:
    here, there = (SessionStore(each, random()) for each in both)
    started = run(logged_in_at(here, "usr_alice", ALICE, NOW))
    assert asyncio.run(there.find(started.cookie_value, NOW)) == started.session
    assert asyncio.run(there.find(started.session.sid, NOW)) is None
    assert asyncio.run(there.find(started.cookie_value, NOW + SESSION_LIFETIME_SECONDS)) is None
    run(there.end(started.session.sid))
    assert asyncio.run(here.find(started.cookie_value, NOW)) is None


def test_session_of_a_new_login_replaces_the_one_before_it_in_that_browser(
    database: Database,
) -> None:
    store = SessionStore(database, random())
    first = run(logged_in_at(store, "usr_alice", ALICE, NOW))
    other = run(logged_in_at(store, "usr_bob", replace(ALICE, subject="acc_bob"), NOW))
    second = run(logged_in_at(store, "usr_alice", ALICE, NOW, replacing=first.cookie_value))
    found = [asyncio.run(store.find(each.cookie_value, NOW)) for each in (first, second, other)]
    assert found == [None, second.session, other.session]


# --- consents, persons, interactions --------------------------------------------------------------


def test_consent_is_found_by_person_agent_and_server_until_it_ends(database: Database) -> None:
    store = ConsentStore(database)
    run(database.write(lambda each: grant_in(each, CONSENT)))
    later = replace(CONSENT, gid="grt_2", created_at=NOW + 1, expires_at=NOW + 50)
    run(database.write(lambda each: grant_in(each, later)))
    assert asyncio.run(store.living("usr_alice", "support-bot", "crm", NOW + 2)) == (later, CONSENT)
    assert asyncio.run(store.living("usr_alice", "support-bot", "crm", NOW + 50)) == (CONSENT,)
    for other in (
        ("usr_bob", "support-bot", "crm"),
        ("usr_alice", "other-bot", "crm"),
        ("usr_alice", "support-bot", "notes"),
    ):
        assert asyncio.run(store.living(*other, NOW)) == ()


def test_person_who_logs_in_first_in_two_processes_at_once_is_one_person(
    both: tuple[Database, Database],
) -> None:
    fresh = random()
    stores = [PersonStore(each, fresh) for each in both]
    known = at_once([stores[n % 2].remember(ALICE, NOW) for n in range(TIMES)])
    assert len({person.sub for person in known}) == 1
    assert asyncio.run(stores[0].find(known[0].sub)) == known[0]
    namesake = run(stores[0].remember(replace(ALICE, issuer="https://other.example.com"), NOW))
    assert namesake.sub != known[0].sub


@pytest.mark.requirement("trap-one-winner")
def test_interaction_is_finished_once_and_only_by_its_browser(
    both: tuple[Database, Database],
) -> None:
    stores = [InteractionStore(each, random()) for each in both]
    started = run(stores[0].start(REQUEST, "browser", NOW))
    assert started is not None
    assert asyncio.run(stores[1].find(started.interaction_id, "browser", NOW)) == started
    assert asyncio.run(stores[1].find(started.interaction_id, "another browser", NOW)) is None
    assert (
        asyncio.run(stores[1].find(started.interaction_id, "browser", started.expires_at)) is None
    )
    finished = at_once(
        [stores[n % 2].finish(started.interaction_id, NOW) for n in range(TIMES)],
    )
    assert finished.count(True) == 1
    assert asyncio.run(stores[0].find(started.interaction_id, "browser", NOW)) is None


@pytest.mark.requirement("trap-login-evicted")
def test_interactions_of_a_flood_make_room_by_those_of_the_flood(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "MAXIMUM_OPEN", 8)
    store = InteractionStore(database, random())

    def opened(network: str) -> str:
        started = run(store.start(REQUEST, "browser", NOW, network=network))
        assert started is not None
        return started.interaction_id

    def are_open(ids: list[str]) -> list[bool]:
        return [run(store.find(each, "browser", NOW)) is not None for each in ids]

    logged_in = opened("192.0.2.66")
    run(store.logged_in(logged_in, "ses_1"))
    typing = [opened("198.51.100.7"), opened("203.0.113.9"), opened("203.0.113.9")]
    flood = [opened("192.0.2.66") for _ in range(40)]
    assert are_open([logged_in, *typing]) == [True] * 4
    assert sum(are_open(flood)) <= 4
    assert are_open([flood[-1], opened("198.51.100.8")]) == [True, True]


def test_interactions_all_with_a_login_leave_no_room(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "MAXIMUM_OPEN", 2)
    store = InteractionStore(database, random())
    for network in ("198.51.100.7", "203.0.113.9"):
        started = run(store.start(REQUEST, "browser", NOW, network=network))
        assert started is not None
        run(store.logged_in(started.interaction_id, "ses_1"))
    assert run(store.start(REQUEST, "browser", NOW, network="192.0.2.66")) is None
    later = NOW + interactions.INTERACTION_LIFETIME_SECONDS
    assert run(store.start(REQUEST, "browser", later, network="192.0.2.66")) is not None


def test_interactions_beyond_the_bound_make_room_by_the_oldest(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "MAXIMUM_OPEN", 5)
    monkeypatch.setattr(interactions, "EVICTED_AT_ONCE", 2)
    store = InteractionStore(database, random())
    started = [run(store.start(REQUEST, "browser", NOW + n)) for n in range(6)]
    ids = [each.interaction_id for each in started if each is not None]
    found = [asyncio.run(store.find(each, "browser", NOW + 6)) is not None for each in ids]
    assert found == [False, False, True, True, True, True]


def test_room_for_interactions_is_made_without_reading_the_requests(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "MAXIMUM_OPEN", 4)
    store = InteractionStore(database, random())
    plans: list[str] = []

    def explained(
        connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        if connection.dialect.name == "sqlite" and statement.startswith(("SELECT", "DELETE")):
            plan = connection.connection.cursor()
            plan.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(str(row[3]) for row in plan.fetchall())

    for number in range(4):
        run(store.start(REQUEST, "browser", NOW, network=f"192.0.2.{number % 2}"))
    event.listen(Engine, "before_cursor_execute", explained)
    try:
        run(store.start(REQUEST, "browser", NOW, network="192.0.2.66"))
    finally:
        event.remove(Engine, "before_cursor_execute", explained)
    scans = [each for each in plans if each.startswith("SCAN") and "interactions" in each]
    assert all("COVERING INDEX" in each for each in scans), plans


# --- codes of operators, words of gateways --------------------------------------------------------


@pytest.mark.requirement("trap-one-winner")
def test_setup_code_used_twenty_times_in_two_processes_has_one_winner(
    both: tuple[Database, Database],
) -> None:
    fresh = random()
    stores = [SetupCodes(each, random=fresh) for each in both]

    async def use(process: int, code: str) -> bool:
        return await both[process].write(lambda connection: use_in(connection, code, NOW))

    replaced = stores[0].create_now(NOW)
    code = stores[1].create_now(NOW)
    assert code is not None
    assert replaced is not None
    assert not run(use(0, replaced))
    assert stores[0].is_open(code, NOW)
    assert at_once([use(n % 2, code) for n in range(TIMES)]).count(True) == 1
    assert not stores[1].is_open(code, NOW)


def test_acknowledgement_sent_to_both_servers_is_kept_once(
    both: tuple[Database, Database],
) -> None:
    stores = [AckStore(each) for each in both]
    acks = [Ack("main", "worker", sequence, 1, NOW, NOW) for sequence in (1, 2)]
    at_once([stores[n % 2].record_ack(acks[n // 2 % 2]) for n in range(TIMES)])
    assert stores[0].acks_for(1) == (acks[0],)
    assert stores[1].acks_for(2) == (acks[1],)


# --- refresh token families, logins elsewhere, what cuts persons off ------------------------------

FAMILY = RefreshGrant(
    client_id="support-bot",
    agent="support-bot",
    resource="https://gw.example.com/crm/mcp",
    scope="mcp:tools offline_access",
    details=(),
    key=JwkThumbprint("k" * 43),
    sub="usr_alice",
    sid="ses_1",
    session_created_at=NOW,
    gid="grt_1",
    invocation="inv_1",
    transaction="txn_1",
    created_at=NOW,
    expires_at=NOW + 600,
)


def begin(database: Database, family_id: str, token: str, grant: RefreshGrant) -> None:
    run(database.write(lambda connection: begin_in(connection, family_id, token, grant)))


@pytest.mark.requirement("attack-14")
def test_refresh_token_rotated_twenty_times_in_two_processes_has_one_winner(
    both: tuple[Database, Database],
) -> None:
    stores = [RefreshTokenStore(each) for each in both]
    begin(both[0], "fam_1", "first", FAMILY)
    found = asyncio.run(stores[1].find("first"))
    assert found is not None
    assert (found.grant, found.is_used, found.is_revoked) == (FAMILY, False, False)
    won = at_once([stores[n % 2].rotate(found, f"next-{n}", NOW + 1) for n in range(TIMES)])
    assert won.count(True) == 1
    again = asyncio.run(stores[0].find("first"))
    assert again is not None
    assert again.is_used
    successors = [asyncio.run(stores[1].find(f"next-{n}")) for n in range(TIMES)]
    assert [each is not None for each in successors] == won


@pytest.mark.requirement("attack-14")
def test_refresh_family_that_ended_yields_nothing(both: tuple[Database, Database]) -> None:
    here, there = (RefreshTokenStore(each) for each in both)
    begin(both[0], "fam_1", "first", FAMILY)
    begin(both[0], "fam_2", "second", FAMILY)
    first, second = asyncio.run(here.find("first")), asyncio.run(here.find("second"))
    assert first is not None
    assert second is not None
    assert not run(there.rotate(first, "late", FAMILY.expires_at))
    run(there.revoke("fam_1", NOW))
    assert not run(here.rotate(first, "late", NOW))
    assert run(here.rotate(second, "next", NOW))  # a family of its own
    begin(both[0], "fam_3", "third", replace(FAMILY, created_at=FAMILY.expires_at))
    assert asyncio.run(there.find("first")) is None


@pytest.mark.requirement("attack-12")
def test_login_elsewhere_is_used_once_in_two_processes(both: tuple[Database, Database]) -> None:
    stores = [UpstreamLoginStore(each) for each in both]
    run(stores[0].start("itx_1", "corp", "registered", "state", "browser", now=NOW))
    assert asyncio.run(stores[1].find("state", "other browser", "corp", NOW)) is None
    assert asyncio.run(stores[1].find("state", "browser", "other", NOW)) is None
    found = asyncio.run(stores[1].find("state", "browser", "corp", NOW))
    assert found is not None
    assert asyncio.run(stores[1].find("state", "browser", "corp", found.expires_at)) is None
    used = at_once([stores[n % 2].use("state") for n in range(TIMES)])
    assert used.count(True) == 1


def told(subs: Sequence[str]) -> list[AuditEvent]:
    """The events of a cut."""
    return [
        AuditEvent(
            event_id=f"evt_{sub}_{next(NUMBERS)}",
            timestamp=iso_timestamp(NOW),
            type=EventType.PERSON_CHANGED,
            outcome=Outcome.REVOKED,
            user=sub,
        )
        for sub in subs
    ]


def audited(database: Database) -> list[str]:
    """Whom the audit says was cut off; it must be complete."""
    found = AuditStore(database, clock=lambda: NOW + 3600).search(AuditFilter())
    assert found.completeness.complete
    assert [each.event.sequence for each in found.events] == list(range(len(found.events), 0, -1))
    return sorted(each.event.user or "" for each in found.events)


@pytest.mark.requirement("trap-cut-unrecorded")
def test_cut_and_its_record_stand_together_or_not_at_all(both: tuple[Database, Database]) -> None:
    here, there = both
    once = UsedOnce(OnceKind.PERSON_CHANGE, "corp", "event-1", NOW + 600)

    def fails(_subs: Sequence[str]) -> list[AuditEvent]:
        raise RuntimeError("the process dies")

    cut = PersonCut(once, ["usr_alice"], Ending.ALL, (), "disabled", "test", fails)
    with pytest.raises(RuntimeError):
        run(PersonCuts(here, lambda: NOW).apply(cut))
    claims = Subject(BlockKind.CLAIMS, "usr_alice")
    assert RevocationStore(there, lambda: NOW).state().first_hit((claims,), NOW) is None
    assert run(PersonCuts(there, lambda: NOW).apply(replace(cut, recorded=told)))
    assert RevocationStore(here, lambda: NOW).state().first_hit((claims,), NOW) is not None
    assert audited(here) == ["usr_alice"]


@pytest.mark.requirement("trap-person-change")
def test_cut_that_had_to_wait_for_the_database_is_of_when_it_was_written(
    both: tuple[Database, Database],
) -> None:
    """What was issued while it waited says what the person is no more."""
    times, written = [NOW], threading.Event()
    once = UsedOnce(OnceKind.PERSON_CHANGE, "corp", "event-1", NOW + 600)
    cut = PersonCut(once, ["usr_alice"], Ending.NONE, (), "groups", "test", told)

    async def scenario() -> bool:
        before = asyncio.create_task(both[0].write(lambda _: written.wait(5)))
        cutting = asyncio.create_task(PersonCuts(both[0], lambda: times[-1]).apply(cut))
        await asyncio.sleep(0)  # both are asked for
        times.append(NOW + 3)
        written.set()
        return await before and await cutting

    assert run(scenario())
    (event,) = RevocationStore(both[1], lambda: NOW).events_after(0)
    assert event.not_before == NOW + 3


@pytest.mark.requirement("trap-person-change-twice")
def test_everybody_is_cut_off_once_though_two_processes_see_other_pages(
    both: tuple[Database, Database],
) -> None:
    once = UsedOnce(OnceKind.PERSON_CHANGE, "corp", "event-1", NOW + 600)
    subs = [f"usr_{n:02}" for n in range(12)]
    # The second process sees somebody more on its first page, so that all its pages are others.
    pages = [subs[:4], subs[4:8], subs[8:]], [["usr_new", *subs[:3]], subs[3:7], subs[7:]]
    cuts = [
        PersonCuts(database, lambda: NOW).apply_to_each(
            PersonCut(once, page, Ending.NONE, (), "everybody", "test", told)
        )
        for database, its_pages in zip(both, pages, strict=True)
        for page in its_pages
    ]
    assert sum(at_once(cuts)) == 13
    assert audited(both[0]) == sorted(["usr_new", *subs])
    epochs = RevocationStore(both[0], lambda: NOW).events_after(0)
    assert sorted(event.id for event in epochs) == sorted(["usr_new", *subs])


@pytest.mark.requirement("trap-person-change-twice")
def test_person_is_cut_off_once_however_many_processes_hear_of_it(
    both: tuple[Database, Database],
) -> None:
    sessions = SessionStore(both[0], random())
    started = run(logged_in_at(sessions, "usr_alice", ALICE, NOW))
    came_from = UpstreamSession(started.session.sid, "usr_alice", "corp", "kc-session")
    run(UpstreamSessionStore(both[0]).remember(came_from, NOW))
    once = UsedOnce(OnceKind.DECISION, "corp", "event-1", NOW + 600)
    sids = [started.session.sid]
    cut = PersonCut(once, ["usr_alice"], Ending.NAMED, sids, "logged out", "test", told)
    applied = at_once([PersonCuts(both[n % 2], lambda: NOW).apply(cut) for n in range(TIMES)])
    assert applied.count(True) == 1
    assert asyncio.run(sessions.find(started.cookie_value, NOW)) is None
    assert asyncio.run(UpstreamSessionStore(both[1]).sids("corp", "kc-session")) == ()
    epochs = RevocationStore(both[1], lambda: NOW).state()
    assert epochs.first_hit((Subject(BlockKind.CLAIMS, "usr_alice"),), NOW) is not None


def test_session_noted_by_many_at_once_is_one_and_kept_from_the_last(
    both: tuple[Database, Database],
) -> None:
    session = UpstreamSession("ses_1", "usr_alice", "corp", "kc-session")
    stores = [UpstreamSessionStore(each) for each in both]

    async def all_at_once() -> None:
        await asyncio.gather(*(stores[turn % 2].note(session, NOW) for turn in range(TIMES)))

    run(all_at_once())
    assert run(stores[0].sids("corp", "kc-session")) == (("ses_1", "usr_alice"),)
    run(stores[0].note(session, NOW + KEPT_SECONDS - 1))
    other = UpstreamSession("ses_2", "usr_bob", "corp", "kc-other")
    run(stores[1].remember(other, NOW + KEPT_SECONDS))  # forgets what nobody noted again
    assert run(stores[1].sids("corp", "kc-session")) == (("ses_1", "usr_alice"),)


def test_person_is_known_by_provider_issuer_and_subject_once_they_were_here(
    both: tuple[Database, Database],
) -> None:
    stores = [PersonStore(each, random()) for each in both]
    assert run(stores[0].known(ALICE)) is None
    sub = run(stores[0].remember(ALICE, NOW)).sub
    found = run(stores[1].known(replace(ALICE, name="Somebody Else", groups=())))
    assert found is not None
    assert found.sub == sub
    for other in (
        replace(ALICE, subject="acc_bob"),
        replace(ALICE, issuer="https://evil.example"),
        replace(ALICE, identity_provider="corp"),
    ):
        assert run(stores[1].known(other)) is None
