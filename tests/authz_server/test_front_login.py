"""Login: who may submit the form, what a failure tells, and the session a success makes."""

from typing import Any

import anyio
import msgspec
import pytest
from httpx2 import Response

from audit_log.event import EventType, Outcome, PrincipalKind
from authz_server.endpoints import login
from authz_server.store.interactions import INTERACTION_LIFETIME_SECONDS
from idp_connectors.evidence import Person
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from registry.blocks import BlockKind
from registry.snapshot import ProviderRecord
from tests.authz_server.front_half import (
    Accounts,
    FrontHalf,
    PersonsBrowser,
    form_action,
    hidden_fields,
    is_consent,
)

BROWSER, SESSION = "__Host-countersign_browser", "__Host-countersign_session"


def set_cookies(response: Response) -> dict[str, str]:
    """What a response sets: cookie name to the whole header."""
    headers = response.headers.get_list("set-cookie")
    return {header.split("=", 1)[0]: header for header in headers}


def sign_in(page: Response, browser: PersonsBrowser, **changes: str | None) -> Response:
    """Submit the login form and do not follow."""
    return browser.post(page, **({"username": "alice", "password": "correct horse"} | changes))


def post_form(
    browser: PersonsBrowser, page: Response, headers: dict[str, str], **fields: str
) -> Response:
    """Submit the page's form with headers of the sender's choosing."""
    data = {**hidden_fields(page), **fields}
    return browser.http.post(form_action(page), data=data, headers=headers)


def test_login_right_password_leads_to_consent_and_is_recorded(half: FrontHalf) -> None:
    browser = half.browser()
    assert is_consent(browser.log_in(browser.authorize()))
    (event,) = half.spool.events
    assert (event.type, event.outcome) == (EventType.LOGIN_SUCCEEDED, Outcome.SUCCEEDED)
    assert event.principal_kind is PrincipalKind.PERSON
    assert (event.user_name, event.client_id, event.agent) == (
        "alice",
        "support-bot",
        "support-bot",
    )
    assert event.user is not None
    assert event.user.startswith("usr_")
    assert event.session is not None


@pytest.mark.requirement("attack-24")
def test_login_wrong_password_and_unknown_user_give_the_same_page(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    texts = []
    for username in ("alice", "nobody"):
        answer = sign_in(page, browser, username=username, password="hunter-2")
        assert answer.status_code == 403
        assert set_cookies(answer) == {}
        texts.append(answer.text.replace(username, "USER").split("</style>")[1])
        event = half.spool.events[-1]
        assert (event.type, event.error_code) == (EventType.LOGIN_FAILED, "invalid_credentials")
        assert event.user is None
        assert "hunter-2" not in str(event) + answer.text
    assert texts[0] == texts[1]
    assert "Username or password is wrong." in texts[0]
    assert is_consent(browser.log_in(page))  # the same form still works


@pytest.mark.parametrize(
    "changes",
    [
        {"identity_provider": "elsewhere"},
        {"identity_provider": None},
        {"username": "a" * 257},
        {"username": ""},
        {"password": "p" * 1025},
        {"password": ""},
        {"username": "alice "},
        {"username": "Alice"},
    ],
)
def test_login_input_no_account_can_have_fails_like_a_wrong_password(
    half: FrontHalf, changes: dict[str, str | None]
) -> None:
    browser = half.browser()
    page = browser.authorize()
    answer = sign_in(page, browser, **changes)
    assert answer.status_code == 403
    assert "Username or password is wrong." in answer.text
    assert half.spool.events[-1].type is EventType.LOGIN_FAILED
    assert sign_in(page, browser).status_code == 303


@pytest.mark.parametrize(
    ("code", "status"), [(LoginFailureCode.LOCKED, 429), (LoginFailureCode.BUSY, 503)]
)
def test_login_locked_or_busy_says_when_to_come_back(
    half: FrontHalf, code: LoginFailureCode, status: int
) -> None:
    half.accounts.failure = LoginFailure(code, "Wait a little.", "6 failures", 30)
    browser = half.browser()
    page = browser.authorize()
    answer = sign_in(page, browser)
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "30")
    assert "Wait a little." in answer.text
    assert "6 failures" not in answer.text
    event = half.spool.events[-1]
    assert (event.reasons, event.detail) == ((f"login.{code}",), "6 failures")
    half.accounts.failure = None
    assert sign_in(page, browser).status_code == 303


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize("csrf", [None, "", "x", "0" * 64, "ä"])
def test_login_without_the_forms_token_is_refused(half: FrontHalf, csrf: str | None) -> None:
    browser = half.browser()
    page = browser.authorize()
    answer = sign_in(page, browser, csrf=csrf)
    assert answer.status_code == 403
    assert SESSION not in set_cookies(answer)
    assert half.spool.events[-1].reasons == ("login.forged",)
    assert sign_in(page, browser).status_code == 303


