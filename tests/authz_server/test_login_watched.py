"""A login by a provider that is watched: only while it is, and never older than its question."""

import asyncio

import pytest

from audit_log.event import EventType
from authz_server.revalidation import revalidated
from authz_server.store.sessions import Session
from idp_connectors.evidence import Person
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from registry.blocks import BlockKind
from tests.authz_server.front_half import Accounts, FrontHalf, is_consent, run
from token_exchange.claims import Refusal


@pytest.mark.requirement("trap-directory-silent")
def test_nobody_logs_in_by_a_provider_that_must_be_watched_and_cannot_be(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    half.parts.unwatched.add("local")
    refused = browser.log_in(page)
    assert refused.status_code == 503
    assert "does not answer" in refused.text
    (event,) = half.spool.of(EventType.LOGIN_FAILED)
    assert event.reasons == ("login.unwatched",)
    half.parts.unwatched.discard("local")
    assert is_consent(browser.log_in(browser.authorize()))


@pytest.mark.requirement("trap-directory-silent")
def test_a_session_of_such_a_provider_is_not_renewed_and_not_ended(half: FrontHalf) -> None:
    half.logins["local"] = AskedAgain()
    browser = half.browser()
    browser.log_in(browser.authorize())
    (login,) = half.spool.of(EventType.LOGIN_SUCCEEDED)
    sid, now = login.session or "", int(half.clock())
    half.parts.unwatched.add("local")
    answer = run(revalidated(half.parts, sid, now))
    assert isinstance(answer, LoginFailure)
    assert answer.code is LoginFailureCode.UNAVAILABLE
    half.parts.unwatched.discard("local")
    assert isinstance(run(revalidated(half.parts, sid, now)), Session)


class AskedAgain(Accounts):
    """A directory that can be asked about a person again."""

    async def revalidate(self, person: Person, upstream: bytes | None, now: int) -> Person:
        del upstream, now
        return person


class ChangesMeanwhile(Accounts):
    """A directory in which something changes after it was asked and before it has answered."""

    def __init__(self, half: FrontHalf) -> None:
        super().__init__(issuer=half.issuer)
        self._half = half

    async def authenticate(self, username: str, password: str, now: int) -> Person | LoginFailure:
        answer = await super().authenticate(username, password, now)
        for person in await self._half.parts.persons.of_provider("local"):
            await self._half.claims_changed(person.sub)
        self._half.clock.now += 5  # the answer takes its time
        return answer


@pytest.mark.requirement("trap-person-change")
def test_what_changes_while_the_provider_is_asked_is_newer_than_the_session(
    half: FrontHalf,
) -> None:
    """Else groups read before a change would live in a session from after it."""
    half.browser().get_code()
    half.clock.now += 60
    half.logins["local"] = ChangesMeanwhile(half)
    browser = half.browser()
    refused = browser.log_in(browser.authorize())
    assert refused.status_code == 403
    assert half.spool.of(EventType.LOGIN_FAILED)[-1].reasons == ("login.blocked",)


@pytest.mark.requirement("trap-person-change")
def test_a_code_from_before_a_change_yields_nothing(half: FrontHalf) -> None:
    code = half.browser().get_code()
    (person,) = asyncio.run(half.parts.persons.of_provider("local"))
    run(half.claims_changed(person.sub))
    plan = half.redeem(code)
    # The gate of the token endpoint applies the epochs of what the plan depends on.
    assert not isinstance(plan, Refusal)
    hit = [
        half.live.blocks.first_hit((subject,), made_at)
        for subject, made_at in plan.depends_on
        if subject.kind is BlockKind.CLAIMS
    ]
    assert any(each is not None for each in hit)
