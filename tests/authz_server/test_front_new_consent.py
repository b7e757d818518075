"""The link of the audit: a person gives a consent although no program waits for it."""

import asyncio
from typing import Any

import msgspec
import pytest
from httpx2 import Response

from audit_log.event import EventType
from authz_server.authorize_checks import CHECKS
from authz_server.endpoints.new_consent import NEW_CONSENT_CHECKS
from registry.blocks import BlockKind
from registry.snapshot import SubjectTokenRule
from tests.authz_server.front_half import (
    CRM_AUDIENCE,
    CRM_URL,
    ENDPOINT,
    HTTPS_ISSUER,
    NOTES_ENDPOINT,
    FrontHalf,
    PersonsBrowser,
    answer_of,
    is_consent,
    is_login,
)
from tests.authz_server.front_requests import change_agent, change_tools, details, of_crm

PORTAL = SubjectTokenRule("partner", ("support-portal",), ("id_token",), 300)


@pytest.fixture(autouse=True)
def _presents_tokens(half: FrontHalf, loopback: FrontHalf) -> None:
    for each in (half, loopback):
        change_agent(each, "support-bot", subject_tokens=(PORTAL,))


def opened(browser: PersonsBrowser, **changes: str | None) -> Response:
    """Follow the link of the audit."""
    query = {"client_id": "support-bot", "resource": ENDPOINT} | changes
    sent = {name: value for name, value in query.items() if value is not None}
    return browser.follow(browser.http.get("/oauth/consents/new", params=sent))


def asked(half: FrontHalf, username: str = "alice", **changes: str) -> tuple[Any, Response]:
    browser = half.browser()
    login = opened(browser, **changes)
    assert is_login(login), login.text
    page = browser.log_in(login, username)
    assert is_consent(page), page.text
    return browser, page


def consents(half: FrontHalf, username: str = "alice") -> list[set[str]]:
    """The tools of the stored consents of a person."""
    person = half.spool.of(EventType.LOGIN_SUCCEEDED)[-1]
    assert person.user_name == username
    stored = asyncio.run(half.parts.consents.living(person.user or "", "support-bot", "crm", 0))
    return [set(consent.tools) for consent in stored]


def assert_nothing_to_agree(half: FrontHalf, page: Response, rule: str) -> None:
    assert 400 <= page.status_code < 500, page.text
    assert "location" not in page.headers
    assert half.spool.of(EventType.AUTHORIZE_REFUSED)[-1].reasons == (rule,)


@pytest.mark.requirement("blend-consent")
def test_person_follows_the_link_reads_and_allows(half: FrontHalf) -> None:
    browser, page = asked(half)
    assert "support-portal (partner)" in page.text  # from where it will bring the sign-in
    assert "nobody; it is kept here" in page.text
    assert "get_account" in page.text
    assert "form-action 'self';" in page.headers["content-security-policy"]
    done = browser.allow(page)
    assert done.status_code == 200
    assert "Your consent is kept" in done.text
    assert "location" not in done.headers
    assert consents(half) == [{"get_account", "refund"}]
    (event,) = half.cuts(EventType.CONSENT_GRANTED)
    assert (event.agent, event.target_service) == ("support-bot", "crm")
    assert half.cuts(EventType.CODE_ISSUED) == []


def test_fewer_tools_can_be_named_and_only_those_are_kept(half: FrontHalf) -> None:
    browser, page = asked(half, authorization_details=details(of_crm("get_*")))
    assert "refund" not in page.text
    browser.allow(page)
    assert consents(half) == [{"get_account"}]


def test_person_says_no_and_nothing_is_kept(half: FrontHalf) -> None:
    browser, page = asked(half)
    done = browser.submit(page, answer="deny")
    assert done.status_code == 200
    assert "Nothing was allowed" in done.text
    assert consents(half) == []
    assert half.spool.of(EventType.CONSENT_DENIED)