@pytest.mark.requirement("attack-12")
def test_login_token_of_another_interaction_of_the_same_browser_is_refused(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    first, second = browser.authorize(), browser.authorize()
    answer = sign_in(first, browser, csrf=hidden_fields(second)["csrf"])
    assert answer.status_code == 403
    assert sign_in(first, browser).status_code == 303


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize("attackers_cookie", [False, True])
def test_login_form_of_another_browser_is_refused(half: FrontHalf, attackers_cookie: bool) -> None:
    attacker, victim = half.browser(), half.browser()
    page = attacker.authorize()
    if attackers_cookie:
        victim.authorize()  # the victim has a browser cookie, but of its own request
    answer = sign_in(page, victim)
    assert answer.status_code == 400
    assert SESSION not in set_cookies(answer)
    assert half.spool.events[-1].reasons == ("interaction.not_open",)
    assert sign_in(page, attacker).status_code == 303


@pytest.mark.requirement("attack-12")
def test_login_without_the_browser_cookie_is_refused(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    kept = browser.http.cookies[BROWSER]
    browser.http.cookies.clear()
    assert sign_in(page, browser).status_code == 400
    browser.http.cookies.set(BROWSER, kept)
    assert sign_in(page, browser).status_code == 303


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://as.example.com"},
        {"origin": "https://as.example.com:8443"},
        {"origin": "https://as.example.com.evil.example"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "https://as.example.com", "sec-fetch-site": "cross-site"},
    ],
)
def test_login_posted_from_another_origin_is_refused(
    half: FrontHalf, headers: dict[str, str]
) -> None:
    browser = half.browser()
    page = browser.authorize()
    answer = post_form(browser, page, headers, username="alice", password="correct horse")
    assert answer.status_code == 403
    assert half.spool.events[-1].reasons == ("login.forged",)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://as.example.com", "sec-fetch-site": "same-origin"},
        {"origin": "null"},  # what our own referrer policy makes browsers say
    ],
)
def test_login_posted_from_our_own_page_is_accepted(
    half: FrontHalf, headers: dict[str, str]
) -> None:
    browser = half.browser()
    page = browser.authorize()
    answer = post_form(browser, page, headers, username="alice", password="correct horse")
    assert answer.status_code == 303


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize("name", ["username", "password", "interaction", "csrf", "extra"])
def test_login_field_sent_twice_is_refused(half: FrontHalf, name: str) -> None:
    browser = half.browser()
    page = browser.authorize()
    fields: dict[str, Any] = {
        **hidden_fields(page),
        "username": "alice",
        "password": "correct horse",
        "extra": "x",
    }
    twice = fields | {name: [fields[name], fields[name]]}
    assert browser.http.post("/oauth/login", data=twice).status_code == 403
    assert half.spool.events[-1].reasons == ("login.forged",)
    assert browser.http.post("/oauth/login", data=fields).status_code == 303


