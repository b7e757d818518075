"""A session whose provider must be asked again: what it keeps, when it is asked, when it ends."""

import asyncio
from typing import Any

import anyio
import pytest
from sqlalchemy import update

from audit_log.event import EventType, Outcome
from authz_server import revalidation
from authz_server.issuing.session_seal import SessionSeal
from authz_server.parts import Parts
from authz_server.revalidation import revalidated
from authz_server.store.sessions import SESSION_LIFETIME_SECONDS, LoginSessionRow, Session
from authz_server.turns import MAXIMUM_WAITING, Turns
from database.errors import DatabaseUnavailableError
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from outbound.fetcher import FetchError
from tests.authz_server.cuts import cuts_in
from tests.authz_server.front_half import FrontHalf, answer_of, is_consent, is_login
from tests.authz_server.partner import Partner, partner_of

CLAIMS_SECONDS = 900


@pytest.fixture
def partner(half: FrontHalf) -> Partner:
    return partner_of(half)


def logged_in(partner: Partner) -> str:
    """Somebody logged in elsewhere; their session."""
    partner.log_in(partner.half.browser())
    return partner.half.spool.of(EventType.LOGIN_SUCCEEDED)[-1].session or ""


def ask(partner: Partner, sid: str) -> Session | LoginFailure:
    async def work() -> Session | LoginFailure:
        return await revalidated(partner.half.parts, sid, int(partner.half.clock()))

    return anyio.run(work)


def later(partner: Partner, seconds: int) -> None:
    partner.half.clock.now += seconds
    partner.idp.now = int(partner.half.clock())


def stored(partner: Partner, sid: str) -> tuple[Session, bytes | None] | None:
    return asyncio.run(partner.half.parts.sessions.find_upstream(sid, int(partner.half.clock())))


def test_refresh_token_is_sealed_in_the_row_of_its_session(partner: Partner) -> None:
    sid = logged_in(partner)
    found = stored(partner, sid)
    assert found is not None
    (token,) = partner.idp.refresh_tokens
    sealed = found[1] or b""
    assert token.encode() not in sealed
    assert partner.half.parts.session_seal.open(sid, sealed) == token.encode()


def test_session_asked_about_again_has_todays_groups_and_a_new_sealed_token(
    partner: Partner,
) -> None:
    sid = logged_in(partner)
    before = stored(partner, sid)
    partner.idp.people["carol"]["groups"] = ["partners"]
    later(partner, 600)
    answer = ask(partner, sid)
    assert isinstance(answer, Session)
    assert answer.person.groups == ("partner/partners",)
    assert answer.claims_until == int(partner.half.clock()) + CLAIMS_SECONDS
    after = stored(partner, sid)
    assert before is not None
    assert after is not None
    assert after[0] == answer
    assert after[1] != before[1]
    assert isinstance(ask(partner, sid), Session)  # the rotated token was kept


def test_person_disabled_there_ends_the_session_for_ever_and_is_recorded(partner: Partner) -> None:
    sid = logged_in(partner)
    partner.idp.people["carol"]["disabled"] = True
    failure = ask(partner, sid)
    assert isinstance(failure, LoginFailure)
    assert failure.code is LoginFailureCode.ENDED
    assert stored(partner, sid) is None
    (event,) = cuts_in(partner.half.database, EventType.SESSION_ENDED)
    assert (event.session, event.outcome) == (sid, Outcome.REVOKED)
    assert event.reasons == ("session.ended",)
    partner.idp.people["carol"]["disabled"] = False
    assert isinstance(ask(partner, sid), LoginFailure)


