"""What an identity provider reports of people cuts off exactly those it concerns, once."""

import asyncio
from typing import Any

import pytest

from audit_log.event import EventType
from authz_server.person_changes import CLOCKS_APART_MS, apply_change
from authz_server.store.persons import PERSONS_AT_ONCE, SeenPerson
from authz_server.store.sessions import NewSession
from authz_server.store.upstream_sessions import UpstreamSession
from idp_connectors.evidence import Person
from idp_connectors.workforce.person_changes import ChangeKind, PersonChange
from registry.blocks import BlockKind
from tests.authz_server.front_half import NOW, FrontHalf, run
from tests.authz_server.login_sessions import logged_in_at

NOW_MS = NOW * 1000


def person(name: str, provider: str = "corp") -> Person:
    return Person(
        identity_provider=provider,
        issuer="https://login.corp.example/realms/corp",
        subject=f"sub-of-{name}",
        name=name,
        groups=(f"{provider}/support",),
        acr="1",
        auth_time=NOW,
    )


def logged_in(half: FrontHalf, name: str, upstream: str | None = None, **more: Any) -> NewSession:
    """A login by the provider, from one of its sessions."""
    who = person(name, **more)
    now = int(half.clock())
    sub = run(half.parts.persons.remember(who, now)).sub
    started = run(logged_in_at(half.parts.sessions, sub, who, now))
    if upstream is not None:
        origin = UpstreamSession(started.session.sid, sub, who.identity_provider, upstream)
        run(half.parts.upstream_sessions.remember(origin, now))
    return started


def change(kind: ChangeKind = ChangeKind.GROUPS, event_id: str = "e1", **who: Any) -> PersonChange:
    return PersonChange(event_id, kind, NOW_MS, **who)


def epoch_of(half: FrontHalf, login: NewSession) -> int:
    """The person's claims epoch; 0 when there is none."""
    entry = half.revocations.state().entries.get((BlockKind.CLAIMS, login.session.sub))
    return 0 if entry is None else entry.not_before


def is_living(half: FrontHalf, login: NewSession) -> bool:
    return asyncio.run(half.parts.sessions.find(login.cookie_value, int(half.clock()))) is not None


@pytest.mark.requirement("trap-person-change")
@pytest.mark.parametrize("kind", [ChangeKind.GROUPS, ChangeKind.ROLES, ChangeKind.PROFILE])
def test_a_change_of_claims_makes_what_was_issued_out_of_date(
    half: FrontHalf, kind: ChangeKind
) -> None:
    alice, bob = logged_in(half, "alice"), logged_in(half, "bob")
    assert run(apply_change(half.parts, "corp", change(kind, subject="sub-of-alice"))) == 1
    assert epoch_of(half, alice) == NOW
    assert epoch_of(half, bob) == 0
    # The session stays, so that a refresh can ask the provider about her anew.
    assert is_living(half, alice)


@pytest.mark.requirement("trap-person-change")
@pytest.mark.parametrize("kind", [ChangeKind.DISABLED, ChangeKind.DELETED])
def test_somebody_disabled_or_deleted_loses_every_session(
    half: FrontHalf, kind: ChangeKind
) -> None:
    desk, phone, bob = (logged_in(half, name) for name in ("alice", "alice", "bob"))
    run(apply_change(half.parts, "corp", change(kind, subject="sub-of-alice")))
    assert not is_living(half, desk)
    assert not is_living(half, phone)
    assert is_living(half, bob)


def test_a_logout_ends_the_sessions_that_came_from_the_one_that_ended(half: FrontHalf) -> None:
    desk, phone = logged_in(half, "alice", "kc-desk"), logged_in(half, "alice", "kc-phone")
    logout = change(ChangeKind.LOGGED_OUT, subject="sub-of-alice", upstream_session="kc-desk")
    assert run(apply_change(half.parts, "corp", logout)) == 1
    assert not is_living(half, desk)
    assert is_living(half, phone)
    assert epoch_of(half, phone) == NOW  # her tokens are asked about anew, whichever they are


def test_a_session_that_ended_names_its_person_by_where_ours_came_from(half: FrontHalf) -> None:
    alice, bob = logged_in(half, "alice", "kc-1"), logged_in(half, "bob", "kc-2")
    ended = change(ChangeKind.SESSION_ENDED, upstream_session="kc-1")
    assert run(apply_change(half.parts, "corp", ended)) == 1
    assert not is_living(half, alice)
    assert epoch_of(half, alice) == NOW
    assert is_living(half, bob)
    assert epoch_of(half, bob) == 0


def test_a_session_nobody_here_came_from_changes_nothing(half: FrontHalf) -> None:
    alice = logged_in(half, "alice", "kc-1")
    ended = change(ChangeKind.SESSION_ENDED, upstream_session="kc-of-another-program")
    assert run(apply_change(half.parts, "corp", ended)) == 0
    assert is_living(half, alice)


def test_the_session_of_another_provider_is_not_meant(half: FrontHalf) -> None:
    alice = logged_in(half, "alice", "kc-1", provider="other")
    for meant in ({"upstream_session": "kc-1"}, {"subject": "sub-of-alice"}):
        assert run(apply_change(half.parts, "corp", change(ChangeKind.LOGGED_OUT, **meant))) == 0
    assert is_living(half, alice)
    assert epoch_of(half, alice) == 0


