"""The session a login makes: whose it is, how long it counts, and what ends it."""

import msgspec
import pytest

from audit_log.event import EventType
from registry.blocks import BlockKind
from registry.snapshot import ProviderRecord
from tests.authz_server.front_half import (
    FrontHalf,
    answer_of,
    hidden_fields,
    is_consent,
    is_login,
)

BROWSER, SESSION = "__Host-countersign_browser", "__Host-countersign_session"


@pytest.mark.requirement("attack-12")
def test_session_makes_a_new_session_and_ends_the_one_the_browser_had(half: FrontHalf) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize())
    before = browser.http.cookies[SESSION]
    again = browser.log_in(browser.authorize(prompt="login"), "bob")
    after = browser.http.cookies[SESSION]
    assert before != after
    assert "bob" in again.text
    thief = half.browser()
    thief.http.cookies.set(SESSION, before)
    assert is_login(thief.authorize())
    sessions = [event.session for event in half.spool.of(EventType.LOGIN_SUCCEEDED)]
    assert len(set(sessions)) == 2


@pytest.mark.requirement("attack-12")
def test_session_with_a_planted_session_cookie_does_not_adopt_it(half: FrontHalf) -> None:
    planted = "A" * 43
    browser, attacker = half.browser(), half.browser()
    browser.http.cookies.set(SESSION, planted)
    browser.log_in(browser.authorize())
    assert {cookie.value for cookie in browser.http.cookies.jar if cookie.name == SESSION} != {
        planted
    }
    attacker.http.cookies.set(SESSION, planted)
    assert is_login(attacker.authorize())


@pytest.mark.parametrize("value", ["", "short", "A" * 42, "A" * 44, "A" * 42 + "!", "A" * 43])
def test_session_cookie_that_is_none_of_ours_means_nobody_is_logged_in(
    half: FrontHalf, value: str
) -> None:
    browser = half.browser()
    browser.http.cookies.set(SESSION, value)
    assert is_login(browser.authorize())


def test_session_page_for_who_is_logged_in_already_goes_on(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    browser.log_in(page)
    again = browser.http.get(
        "/oauth/login", params={"interaction": hidden_fields(page)["interaction"]}
    )
    assert again.headers["location"].startswith(f"{half.issuer}/oauth/consent?")


@pytest.mark.requirement("attack-12")
def test_session_over_http_loopback_counts_for_one_request_only(loopback: FrontHalf) -> None:
    browser = loopback.browser()
    assert is_consent(browser.log_in(browser.authorize()))
    # Cookies know no ports, so on loopback an agent's listener could hold what a browser sends.
    assert is_login(browser.authorize())


def test_session_over_https_counts_until_the_session_ends(half: FrontHalf) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize())
    half.clock.now += 28_799
    assert is_consent(browser.authorize())
    half.clock.now += 1
    assert is_login(browser.authorize())


@pytest.mark.parametrize(
    ("changes", "seconds", "asks"),
    [
        ({}, 3600, False),
        ({"prompt": "login"}, 0, True),
        ({"prompt": "select_account"}, 0, True),
        ({"max_age": "0"}, 0, True),
        ({"max_age": "60"}, 60, False),
        ({"max_age": "60"}, 61, True),
    ],
)
def test_session_is_asked_for_again_when_the_client_wants_a_fresh_one(
    half: FrontHalf, changes: dict[str, str], seconds: int, asks: bool
) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize())
    half.clock.now += seconds
    page = browser.authorize(**changes)
    assert is_login(page) is asks
    assert is_consent(browser.log_in(page) if asks else page)


@pytest.mark.requirement("attack-12")
def test_session_fresh_for_one_request_does_not_serve_another(half: FrontHalf) -> None:
    browser = half.browser()
    first = browser.authorize(prompt="login")
    second = browser.authorize(prompt="login")
    assert is_consent(browser.log_in(first))
    consent = browser.http.get(
        "/oauth/consent", params={"interaction": hidden_fields(second)["interaction"]}
    )
    assert is_login(browser.follow(consent))


@pytest.mark.requirement("attack-12")
def test_session_silent_request_never_shows_a_page(half: FrontHalf) -> None:
    browser = half.browser()
    assert answer_of(browser.authorize(prompt="none"))["error"] == "login_required"
    assert half.spool.events[-1].reasons == ("authorize.silent_login",)
    browser.log_in(browser.authorize())
    assert answer_of(browser.authorize(prompt="none"))["error"] == "consent_required"
    assert half.spool.events[-1].reasons == ("authorize.silent_consent",)
    browser.allow(browser.authorize())
    assert "code" in answer_of(browser.authorize(prompt="none"))
    assert answer_of(browser.authorize(prompt="none", max_age="0"))["error"] == "login_required"


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize("kind", [BlockKind.SESSION, BlockKind.SUBJECT, BlockKind.CLAIMS])
def test_session_from_before_a_kill_is_none_after_restore(half: FrontHalf, kind: BlockKind) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize())
    event = half.spool.events[-1]
    subject_id = event.session if kind is BlockKind.SESSION else event.user
    half.clock.now += 10
    half.block(kind, subject_id or "")
    assert is_login(browser.authorize())
    half.restore(kind, subject_id or "")
    half.clock.now += 2
    page = browser.authorize()
    assert is_login(page)
    assert is_consent(browser.log_in(page))


def test_session_of_the_issuer_a_provider_had_before_is_none(half: FrontHalf) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize())
    declared = half.live.snapshot
    other = ProviderRecord("local", "oidc", {"issuer": "https://idp.example.net"})
    half.live.snapshot = msgspec.structs.replace(declared, identity_providers={"local": other})
    assert is_login(browser.authorize())
    half.live.snapshot = declared
    assert is_consent(browser.authorize())


def test_session_of_a_provider_no_longer_declared_is_none(half: FrontHalf) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize())
    declared = half.live.snapshot
    half.live.snapshot = msgspec.structs.replace(declared, identity_providers={})
    assert is_login(browser.authorize())
    half.live.snapshot = declared
    assert is_consent(browser.authorize())