@pytest.mark.requirement("trap-cut-unrecorded")
def test_session_ends_with_its_record_or_not_at_all(
    partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sid = logged_in(partner)
    partner.idp.people["carol"]["disabled"] = True
    partner.half.spool.is_broken = True  # what happens to the spool is not its concern

    def broken(*_: object) -> None:
        raise DatabaseUnavailableError("full")

    with monkeypatch.context() as patched:
        patched.setattr(revalidation, "append_in", broken)
        with pytest.raises(DatabaseUnavailableError):
            ask(partner, sid)
    assert stored(partner, sid) is not None
    assert not cuts_in(partner.half.database, EventType.SESSION_ENDED)
    later(partner, revalidation.CLAIM_SECONDS)  # whoever asked did not release it
    assert isinstance(ask(partner, sid), LoginFailure)
    assert stored(partner, sid) is None
    assert len(cuts_in(partner.half.database, EventType.SESSION_ENDED)) == 1


@pytest.mark.requirement("trap-cut-unrecorded")
def test_session_that_somebody_else_ended_meanwhile_is_not_recorded_again(
    partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sid = logged_in(partner)
    partner.idp.people["carol"]["disabled"] = True
    answered = revalidation._answer

    async def ended_meanwhile(parts: Parts, *asked: Any) -> Any:
        answer = await answered(parts, *asked)
        await parts.sessions.end(sid)
        return answer

    monkeypatch.setattr(revalidation, "_answer", ended_meanwhile)
    assert isinstance(ask(partner, sid), LoginFailure)
    assert stored(partner, sid) is None
    assert not cuts_in(partner.half.database, EventType.SESSION_ENDED)


def test_provider_that_is_down_changes_nothing(partner: Partner) -> None:
    sid = logged_in(partner)
    before = stored(partner, sid)
    partner.idp.failure = FetchError("unreachable")
    failure = ask(partner, sid)
    assert isinstance(failure, LoginFailure)
    assert failure.code is LoginFailureCode.UNAVAILABLE
    assert stored(partner, sid) == before
    partner.idp.failure = None
    assert isinstance(ask(partner, sid), Session)


def test_provider_no_longer_declared_ends_the_session(partner: Partner) -> None:
    sid = logged_in(partner)
    del partner.half.logins["partner"]
    assert isinstance(ask(partner, sid), LoginFailure)
    assert stored(partner, sid) is None


def test_another_person_in_the_answer_ends_the_session(partner: Partner) -> None:
    sid = logged_in(partner)
    for grant in partner.idp.refresh_tokens.values():
        grant["person"] = "dave"
    assert isinstance(ask(partner, sid), LoginFailure)
    assert stored(partner, sid) is None


def test_state_moved_from_another_session_ends_the_session(partner: Partner) -> None:
    one, two = logged_in(partner), logged_in(partner)
    other = stored(partner, two)
    assert other is not None
    row = LoginSessionRow.__table__  # type: ignore[attr-defined]  # SQLModel's own
    partner.half.database.write_now(
        lambda connection: connection.execute(
            row.update().where(row.c.sid == one).values(upstream=other[1])
        )
    )
    assert isinstance(ask(partner, one), LoginFailure)
    assert stored(partner, one) is None
    assert stored(partner, two) is not None


def test_parallel_questions_about_one_session_use_each_token_once(partner: Partner) -> None:
    """The provider takes each refresh token once: a second use would end the session."""
    sid = logged_in(partner)

    async def many() -> list[object]:
        answers: list[object] = []

        async def one() -> None:
            answers.append(await revalidated(partner.half.parts, sid, int(partner.half.clock())))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(one)
        return answers

    assert all(isinstance(each, Session) for each in anyio.run(many))


def test_question_of_another_process_is_waited_for(partner: Partner) -> None:
    """Two processes have a `Turns` each; what keeps them apart is the claim in the row."""
    sid, sessions = logged_in(partner), partner.half.parts.sessions
    now = int(partner.half.clock())

    async def work() -> Session | LoginFailure:
        assert await sessions.claim(sid, now, now + 20)
        assert not await sessions.claim(sid, now, now + 20)
        answers: list[Session | LoginFailure] = []

        async def ask_too() -> None:
            answers.append(await revalidated(partner.half.parts, sid, now))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_too)
            await anyio.wait_all_tasks_blocked()
            assert f"{partner.idp.issuer}/token" not in partner.idp.asked[before:]
            await sessions.release(sid)
        return answers[0]

    before = len(partner.idp.asked)
    assert isinstance(anyio.run(work), Session)


def test_question_of_a_process_that_died_is_asked_by_another(partner: Partner) -> None:
    sid, sessions = logged_in(partner), partner.half.parts.sessions
    now = int(partner.half.clock())
    assert anyio.run(sessions.claim, sid, now, now + 20)
    later(partner, 20)
    assert isinstance(ask(partner, sid), Session)


def test_turns_are_bounded_and_forgotten() -> None:
    async def work() -> None:
        turns = Turns()
        async with turns.of("a") as first:
            assert first
            turns._places.update({f"s{n}": turns._places["a"] for n in range(MAXIMUM_WAITING)})
            async with turns.of("b") as second:
                assert not second
            for number in range(MAXIMUM_WAITING):
                del turns._places[f"s{number}"]
        assert turns._places == {}

    anyio.run(work)


# --- at the pages ---


def test_session_with_old_claims_is_asked_about_again_without_the_person(partner: Partner) -> None:
    browser = partner.half.browser()
    browser.allow(partner.log_in(browser))
    later(partner, CLAIMS_SECONDS)
    assert "code" in answer_of(browser.authorize())


def test_session_with_old_claims_of_a_disabled_person_is_over(partner: Partner) -> None:
    browser = partner.half.browser()
    browser.allow(partner.log_in(browser))
    later(partner, CLAIMS_SECONDS)
    partner.idp.people["carol"]["disabled"] = True
    assert is_login(browser.authorize())


def test_session_without_a_refresh_token_ends_with_the_age_of_its_claims(
    partner: Partner,
) -> None:
    partner.idp.token_changes = {"refresh_token": None}
    sid = logged_in(partner)
    later(partner, CLAIMS_SECONDS - 1)
    found = stored(partner, sid)
    assert found is not None
    assert found[0].expires_at == int(partner.half.clock()) + 1
    assert isinstance(ask(partner, sid), Session)
    later(partner, 1)
    assert stored(partner, sid) is None


@pytest.mark.requirement("trap-person-change")
def test_session_that_cannot_be_asked_about_ends_when_something_changed(
    partner: Partner,
) -> None:
    sid, unchanged = logged_in(partner), logged_in(partner)
    sub = partner.half.spool.of(EventType.LOGIN_SUCCEEDED)[-1].user or ""
    partner.half.database.write_now(
        lambda connection: connection.execute(update(LoginSessionRow).values(upstream=None))
    )
    assert isinstance(ask(partner, unchanged), Session)  # nothing is known to have changed
    later(partner, 5)
    anyio.run(partner.half.claims_changed, sub)
    later(partner, 5)
    failure = ask(partner, sid)
    assert isinstance(failure, LoginFailure)
    assert failure.code is LoginFailureCode.ENDED
    assert stored(partner, sid) is None


def test_session_with_a_refresh_token_lives_its_whole_day(partner: Partner) -> None:
    sid = logged_in(partner)
    found = stored(partner, sid)
    assert found is not None
    assert found[0].expires_at - found[0].created_at == SESSION_LIFETIME_SECONDS
    assert found[0].claims_until - found[0].created_at == CLAIMS_SECONDS


def test_session_replaced_in_its_browser_opens_nothing_but_can_still_be_asked_about(
    partner: Partner,
) -> None:
    browser = partner.half.browser()
    assert is_consent(partner.log_in(browser))
    first = partner.half.spool.of(EventType.LOGIN_SUCCEEDED)[-1].session or ""
    cookie = browser.http.cookies["__Host-countersign_session"]
    partner.idp.claim_changes = {"auth_time": int(partner.half.clock())}
    partner.log_in(browser, prompt="login")
    assert asyncio.run(partner.half.parts.sessions.find(cookie, int(partner.half.clock()))) is None
    assert isinstance(ask(partner, first), Session)


# --- sealing ---


@pytest.mark.parametrize("length", [0, 11, 12, 40])
def test_nonsense_does_not_open(length: int) -> None:
    seal = SessionSeal(lambda: b"k" * 32, lambda size: b"r" * size)
    assert seal.open("ses_1", b"x" * length) is None


def test_sealed_state_opens_only_for_its_session_and_key() -> None:
    seal = SessionSeal(lambda: b"k" * 32, lambda size: b"r" * size)
    sealed = seal.seal("ses_1", b"secret")
    assert seal.open("ses_1", sealed) == b"secret"
    assert seal.open("ses_2", sealed) is None
    assert SessionSeal(lambda: b"l" * 32, bytes).open("ses_1", sealed) is None
    assert seal.open("ses_1", sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
