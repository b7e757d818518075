"""Login at another site: which callback belongs to which browser, and what a wrong one gets."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from httpx2 import Response

from audit_log.event import AuditEvent, EventType
from authz_server.endpoints import callback
from authz_server.store.upstream_logins import UPSTREAM_LOGIN_SECONDS, UpstreamLoginRow
from outbound.fetcher import FetchError
from registry.blocks import BlockKind
from tests.authz_server.front_half import (
    HTTPS_ISSUER,
    REDIRECT_URI,
    FrontHalf,
    PersonsBrowser,
    answer_of,
    is_consent,
    is_login,
)
from tests.authz_server.partner import Partner, button, buttons, partner_of, query_of
from tests.databases import new_database
from tests.idp_connectors.openid import MemoryIdp

BROWSER, SESSION = "__Host-countersign_browser", "__Host-countersign_session"


@pytest.fixture
def partner(half: FrontHalf) -> Partner:
    return partner_of(half)


@pytest.fixture
def local_partner(loopback: FrontHalf) -> Partner:
    return partner_of(loopback)


def failures(partner: Partner) -> list[AuditEvent]:
    return partner.half.spool.of(EventType.LOGIN_FAILED)


def assert_refused(partner: Partner, response: Response, rule: str) -> None:
    """A page, no redirect, no session, nothing fetched with it, and one event that says why."""
    assert 400 <= response.status_code < 600
    assert "location" not in response.headers
    assert not any(SESSION in each for each in response.headers.get_list("set-cookie"))
    assert failures(partner)[-1].reasons == (rule,)
    assert not partner.half.spool.of(EventType.LOGIN_SUCCEEDED)


def callback_of(partner: Partner, browser: PersonsBrowser, **changes: str | None) -> str:
    return partner.back(browser, browser.authorize(), **changes)


def changed(url: str, **parameters: str) -> str:
    """The same callback with other parameters."""
    path, _, query = url.partition("?")
    kept = [each for each in query.split("&") if each.split("=")[0] not in parameters]
    return f"{path}?{'&'.join([*kept, *(f'{k}={v}' for k, v in parameters.items())])}"


# --- the accepted way ---


def test_person_logs_in_elsewhere_and_our_consent_precedes_any_code(partner: Partner) -> None:
    browser = partner.half.browser()
    page = partner.log_in(browser)
    assert is_consent(page)
    assert "Carol Partner" in page.text
    (event,) = partner.half.spool.of(EventType.LOGIN_SUCCEEDED)
    assert (event.user_name, event.agent, event.client_id) == (
        "Carol Partner",
        "support-bot",
        "support-bot",
    )
    assert event.request_path == "/oauth/callback"
    assert "code" in answer_of(browser.allow(page))


def test_login_page_offers_both_ways_and_either_works(partner: Partner) -> None:
    browser = partner.half.browser()
    page = browser.authorize()
    assert is_login(page)
    assert list(buttons(page)) == ["Continue with The partner company"]
    assert is_consent(browser.log_in(page))


def test_login_page_without_password_provider_has_no_form(partner: Partner) -> None:
    del partner.half.logins["local"]
    page = partner.half.browser().authorize()
    assert page.status_code == 200
    assert "<form" not in page.text
    assert buttons(page)


def test_stored_consent_of_the_same_person_is_not_asked_again(partner: Partner) -> None:
    browser = partner.half.browser()
    browser.allow(partner.log_in(browser))
    other_browser = partner.half.browser()
    assert "code" in answer_of(partner.log_in(other_browser))
    one, two = partner.half.spool.of(EventType.LOGIN_SUCCEEDED)
    assert one.user == two.user


def test_login_elsewhere_makes_a_new_session_cookie(partner: Partner) -> None:
    browser = partner.half.browser()
    browser.log_in(browser.authorize())
    before = browser.http.cookies[SESSION]
    partner.idp.claim_changes = {"auth_time": int(partner.half.clock())}
    assert is_consent(partner.log_in(browser, prompt="login"))
    assert browser.http.cookies[SESSION] != before


def test_fresh_login_is_asked_for_there_too(partner: Partner) -> None:
    browser = partner.half.browser()
    query = query_of(partner.begin(browser, browser.authorize(prompt="login")))
    assert (query["prompt"], query["max_age"]) == ("login", "0")


def test_login_there_that_is_older_than_the_request_is_not_fresh(partner: Partner) -> None:
    browser = partner.half.browser()
    page = partner.log_in(browser, prompt="login")  # the provider says: ten seconds ago
    assert page.status_code == 400
    assert failures(partner)[-1].detail == "ID token: the login there is older than asked for"
    partner.idp.claim_changes = {"auth_time": int(partner.half.clock())}
    assert is_consent(partner.log_in(browser, prompt="login"))


def test_redirect_to_the_provider_tells_it_nothing_but_the_request(partner: Partner) -> None:
    browser = partner.half.browser()
    response = browser.http.get(button(browser.authorize(), "partner"))
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    secret = browser.http.cookies[BROWSER]
    assert secret not in response.headers["location"]
    query = query_of(response.headers["location"])
    assert query["redirect_uri"] == f"{HTTPS_ISSUER}/oauth/callback/partner"


def test_nothing_stored_of_a_login_is_a_secret_of_it(partner: Partner) -> None:
    browser = partner.half.browser()
    query = query_of(partner.begin(browser, browser.authorize()))
    secret = browser.http.cookies[BROWSER]
    rows = partner.half.database.read(
        lambda connection: str(
            connection.execute(UpstreamLoginRow.__table__.select()).all()  # type: ignore[attr-defined]  # SQLModel's own
        )
    )
    assert not [each for each in (query["state"], query["nonce"], secret) if each in rows]


# --- login CSRF, fixation, mix-up ---


@pytest.mark.requirement("attack-12")
def test_callback_in_another_browser_is_refused_and_burns_nothing(partner: Partner) -> None:
    victim, attacker = partner.half.browser(), partner.half.browser()
    stolen = callback_of(partner, attacker)
    assert_refused(partner, victim.http.get(stolen), "login.state")
    victim.authorize()  # with a browser cookie of its own it is no better
    assert_refused(partner, victim.http.get(stolen), "login.state")
    assert is_consent(attacker.follow(attacker.http.get(stolen)))


@pytest.mark.requirement("attack-12")
def test_callback_with_the_other_browsers_code_is_refused(partner: Partner) -> None:
    """The attacker's code under the victim's own state: the verifier is another."""
    victim, attacker = partner.half.browser(), partner.half.browser()
    code = query_of(callback_of(partner, attacker))["code"]
    mixed = changed(callback_of(partner, victim), code=code)
    assert_refused(partner, victim.http.get(mixed), "login.ended")


@pytest.mark.requirement("trap-issuer-swapped")
@pytest.mark.parametrize("what", ["issuer", "client_id"])
def test_callback_of_a_provider_declared_anew_meanwhile_sends_it_nothing(
    partner: Partner, what: str
) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser, iss=None)  # which not every provider sends
    other = MemoryIdp(issuer="https://evil.example.com") if what == "issuer" else partner.idp
    other.metadata_changes = {"authorization_response_iss_parameter_supported": False}
    changes = {} if what == "issuer" else {"client_id": "another-client"}
    partner.declare("partner", other, **changes)
    asked_before = [*other.asked]
    assert_refused(partner, browser.http.get(url), "login.invalid_response")
    assert other.asked == asked_before
    partner.declare("partner", partner.idp)
    assert_refused(partner, browser.http.get(url), "login.state")  # used up all the same
    assert is_consent(partner.log_in(partner.half.browser()))


@pytest.mark.requirement("attack-11")
def test_id_token_with_the_nonce_of_another_attempt_is_refused(partner: Partner) -> None:
    browser = partner.half.browser()
    old = query_of(partner.begin(browser, browser.authorize()))["nonce"]
    partner.idp.claim_changes = {"nonce": old}
    assert_refused(
        partner, browser.http.get(callback_of(partner, browser)), "login.invalid_response"
    )


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize("state", ["", "x", "y" * 43])
def test_callback_with_an_invented_state_is_refused(partner: Partner, state: str) -> None:
    browser = partner.half.browser()
    response = browser.http.get(changed(callback_of(partner, browser), state=state))
    assert_refused(partner, response, "login.state")


@pytest.mark.requirement("attack-12")
def test_callback_is_good_once(partner: Partner) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    assert is_consent(browser.follow(browser.http.get(url)))
    again = browser.http.get(url)
    assert again.status_code == 400
    assert failures(partner)[-1].reasons == ("login.state",)
    assert len(partner.half.spool.of(EventType.LOGIN_SUCCEEDED)) == 1


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_other_methods_use_nothing_up(partner: Partner, method: str) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    assert browser.http.request(method, url).status_code == 405
    assert is_consent(browser.follow(browser.http.get(url)))


@pytest.mark.requirement("attack-12")
def test_parallel_callbacks_yield_one_login(partner: Partner) -> None:
    async def used(times: int) -> list[bool]:
        store, results = partner.half.parts.upstream_logins, []
        await store.start("itx_1", "partner", "r", "s" * 43, "b" * 43, now=1)

        async def one() -> None:
            results.append(await store.use("s" * 43))

        async with anyio.create_task_group() as tasks:
            for _ in range(times):
                tasks.start_soon(one)
        return results

    assert sum(anyio.run(used, 20)) == 1


@pytest.mark.requirement("attack-12")
def test_callback_after_ten_minutes_is_refused(partner: Partner) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    partner.half.clock.now += UPSTREAM_LOGIN_SECONDS
    assert_refused(partner, browser.http.get(url), "login.state")


def test_starting_again_forgets_the_login_before(partner: Partner) -> None:
    browser = partner.half.browser()
    page = browser.authorize()
    first, second = partner.back(browser, page), partner.back(browser, page)
    assert_refused(partner, browser.http.get(first), "login.state")
    assert is_consent(browser.follow(browser.http.get(second)))


def test_callback_of_a_request_answered_meanwhile_is_refused(partner: Partner) -> None:
    browser = partner.half.browser()
    page = browser.authorize()
    url = partner.back(browser, page)
    browser.allow(browser.log_in(page))
    refused = browser.http.get(url)
    assert refused.status_code == 400
    assert failures(partner)[-1].reasons == ("interaction.not_open",)


@pytest.mark.requirement("attack-11")
def test_response_of_one_provider_at_the_path_of_another_is_refused(partner: Partner) -> None:
    other = MemoryIdp("https://other.example.com")
    partner.declare("other", other)
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    moved = url.replace("/callback/partner", "/callback/other")
    assert_refused(partner, browser.http.get(moved), "login.state")
    assert other.asked == []
    assert is_consent(browser.follow(browser.http.get(url)))


@pytest.mark.requirement("attack-11")
def test_response_of_another_issuer_at_the_right_path_reaches_no_token_endpoint(
    partner: Partner,
) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser, iss="https://other.example.com")
    assert_refused(partner, browser.http.get(url), "login.invalid_response")
    assert f"{partner.idp.issuer}/token" not in partner.idp.asked


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize("name", ["state", "code", "iss", "error"])
def test_repeated_parameter_is_refused(partner: Partner, name: str) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    value = query_of(url).get(name, "x")
    response = browser.http.get(f"{url}&{name}={value}&{name}={value}")
    assert_refused(partner, response, "login.repeated")


@pytest.mark.requirement("attack-8")
@pytest.mark.parametrize(
    "name", ["redirect_uri", "target", "post_logout_redirect_uri", "error_uri"]
)
def test_callback_redirects_to_nothing_it_was_told(partner: Partner, name: str) -> None:
    browser = partner.half.browser()
    evil = {name: "https://evil.example/"}
    page = browser.http.get(changed(callback_of(partner, browser), **evil))
    assert page.headers["location"].startswith(f"{HTTPS_ISSUER}/oauth/consent?")
    other = partner.half.browser()
    error = other.http.get(callback_of(partner, other, code=None, error="x", **evil))
    assert "location" not in error.headers
    assert "evil.example" not in error.text


# --- what the provider refuses, and when it is away ---


def test_error_of_the_provider_is_said_on_the_login_page_where_another_way_is_open(
    partner: Partner,
) -> None:
    browser = partner.half.browser()
    url = callback_of(
        partner, browser, code=None, error="access_denied", error_description="<b>secret</b>"
    )
    page = browser.http.get(url)
    assert page.status_code == 403
    assert "The identity provider did not log you in." in page.text
    assert "secret" not in page.text
    event = failures(partner)[-1]
    assert event.reasons == ("login.refused",)
    assert event.detail == "the provider answered access_denied"
    assert event.object_ref == "IdentityProvider/partner"
    assert is_consent(browser.log_in(page))


def test_provider_that_is_down_is_said_on_the_login_page(partner: Partner) -> None:
    browser = partner.half.browser()
    page = browser.authorize()
    partner.idp.failure = FetchError("unreachable")
    response = browser.http.get(button(page, "partner"))
    assert response.status_code == 503
    assert "cannot be reached" in response.text
    assert_refused(partner, response, "login.unavailable")
    assert is_consent(browser.log_in(response))


def test_provider_that_never_answers_costs_the_deadline(
    partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback, "UPSTREAM_WAIT_SECONDS", 0.01)
    browser = partner.half.browser()
    url = callback_of(partner, browser)

    async def forever(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(partner.idp, "post_form", forever)
    assert_refused(partner, browser.http.get(url), "login.unavailable")


@pytest.mark.parametrize("name", ["local", "nobody", "partner%2F..", "PARTNER"])
def test_name_of_no_redirecting_provider_is_refused(partner: Partner, name: str) -> None:
    browser = partner.half.browser()
    page = browser.authorize()
    there = button(page, "partner").replace("/login/partner", f"/login/{name}")
    assert browser.http.get(there).status_code in {400, 404}
    back = partner.back(browser, page).replace("/callback/partner", f"/callback/{name}")
    assert browser.http.get(back).status_code in {400, 404}
    assert not partner.half.spool.of(EventType.LOGIN_SUCCEEDED)


def test_provider_withdrawn_meanwhile_is_refused(partner: Partner) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    del partner.half.logins["partner"]
    assert_refused(partner, browser.http.get(url), "login.no_such_provider")


def test_start_in_another_browser_is_refused(partner: Partner) -> None:
    link = button(partner.half.browser().authorize(), "partner")
    other = partner.half.browser()
    other.authorize()
    assert_refused(partner, other.http.get(link), "interaction.not_open")


def test_blocked_person_is_refused_after_login_elsewhere(partner: Partner) -> None:
    browser = partner.half.browser()
    partner.log_in(browser)
    sub = partner.half.spool.of(EventType.LOGIN_SUCCEEDED)[0].user
    partner.half.block(BlockKind.SUBJECT, sub or "")
    page = partner.log_in(partner.half.browser())
    assert page.status_code == 403
    assert failures(partner)[-1].reasons == ("login.blocked",)


@pytest.mark.requirement("attack-29")
def test_same_subject_at_two_providers_is_two_persons(partner: Partner) -> None:
    other = MemoryIdp("https://other.example.com")
    partner.declare("other", other)
    partner.log_in(partner.half.browser())
    browser = partner.half.browser()
    url = other.answer(partner.begin(browser, browser.authorize(), "other"), "carol")
    assert is_consent(browser.follow(browser.http.get(url)))
    one, two = partner.half.spool.of(EventType.LOGIN_SUCCEEDED)
    assert one.user != two.user


def test_stale_registry_lets_nobody_log_in(partner: Partner) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    partner.half.live.stale = True
    assert browser.http.get(url).status_code == 503
    assert not partner.half.spool.of(EventType.LOGIN_SUCCEEDED)


def test_unwritable_audit_lets_nobody_log_in(partner: Partner) -> None:
    browser = partner.half.browser()
    url = callback_of(partner, browser)
    partner.half.spool.is_broken = True
    response = browser.http.get(url)
    assert response.status_code == 503
    assert SESSION not in str(response.headers.get_list("set-cookie"))


# --- a loopback issuer, which shares its host with every local program ---


@pytest.mark.requirement("trap-cookie-ports")
def test_shared_host_browser_leaves_for_the_provider_without_a_session(
    local_partner: Partner,
) -> None:
    browser = local_partner.half.browser()
    browser.log_in(browser.authorize())
    assert "countersign_session" in browser.http.cookies
    partner_page = browser.authorize()
    local_partner.begin(browser, partner_page)
    assert "countersign_session" not in browser.http.cookies


@pytest.mark.requirement("trap-cookie-ports")
def test_shared_host_consent_opens_for_the_browser_that_brought_the_answer(
    local_partner: Partner,
) -> None:
    browser = local_partner.half.browser()
    page = local_partner.log_in(browser)
    assert is_consent(page)
    answered = browser.allow(page)
    assert answered.headers["location"].startswith(REDIRECT_URI)
    assert "code" in answer_of(answered)


@pytest.fixture
def other_half(tmp_path: Path) -> Iterator[FrontHalf]:
    (tmp_path / "other").mkdir()
    database = new_database(tmp_path / "other")
    yield FrontHalf(database, HTTPS_ISSUER)
    database.close()


def test_login_begun_at_another_server_is_refused(partner: Partner, other_half: FrontHalf) -> None:
    url = callback_of(partner, partner.half.browser())
    elsewhere = partner_of(other_half)
    browser = other_half.browser()
    browser.authorize()
    assert_refused(elsewhere, browser.http.get(url), "login.state")