@pytest.mark.requirement("attack-19")
def test_login_password_in_the_query_is_refused(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    fields = {**hidden_fields(page), "username": "alice"}
    answer = browser.http.post("/oauth/login?password=correct+horse", data=fields)
    assert answer.status_code == 400
    assert half.spool.events[-1].reasons == ("parameters.form",)


@pytest.mark.parametrize("page_path", ["/oauth/login", "/oauth/consent"])
@pytest.mark.parametrize("interaction", [None, "itx_unknown", "'; DROP TABLE interactions; --"])
def test_login_and_consent_of_no_open_request_are_pages(
    half: FrontHalf, page_path: str, interaction: str | None
) -> None:
    browser = half.browser()
    browser.authorize()
    parameters = {} if interaction is None else {"interaction": interaction}
    shown = browser.http.get(page_path, params=parameters)
    posted = browser.http.post(page_path, data={"x": "1"} | parameters)
    assert (shown.status_code, posted.status_code) == (400, 400)
    assert [event.reasons for event in half.spool.events] == [("interaction.not_open",)] * 2


@pytest.mark.requirement("attack-12")
def test_login_of_a_request_is_possible_for_ten_minutes(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    half.clock.now += INTERACTION_LIFETIME_SECONDS - 1
    assert is_consent(browser.log_in(page))
    late = half.browser()
    page = late.authorize()
    half.clock.now += INTERACTION_LIFETIME_SECONDS
    assert sign_in(page, late).status_code == 400
    assert half.spool.events[-1].reasons == ("interaction.not_open",)


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize("kind", [BlockKind.SUBJECT, BlockKind.CLAIMS])
def test_login_of_a_blocked_person_is_refused_until_restored(
    half: FrontHalf, kind: BlockKind
) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize())
    sub = half.spool.events[-1].user or ""
    half.block(kind, sub)
    fresh = half.browser()
    page = fresh.authorize()
    answer = sign_in(page, fresh)
    assert answer.status_code == 403
    assert SESSION not in set_cookies(answer)
    event = half.spool.events[-1]
    assert (event.type, event.reasons, event.user) == (
        EventType.LOGIN_FAILED,
        ("login.blocked",),
        sub,
    )
    half.restore(kind, sub)
    half.clock.now += 2
    # A request from before the kill is no better afterwards; a question asked anew is.
    again = page if kind is BlockKind.CLAIMS else fresh.authorize()
    assert sign_in(page, fresh).status_code == (303 if kind is BlockKind.CLAIMS else 403)
    assert sign_in(again, fresh).status_code == 303


@pytest.mark.requirement("attack-29")
def test_login_same_subject_at_two_providers_is_two_persons(half: FrontHalf) -> None:
    half.logins["other"] = Accounts("other", half.issuer)
    providers = half.live.snapshot.identity_providers
    half.live.snapshot = msgspec.structs.replace(
        half.live.snapshot,
        identity_providers=providers | {"other": ProviderRecord("other", "local_accounts", {})},
    )
    for provider in ("local", "other", "local"):
        browser = half.browser()
        page = browser.authorize()
        assert '<select id="identity_provider"' in page.text
        sign_in(page, browser, identity_provider=provider)
    one, two, three = (event.user for event in half.spool.of(EventType.LOGIN_SUCCEEDED))
    assert one == three
    assert one != two


@pytest.mark.requirement("trap-group-prefix")
def test_login_groups_of_another_provider_are_dropped(half: FrontHalf) -> None:
    half.accounts.groups["alice"] = ("other/support", "support", "local-x/support", "local/staff")
    browser = half.browser()
    answer = browser.log_in(browser.authorize())
    assert answer.status_code == 403
    assert "none of the groups" in answer.text
    half.accounts.groups["alice"] = ("other/support", "local/support")
    browser = half.browser()
    assert is_consent(browser.log_in(browser.authorize()))


def test_login_answer_for_another_provider_is_a_wrong_password(half: FrontHalf) -> None:
    half.logins["local"] = Accounts("other", half.issuer)
    browser = half.browser()
    page = browser.authorize()
    assert sign_in(page, browser).status_code == 403
    half.logins["local"] = half.accounts
    assert sign_in(page, browser).status_code == 303


def test_login_provider_that_does_not_answer_in_time_is_busy(
    half: FrontHalf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asleep(Accounts):
        async def authenticate(
            self, username: str, password: str, now: int
        ) -> Person | LoginFailure:
            await anyio.sleep_forever()
            return await super().authenticate(username, password, now)

    monkeypatch.setattr(login, "LOGIN_WAIT_SECONDS", 0.0)
    half.logins["local"] = Asleep()
    browser = half.browser()
    page = browser.authorize()
    answer = sign_in(page, browser)
    assert answer.status_code == 503
    assert half.spool.events[-1].reasons == ("login.busy",)


def test_login_where_no_provider_is_declared_says_so(half: FrontHalf) -> None:
    half.logins.clear()
    assert half.browser().authorize().status_code == 503


def test_login_that_cannot_be_recorded_does_not_happen(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    half.spool.is_broken = True
    answer = sign_in(page, browser)
    assert answer.status_code == 503
    assert SESSION not in set_cookies(answer)
    half.spool.is_broken = False
    assert sign_in(page, browser).status_code == 303