def test_a_logout_of_all_sessions_ends_all(half: FrontHalf) -> None:
    desk, phone = logged_in(half, "alice", "kc-desk"), logged_in(half, "alice")
    run(apply_change(half.parts, "corp", change(ChangeKind.LOGGED_OUT, subject="sub-of-alice")))
    assert not is_living(half, desk)
    assert not is_living(half, phone)


@pytest.mark.requirement("trap-person-change-twice")
def test_a_change_reported_again_is_not_done_again(half: FrontHalf) -> None:
    """Two processes poll the same feed, and each reads a part of it again."""
    alice = logged_in(half, "alice")
    groups = change(subject="sub-of-alice")
    assert run(apply_change(half.parts, "corp", groups)) == 1
    half.clock.now += 60
    assert run(apply_change(half.parts, "corp", groups)) == 0
    assert epoch_of(half, alice) == NOW
    assert len(half.cuts(EventType.PERSON_CHANGED)) == 1


def test_the_same_event_id_of_another_provider_is_another_change(half: FrontHalf) -> None:
    logged_in(half, "alice")
    logged_in(half, "alice", provider="other")
    groups = change(subject="sub-of-alice")
    assert run(apply_change(half.parts, "corp", groups)) == 1
    assert run(apply_change(half.parts, "other", groups)) == 1


def test_who_first_logged_in_after_the_change_is_not_concerned(half: FrontHalf) -> None:
    """A process that starts reads hours of a feed; most of it was over when they came."""
    half.clock.now += CLOCKS_APART_MS / 1000 + 1
    new = logged_in(half, "alice")
    assert run(apply_change(half.parts, "corp", change(subject="sub-of-alice"))) == 0
    assert epoch_of(half, new) == 0


def test_whose_session_ended_is_concerned_whatever_the_clock_of_the_provider_says(
    half: FrontHalf,
) -> None:
    half.clock.now += CLOCKS_APART_MS / 1000 + 1
    new = logged_in(half, "alice", "kc-1")
    ended = change(ChangeKind.SESSION_ENDED, upstream_session="kc-1")
    assert run(apply_change(half.parts, "corp", ended)) == 1
    assert epoch_of(half, new) > NOW
    assert not is_living(half, new)
    assert [event.user for event in half.cuts(EventType.PERSON_CHANGED)] == [new.session.sub]


def test_who_came_within_what_clocks_may_differ_is_concerned(half: FrontHalf) -> None:
    half.clock.now += CLOCKS_APART_MS / 1000 - 1
    new = logged_in(half, "alice")
    assert run(apply_change(half.parts, "corp", change(subject="sub-of-alice"))) == 1
    assert epoch_of(half, new) > NOW


@pytest.mark.requirement("trap-person-change")
def test_a_change_of_the_directory_concerns_everybody_of_that_provider(half: FrontHalf) -> None:
    many = [logged_in(half, f"person-{n}") for n in range(PERSONS_AT_ONCE + 3)]
    other = logged_in(half, "alice", provider="other")
    moved = change(ChangeKind.DIRECTORY)
    assert run(apply_change(half.parts, "corp", moved)) == len(many)
    assert all(epoch_of(half, login) == NOW for login in many)
    assert epoch_of(half, other) == 0
    told = half.cuts(EventType.PERSON_CHANGED)
    assert [(event.user, event.detail) for event in told] == [
        (None, f"everybody of this provider: {count}") for count in (PERSONS_AT_ONCE, 3)
    ]
    assert run(apply_change(half.parts, "corp", moved)) == 0


def test_each_change_is_in_the_audit(half: FrontHalf) -> None:
    alice = logged_in(half, "alice")
    run(apply_change(half.parts, "corp", change(subject="sub-of-alice")))
    (event,) = half.cuts(EventType.PERSON_CHANGED)
    assert (event.user, event.user_name) == (alice.session.sub, "alice")
    assert event.author == event.object_ref == "IdentityProvider/corp"
    assert event.reasons == ("person.groups",)


def test_a_person_is_cut_off_and_recorded_although_the_spool_is_full(half: FrontHalf) -> None:
    alice = logged_in(half, "alice")
    half.spool.is_broken = True
    assert run(apply_change(half.parts, "corp", change(subject="sub-of-alice"))) == 1
    assert epoch_of(half, alice) == NOW
    assert [event.user for event in half.cuts(EventType.PERSON_CHANGED)] == [alice.session.sub]


@pytest.mark.requirement("trap-person-change")
def test_who_comes_while_everybody_is_cut_off_is_cut_off_too(
    half: FrontHalf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their `sub` may be before the place where the pages are."""
    for number in range(PERSONS_AT_ONCE + 3):
        logged_in(half, f"person-{number}")
    came: list[NewSession] = []
    read = half.parts.persons.of_provider

    async def reading(*where: Any, **page: Any) -> tuple[SeenPerson, ...]:
        found = await read(*where, **page)
        if page["after_sub"] and not came:
            new = person("new")
            monkeypatch.setattr(half.parts.persons, "_random", lambda n: b"\0" * n)
            known = await half.parts.persons.remember(new, NOW)
            came.append(await logged_in_at(half.parts.sessions, known.sub, new, NOW))
        return found

    monkeypatch.setattr(half.parts.persons, "of_provider", reading)
    run(apply_change(half.parts, "corp", change(ChangeKind.DIRECTORY)))
    assert came
    assert epoch_of(half, came[0]) == NOW
