"""What every page carries: headers against framing and leaking, cookies, and escaped values."""

from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from httpx2 import Response

from authz_server.browser import cookie_name
from registry.snapshot import ProviderRecord
from tests.authz_server.front_half import (
    HTTPS_ISSUER,
    ISSUER,
    Accounts,
    FrontHalf,
    agent,
    answer_of,
    cli_parameters,
    client,
    hidden_fields,
    is_consent,
    is_login,
    request_parameters,
    server,
    tool,
)

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{7-7}}"""
ALLOWED_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "strong", "dl"),
    *("dt", "dd", "span", "code", "ul", "li", "form", "input", "label", "select", "option"),
    *("div", "button", "a"),
}


class Elements(HTMLParser):
    """The elements of a page, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def login_page(half: FrontHalf) -> Response:
    return half.browser().authorize()


def failed_login_page(half: FrontHalf) -> Response:
    browser = half.browser()
    return browser.submit(browser.authorize(), username="alice", password="wrong")


def consent_page(half: FrontHalf) -> Response:
    browser = half.browser()
    return browser.log_in(browser.authorize())


def command_line_page(half: FrontHalf) -> Response:
    browser = half.browser()
    return browser.log_in(browser.authorize(**cli_parameters(half.issuer)))


def refusal_page(half: FrontHalf) -> Response:
    browser = half.browser()
    return browser.log_in(browser.authorize(), "bob")


def error_page(half: FrontHalf) -> Response:
    return half.browser().authorize(redirect_uri="https://evil.example/")


def forged_page(half: FrontHalf) -> Response:
    browser = half.browser()
    return browser.post(browser.authorize(), csrf="x")


def unavailable_page(half: FrontHalf) -> Response:
    half.live.stale = True
    return half.browser().authorize()


PAGES = {
    "login": login_page,
    "failed": failed_login_page,
    "consent": consent_page,
    "cli": command_line_page,
    "refusal": refusal_page,
    "error": error_page,
    "forged": forged_page,
    "unavailable": unavailable_page,
}


