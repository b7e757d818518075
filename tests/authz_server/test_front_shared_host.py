"""A loopback issuer shares its host, and so its cookies, with every local program."""

import msgspec
import pytest
from httpx2 import Response

from authz_server.store import interactions
from registry.snapshot import RegistrySnapshot
from tests.authz_server.front_half import (
    FrontHalf,
    answer_of,
    cli_parameters,
    hidden_fields,
    is_consent,
    is_login,
)


def cookies_taken_away(response: Response) -> set[str]:
    headers = response.headers.get_list("set-cookie")
    return {line.split("=")[0] for line in headers if "Max-Age=0" in line}


@pytest.mark.requirement("trap-cookie-ports")
def test_code_leaves_a_loopback_issuer_without_any_cookie(loopback: FrontHalf) -> None:
    browser = loopback.browser()
    consent = browser.log_in(browser.authorize())
    leaving = browser.allow(consent)
    assert "code" in answer_of(leaving)
    assert cookies_taken_away(leaving) == {"countersign_browser", "countersign_session"}
    assert not [line for line in leaving.headers.get_list("set-cookie") if "Max-Age=0" not in line]


@pytest.mark.requirement("trap-cookie-ports")
def test_session_of_a_loopback_issuer_counts_for_the_request_it_was_made_in(
    loopback: FrontHalf,
) -> None:
    """An agent's listener that got the cookies asks again in the person's name."""
    browser = loopback.browser()
    browser.log_in(browser.authorize())
    again = browser.authorize()
    assert is_login(again)


@pytest.mark.requirement("trap-cookie-ports")
@pytest.mark.parametrize("path", ["/oauth/consent", "/oauth/login"])
def test_cookies_alone_never_open_the_consent_page_of_a_loopback_issuer(
    loopback: FrontHalf, path: str
) -> None:
    """An agent's listener planted the browser cookie and was sent the session cookie."""
    person = loopback.browser()
    consent = person.log_in(person.authorize())
    agent = loopback.browser()
    agent.http.cookies.update(person.http.cookies)
    query = {"interaction": hidden_fields(consent)["interaction"] or ""}
    page = agent.follow(agent.http.get(path, params=query))
    assert is_login(page)
    assert (hidden_fields(consent)["csrf"] or "") not in page.text
    forged = agent.http.post(
        "/oauth/consent",
        data=query | {"csrf": hidden_fields(page)["csrf"] or "", "answer": "allow"},
    )
    assert forged.status_code == 403
    assert loopback.spool.events[-1].reasons == ("consent.forged",)
    assert "code" in answer_of(person.allow(consent))  # who proved themselves goes on


@pytest.mark.requirement("trap-cookie-ports")
@pytest.mark.parametrize("form", [None, "", "0" * 64])
def test_consent_page_of_a_loopback_issuer_wants_the_token_of_the_login(
    loopback: FrontHalf, form: str | None
) -> None:
    person = loopback.browser()
    consent = person.log_in(person.authorize())
    query = {"interaction": hidden_fields(consent)["interaction"] or ""}
    more = {} if form is None else {"form": form}
    assert is_login(person.follow(person.http.get("/oauth/consent", params=query | more)))
    right = query | {"form": hidden_fields(consent)["csrf"] or ""}
    assert is_consent(person.follow(person.http.get("/oauth/consent", params=right)))


@pytest.mark.requirement("trap-cookie-ports")
def test_consent_token_is_of_one_request_and_one_login(loopback: FrontHalf) -> None:
    first, second = loopback.browser(), loopback.browser()
    pages = [each.log_in(each.authorize()) for each in (first, second)]
    tokens = [hidden_fields(page)["csrf"] for page in pages]
    assert tokens[0] != tokens[1]
    assert first.post(pages[0], answer="allow", csrf=tokens[1]).status_code == 403


def test_session_of_an_https_issuer_counts_for_the_next_request_of_an_agent(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    browser.allow(browser.log_in(browser.authorize()))
    more = browser.authorize(prompt="consent")
    assert is_consent(more)


@pytest.mark.requirement("trap-cookie-ports")
def test_admin_audience_takes_a_login_made_for_it_even_over_https(half: FrontHalf) -> None:
    browser = half.browser()
    browser.allow(browser.log_in(browser.authorize()))
    page = browser.authorize(**cli_parameters(half.issuer))
    assert is_login(page)
    assert is_consent(browser.log_in(page))


@pytest.mark.requirement("trap-consent-by-name")
@pytest.mark.parametrize("change", ["owner", "url", "definition", "read_only"])
def test_stored_consent_does_not_cover_what_changed_since_it_was_shown(
    half: FrontHalf, change: str
) -> None:
    browser = half.browser()
    browser.allow(browser.log_in(browser.authorize()))
    assert "code" in answer_of(browser.authorize())  # unchanged: nobody is asked again
    half.live.snapshot = changed(half.live.snapshot, change)
    assert is_consent(browser.authorize())


def changed(snapshot: RegistrySnapshot, change: str) -> RegistrySnapshot:
    agents, servers = dict(snapshot.agents), dict(snapshot.servers)
    crm = servers["crm"]
    if change == "owner":
        bot = agents["support-bot"]
        agents["support-bot"] = msgspec.structs.replace(bot, owner="somebody@else.example")
    elif change == "url":
        servers["crm"] = msgspec.structs.replace(crm, url="https://elsewhere.example/mcp")
    else:
        fields = {"digest": "sha-256:other"} if change == "definition" else {"read_only": False}
        tools = tuple(
            msgspec.structs.replace(
                each, **(fields | ({"sensitivity": 3} if change == "read_only" else {}))
            )
            for each in crm.tools
        )
        servers["crm"] = msgspec.structs.replace(crm, tools=tools)
    return msgspec.structs.replace(snapshot, agents=agents, servers=servers)


@pytest.mark.requirement("trap-login-flood")
def test_flood_of_requests_evicts_the_oldest_and_locks_nobody_out(
    half: FrontHalf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "MAXIMUM_OPEN", 5)
    monkeypatch.setattr(interactions, "EVICTED_AT_ONCE", 2)
    waiting = half.browser()
    consent = waiting.log_in(waiting.authorize())
    for _ in range(12):
        flooding = half.browser()
        assert is_login(flooding.authorize())
    person = half.browser()
    assert is_login(person.authorize())
    assert "code" in answer_of(waiting.allow(consent))  # who has logged in keeps their place
