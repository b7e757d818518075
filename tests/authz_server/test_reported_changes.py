"""What a provider reports before we see person or session refuses what is from before it."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from httpx2 import Response

from audit_log.event import EventType
from authz_server.person_changes import CLOCKS_APART_MS, apply_change
from authz_server.store import reported_changes
from authz_server.store.reported_changes import KEPT_SECONDS
from idp_connectors.workforce.person_changes import ChangeKind, PersonChange
from tests.authz_server.back_half import NOW, error_of
from tests.authz_server.blending import MANDATE_BOT, PORTAL_BOT, Blending
from tests.authz_server.cuts import cuts_in
from tests.authz_server.front_half import FrontHalf, is_consent
from tests.authz_server.partner import Partner, partner_of
from tests.authz_server.test_front_upstream_logout import log_out_there
from tests.idp_connectors.openid import MemoryIdp

pytestmark = pytest.mark.anyio


async def report(
    blending: Blending, kind: ChangeKind, event_id: str = "e1", **who: Any
) -> PersonChange:
    """The provider says so now."""
    change = PersonChange(event_id, kind, blending.authority.now * 1000, **who)
    await apply_change(blending.authority.parts, "partner", change)
    await blending.authority.parts.live.refresh()
    return change


def assert_outdated(blending: Blending, answer: httpx2.Response) -> None:
    assert error_of(answer) == "invalid_grant"
    event = blending.refusal()
    assert (event.type, event.reasons) == (EventType.EXCHANGE_REFUSED, ("blend.outdated",))


@pytest.mark.requirement("trap-person-change-early")
async def test_session_that_ended_before_we_saw_it_gives_nothing(blending: Blending) -> None:
    await blending.consent()
    before = blending.id_token()
    other = blending.id_token(sid="idp-session-2")
    await blending.later(20)
    await report(blending, ChangeKind.SESSION_ENDED, upstream_session="idp-session-1")
    await blending.later(120)
    assert_outdated(blending, await blending.ask(subject_token=before))
    assert (await blending.ask(subject_token=other)).status_code == 200
    assert (await blending.ask(subject_token=blending.id_token())).status_code == 200


@pytest.mark.requirement("trap-person-change-early")
@pytest.mark.parametrize("kind", [ChangeKind.DISABLED, ChangeKind.DELETED, ChangeKind.GROUPS])
async def test_somebody_changed_before_they_were_seen_is_not_believed(
    blending: Blending, kind: ChangeKind
) -> None:
    blending.idp.people["dave"]["groups"] = ["partners"]
    before, daves = blending.id_token(), blending.id_token("dave", sid="idp-session-2")
    await blending.later(20)
    await report(blending, kind, subject="carol")
    await blending.later(200)
    assert_outdated(blending, await blending.ask(MANDATE_BOT, subject_token=before))
    assert (await blending.ask(MANDATE_BOT, subject_token=daves)).status_code == 200
    assert (await blending.ask(MANDATE_BOT)).status_code == 200


@pytest.mark.requirement("trap-person-change-early")
@pytest.mark.parametrize("kind", [ChangeKind.DIRECTORY, ChangeKind.UNWATCHED])
async def test_change_for_everybody_concerns_those_never_seen(
    blending: Blending, kind: ChangeKind
) -> None:
    before = blending.id_token()
    await blending.later(20)
    await report(blending, kind)
    await blending.later(40)
    assert_outdated(blending, await blending.ask(MANDATE_BOT, subject_token=before))
    assert (await blending.ask(MANDATE_BOT)).status_code == 200


async def test_change_at_another_provider_is_not_meant(blending: Blending) -> None:
    before = blending.id_token()
    await blending.later(20)
    for number, who in enumerate(({"subject": "carol"}, {"upstream_session": "idp-session-1"}, {})):
        change = PersonChange(
            f"e{number}", ChangeKind.LOGGED_OUT, blending.authority.now * 1000, **who
        )
        await apply_change(blending.authority.parts, "other", change)
    assert (await blending.ask(MANDATE_BOT, subject_token=before)).status_code == 200


async def test_change_of_a_stranger_reported_again_refuses_no_more(blending: Blending) -> None:
    """A process that starts reads the feed back; the token was issued after the change."""
    change = await report(blending, ChangeKind.GROUPS, subject="carol")
    await blending.later(31)
    after = blending.id_token()
    await blending.later(10)
    await apply_change(blending.authority.parts, "partner", change)
    assert (await blending.ask(MANDATE_BOT, subject_token=after)).status_code == 200


async def test_change_reported_late_refuses_what_is_older_than_it(blending: Blending) -> None:
    """As it is by the provider's clock, and as far as two clocks may differ."""
    at_ms = NOW * 1000
    await blending.later(CLOCKS_APART_MS // 1000 + 31)
    after = blending.id_token()
    await blending.later(60)
    change = PersonChange("e1", ChangeKind.GROUPS, at_ms, subject="carol")
    await apply_change(blending.authority.parts, "partner", change)
    assert (await blending.ask(MANDATE_BOT, subject_token=after)).status_code == 200
    older = blending.id_token(iat=NOW + 89)
    assert_outdated(blending, await blending.ask(MANDATE_BOT, subject_token=older))


async def test_change_that_is_long_over_is_not_written(blending: Blending) -> None:
    """Hours of a feed that is read back are about people who were never here."""
    await blending.later(KEPT_SECONDS + CLOCKS_APART_MS // 1000)
    change = PersonChange("e1", ChangeKind.GROUPS, NOW * 1000, subject="carol")
    assert await apply_change(blending.authority.parts, "partner", change) == 0
    again = await apply_change(blending.authority.parts, "partner", change)
    assert again == 0
    assert not cuts_in(blending.authority.database, EventType.PERSON_CHANGED)


@pytest.mark.requirement("trap-person-change-early")
async def test_more_changes_than_are_kept_refuse_everybody_of_before(
    blending: Blending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reported_changes, "MAXIMUM_ROWS", 4)
    monkeypatch.setattr(reported_changes, "DROPPED_AT_ONCE", 2)
    blending.idp.people["dave"]["groups"] = ["partners"]
    carols, daves = blending.id_token(), blending.id_token("dave", sid="idp-session-2")
    await blending.later(20)
    await report(blending, ChangeKind.GROUPS, "e0", subject="carol")
    await blending.later(40)
    between = blending.id_token("dave", sid="idp-session-2")
    await blending.later(40)
    for number in range(1, 5):
        await report(blending, ChangeKind.GROUPS, f"e{number}", subject=f"stranger-{number}")
    for refused in (carols, daves, between):
        assert_outdated(blending, await blending.ask(MANDATE_BOT, subject_token=refused))
    (told,) = cuts_in(blending.authority.database, EventType.PERSON_CHANGED)
    assert "more changes than are kept" in (told.detail or "")
    await blending.later(31)
    assert (await blending.ask(MANDATE_BOT)).status_code == 200


@pytest.mark.requirement("trap-person-change-early")
async def test_session_that_ends_while_it_is_looked_up_gives_nothing(
    blending: Blending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noted first, asked about then: a change in between finds the session and cuts it off."""
    await blending.consent()
    note = blending.authority.parts.upstream_sessions.note

    async def noting(*session: Any) -> None:
        await note(*session)
        await report(blending, ChangeKind.SESSION_ENDED, upstream_session="idp-session-1")

    monkeypatch.setattr(blending.authority.parts.upstream_sessions, "note", noting)
    assert_outdated(blending, await blending.ask(PORTAL_BOT))
    monkeypatch.undo()
    await blending.later(31)
    assert (await blending.ask(PORTAL_BOT)).status_code == 200


@pytest.fixture
def partner(half: FrontHalf) -> Partner:
    return partner_of(half)


def log_in_while(
    partner: Partner, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]
) -> Response:
    """A login during whose last step something happens at the provider."""
    browser = partner.half.browser()
    callback = partner.back(browser, browser.authorize())
    fetch: Callable[..., Awaitable[Any]] = MemoryIdp.post_form

    async def answering(*where: Any, **more: Any) -> Any:
        answer = await fetch(*where, **more)
        happens()
        return answer

    monkeypatch.setattr(MemoryIdp, "post_form", answering)
    return browser.follow(browser.http.get(callback))


@pytest.mark.requirement("trap-person-change-early")
@pytest.mark.parametrize("who", [{"sid": "upstream-7"}, {"sid": None, "sub": "carol"}])
def test_logout_during_a_login_refuses_it(
    partner: Partner, monkeypatch: pytest.MonkeyPatch, who: dict[str, Any]
) -> None:
    partner.idp.claim_changes = {"sid": "upstream-7"}

    def log_out() -> None:
        assert log_out_there(partner, **who).status_code == 200

    page = log_in_while(partner, monkeypatch, log_out)
    assert not is_consent(page)
    assert page.status_code == 403
    (event,) = partner.half.spool.of(EventType.LOGIN_FAILED)
    assert event.reasons == ("login.outdated",)
    assert event.user is not None


def test_logout_of_another_session_during_a_login_leaves_it(
    partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    partner.idp.claim_changes = {"sid": "upstream-7"}

    def log_out() -> None:
        assert log_out_there(partner, sid="upstream-8").status_code == 200

    assert is_consent(log_in_while(partner, monkeypatch, log_out))