@pytest.mark.requirement("attack-13")
@pytest.mark.requirement("attack-26")
@pytest.mark.parametrize("page", PAGES)
def test_page_cannot_be_framed_scripted_leaked_or_kept(half: FrontHalf, page: str) -> None:
    answer = PAGES[page](half)
    headers = answer.headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["frame-ancestors"] == "'none'"
    assert policy["default-src"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert "script-src" not in policy
    assert "unsafe" not in headers["content-security-policy"]
    assert policy["form-action"].split()[0] == "'self'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "text/html; charset=utf-8"
    nonce = policy["style-src"].removeprefix("'nonce-").removesuffix("'")
    styles = [attributes for tag, attributes in Elements(answer.text).found if tag == "style"]
    assert [attributes["nonce"] for attributes in styles] == [nonce]


@pytest.mark.requirement("attack-13")
def test_page_style_nonce_is_new_each_time(half: FrontHalf) -> None:
    policies = {login_page(half).headers["content-security-policy"] for _ in range(3)}
    assert len(policies) == 3


@pytest.mark.parametrize("page", PAGES)
def test_page_loads_nothing_and_posts_only_to_us(half: FrontHalf, page: str) -> None:
    for tag, attributes in Elements(PAGES[page](half).text).found:
        assert tag in ALLOWED_TAGS
        assert not {"src", "style", "srcset"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "form":
            assert attributes["method"] == "post"
            assert (attributes["action"] or "").startswith(f"{half.issuer}/oauth/")


def test_page_forms_may_lead_to_the_proved_origin_and_no_other(half: FrontHalf) -> None:
    policy = half.browser().authorize().headers["content-security-policy"]
    assert "form-action 'self' http://127.0.0.1:53682;" in policy


def hostile(half: FrontHalf) -> None:
    """Every value a page shows, as an attacker would have it."""
    snapshot = half.live.snapshot
    record = agent("support-bot", "crm/*", owner=HOSTILE)
    entry = msgspec.structs.replace(record.entry, name="support-bot", environment=HOSTILE)
    named = client("support-bot", "agent", agent="support-bot", display_name=HOSTILE)
    half.live.snapshot = msgspec.structs.replace(
        snapshot,
        agents=snapshot.agents | {"support-bot": msgspec.structs.replace(record, entry=entry)},
        clients=snapshot.clients | {"support-bot": named},
        servers=snapshot.servers | {"crm": server("crm", tool(HOSTILE))},
        identity_providers=snapshot.identity_providers
        | {HOSTILE: ProviderRecord(HOSTILE, "local_accounts", {})},
    )
    half.logins[HOSTILE] = Accounts()
    half.accounts.groups[HOSTILE] = ("local/support",)


def texts_are_escaped(page: str) -> bool:
    """No element or attribute came out of a value, though the value is shown."""
    elements = Elements(page).found
    return (
        {tag for tag, _ in elements} <= ALLOWED_TAGS
        and "onerror" not in {name for _, attributes in elements for name in attributes}
        and "&lt;script&gt;alert(1)" in page
        and "<script" not in page
    )


def test_page_of_login_escapes_client_provider_and_username(half: FrontHalf) -> None:
    hostile(half)
    browser = half.browser()
    page = browser.authorize()
    assert is_login(page)
    assert texts_are_escaped(page.text)
    failed = browser.post(page, identity_provider="local", username=HOSTILE, password="wrong")
    assert failed.status_code == 403
    assert texts_are_escaped(failed.text)
    shown = {attributes.get("value") for _, attributes in Elements(failed.text).found}
    assert HOSTILE in shown  # as a value, character for character


def test_page_of_consent_escapes_person_agent_owner_server_and_tools(half: FrontHalf) -> None:
    hostile(half)
    browser = half.browser()
    page = browser.submit(
        browser.authorize(),
        identity_provider="local",
        username=HOSTILE,
        password="correct horse",
    )
    assert is_consent(page)
    assert texts_are_escaped(page.text)
    assert page.text.count("&lt;script&gt;alert(1)") >= 4  # person, owner, environment, tool
    assert "{{7-7}}" in page.text


def test_page_of_a_refusal_escapes_person_and_link(half: FrontHalf) -> None:
    hostile(half)
    half.accounts.groups[HOSTILE] = ()
    browser = half.browser()
    page = browser.submit(
        browser.authorize(state=HOSTILE),
        identity_provider="local",
        username=HOSTILE,
        password="correct horse",
    )
    assert page.status_code == 403
    assert texts_are_escaped(page.text)
    (link,) = [attributes["href"] for tag, attributes in Elements(page.text).found if tag == "a"]
    assert link is not None
    assert link.startswith("http://127.0.0.1:53682/callback?error=access_denied")


@pytest.mark.parametrize("name", ["client_id", "redirect_uri", "state", "scope", "unknown"])
def test_page_of_an_error_shows_nothing_of_the_request(half: FrontHalf, name: str) -> None:
    changes: dict[str, Any] = {"redirect_uri": "https://evil.example/"} | {name: HOSTILE}
    page = half.browser().authorize(**changes)
    assert page.status_code == 400
    assert "script" not in page.text
    assert "evil" not in page.text


def cookie_headers(answer: Response) -> list[str]:
    return sorted(answer.headers.get_list("set-cookie"))


@pytest.mark.parametrize(
    ("issuer", "name", "expected"),
    [
        (HTTPS_ISSUER, "browser", "__Host-countersign_browser"),
        (HTTPS_ISSUER, "session", "__Host-countersign_session"),
        (ISSUER, "browser", "countersign_browser"),
        (ISSUER, "session", "countersign_session"),
    ],
)
def test_cookie_name_has_the_host_prefix_over_https(issuer: str, name: Any, expected: str) -> None:
    assert cookie_name(issuer, name) == expected


def test_cookies_over_https_are_secure_for_this_host_and_not_for_scripts(half: FrontHalf) -> None:
    browser = half.browser()
    started = browser.http.get("/oauth/authorize", params=request_parameters())
    page = browser.follow(started)
    logged_in = browser.post(page, username="alice", password="correct horse")
    (of_browser,), (of_session,) = cookie_headers(started), cookie_headers(logged_in)
    for header, name, seconds in (
        (of_browser, "__Host-countersign_browser", 3600),
        (of_session, "__Host-countersign_session", 28_800),
    ):
        value, *attributes = header.split("; ")
        assert value.startswith(f"{name}=")
        assert set(attributes) == {
            "HttpOnly",
            f"Max-Age={seconds}",
            "Path=/",
            "SameSite=lax",
            "Secure",
        }
        assert "Domain" not in header  # __Host- forbids it


def test_cookies_over_loopback_http_are_plain_and_taken_away_on_leaving(
    loopback: FrontHalf,
) -> None:
    browser = loopback.browser()
    started = browser.http.get("/oauth/authorize", params=request_parameters())
    (header,) = cookie_headers(started)
    assert header.startswith("countersign_browser=")
    assert "Secure" not in header
    assert "HttpOnly" in header
    answer = browser.allow(browser.log_in(browser.follow(started)))
    assert "code" in answer_of(answer)
    # What comes after this redirect is a local program on the same host: it gets no cookie.
    assert ["Max-Age=0" in header for header in cookie_headers(answer)] == [True, True]
    assert [cookie.name for cookie in browser.http.cookies.jar] == []


def test_cookies_over_loopback_do_not_leave_with_an_error_or_a_stored_consent(
    loopback: FrontHalf,
) -> None:
    browser = loopback.browser()
    silent = browser.authorize(prompt="none")
    assert answer_of(silent)["error"] == "login_required"
    assert [cookie.name for cookie in browser.http.cookies.jar] == []
    browser.allow(browser.log_in(browser.authorize()))
    again = browser.log_in(browser.authorize())
    assert "code" in answer_of(again)
    assert [cookie.name for cookie in browser.http.cookies.jar] == []


def test_cookie_of_the_browser_serves_several_tabs(half: FrontHalf) -> None:
    browser = half.browser()
    first, second = browser.authorize(), browser.authorize()
    assert hidden_fields(first)["interaction"] != hidden_fields(second)["interaction"]
    assert is_consent(browser.log_in(first))
    assert is_consent(browser.authorize())