def test_person_the_agent_does_not_act_for_is_told_and_nothing_is_kept(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.log_in(opened(browser), "bob")
    assert page.status_code == 403
    assert "does not act for you" in page.text
    assert "href=" not in page.text
    assert consents(half, "bob") == []


def test_it_always_asks_and_answers_once(half: FrontHalf) -> None:
    browser, page = asked(half)
    browser.allow(page)
    assert "not open in this browser" in browser.allow(page).text
    again = opened(browser)  # logged in, and consented before
    assert is_consent(again)
    browser.allow(again)
    assert len(consents(half)) == 2


@pytest.mark.requirement("attack-12")
def test_answer_of_another_browser_or_without_the_forms_token_is_refused(half: FrontHalf) -> None:
    browser, page = asked(half)
    other, _ = asked(half)
    assert "not open in this browser" in other.allow(page).text
    assert browser.submit(page, csrf="x" * 64, answer="allow").status_code == 403
    assert browser.submit(page, csrf=None, answer="allow").status_code == 403
    assert consents(half) == []
    assert browser.allow(page).status_code == 200
    assert len(consents(half)) == 1


def test_tool_that_changed_while_the_page_was_open_is_shown_again(half: FrontHalf) -> None:
    browser, page = asked(half)
    change_tools(half, sensitivity=3)
    again = browser.allow(page)
    assert again.status_code == 409
    assert consents(half) == []
    assert browser.allow(again).status_code == 200
    assert len(consents(half)) == 1


def test_on_a_shared_host_the_person_logs_in_for_each_and_leaves_no_cookie(
    loopback: FrontHalf,
) -> None:
    browser, page = asked(loopback)
    done = browser.allow(page)
    assert done.status_code == 200
    expired = [value for name, value in done.headers.multi_items() if name == "set-cookie"]
    assert len(expired) == 2
    assert all("Max-Age=0" in each for each in expired)
    assert is_login(opened(browser))


@pytest.mark.requirement("attack-8")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"client_id": None}, "authorize.client"),
        ({"client_id": "nobody"}, "authorize.client"),
        ({"client_id": "countersign-cli", "resource": f"{HTTPS_ISSUER}/admin"}, "consents.agent"),
        ({"client_id": "gateway:demo"}, "authorize.acts_for"),
        ({"client_id": "lonely-bot"}, "authorize.acts_for"),
        ({"client_id": "web-bot"}, "consents.agent"),
        ({"resource": None}, "authorize.resource_count"),
        ({"resource": NOTES_ENDPOINT}, "authorize.resource"),
        ({"resource": CRM_URL}, "authorize.resource"),
        ({"resource": CRM_AUDIENCE}, "authorize.resource"),
        ({"resource": f"{HTTPS_ISSUER}/admin"}, "authorize.resource"),
        ({"authorization_details": "["}, "authorize.details"),
        ({"authorization_details": details(of_crm("delete_account"))}, "authorize.no_tools"),
    ],
    ids=str,
)
def test_link_that_asks_for_nothing_an_agent_may_have_is_a_page(
    half: FrontHalf, changes: dict[str, str | None], rule: str
) -> None:
    assert_nothing_to_agree(half, opened(half.browser(), **changes), rule)


def test_agent_with_a_mandate_or_blocked_asks_nobody(half: FrontHalf) -> None:
    change_agent(half, "support-bot", by_mandate=True)
    assert_nothing_to_agree(half, opened(half.browser()), "consents.agent")
    change_agent(half, "support-bot", by_mandate=False)
    assert is_login(opened(half.browser()))
    half.block(BlockKind.AGENT, "support-bot")
    assert_nothing_to_agree(half, opened(half.browser()), "authorize.blocked")


def test_what_a_link_adds_has_no_effect(half: FrontHalf) -> None:
    """No redirect, no silent answer, no key: whoever sends the link can only have one asked."""
    evil = {"redirect_uri": "https://evil.example/", "prompt": "none", "state": "s"}
    browser = half.browser()
    page = browser.log_in(opened(browser, **evil))
    assert is_consent(page)
    assert "evil" not in page.text
    assert "evil" not in str(browser.allow(page).headers)


def test_repeated_parameters_and_other_methods_are_refused(half: FrontHalf) -> None:
    browser = half.browser()
    twice = browser.http.get(
        "/oauth/consents/new", params={"client_id": ["support-bot", "web-bot"]}
    )
    assert_nothing_to_agree(half, twice, "authorize.client")
    for method in ("POST", "HEAD", "PUT"):
        assert browser.http.request(method, "/oauth/consents/new").status_code == 405


def test_the_checks_are_rows_of_the_table_of_authorize() -> None:
    rules = {check.rule for check in NEW_CONSENT_CHECKS}
    assert len(rules) == len(NEW_CONSENT_CHECKS) == 8
    assert [check for check in CHECKS if check.rule in rules] == list(NEW_CONSENT_CHECKS)


def test_interactive_page_says_from_where_the_agent_may_bring_a_sign_in(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.log_in(browser.authorize())
    assert "support-portal (partner)" in page.text
    assert "act for you without asking" not in page.text
    assert "code" in answer_of(browser.allow(page))
    change_agent(half, "support-bot", by_mandate=True)
    page = browser.authorize()
    assert is_consent(page)  # something it relied on is another thing now
    assert "lets it act for you without asking, too" in page.text
    change_agent(half, "support-bot", by_mandate=False, subject_tokens=())
    assert "Also without you" not in browser.authorize().text


@pytest.mark.requirement("blend-consent")
def test_link_that_names_another_client_of_the_agent_asks_nothing(half: FrontHalf) -> None:
    entry = msgspec.structs.replace(half.live.snapshot.agents["web-bot"].entry, minimum_level=0)
    change_agent(half, "web-bot", subject_tokens=(PORTAL,), entry=entry)
    assert_nothing_to_agree(half, opened(half.browser(), client_id="web-portal"), "consents.agent")
    assert is_login(opened(half.browser(), client_id="web-bot"))
