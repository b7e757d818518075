"""Consent is given to what the page showed, not to what is declared when the answer arrives."""

from collections.abc import Callable

import pytest
from httpx2 import Response

from audit_log.event import EventType
from tests.authz_server.front_half import FrontHalf, answer_of, cli_parameters, is_consent
from tests.authz_server.front_requests import (
    asked,
    change_agent,
    change_entry,
    change_server,
    change_tools,
)

CHANGES: dict[str, Callable[[FrontHalf], None]] = {
    "owner": lambda half: change_agent(half, "support-bot", owner="somebody@else.example"),
    "days": lambda half: change_agent(half, "support-bot", consent_days=365),
    "level": lambda half: change_entry(half, "support-bot", minimum_level=0),
    "url": lambda half: change_server(half, "https://elsewhere.example/mcp"),
    "definition": lambda half: change_tools(half, digest="sha-256:other"),
    "read_only": lambda half: change_tools(half, read_only=False),
    "sensitivity": lambda half: change_tools(half, sensitivity=3),
}


@pytest.mark.requirement("trap-consent-by-name")
@pytest.mark.parametrize("change", CHANGES)
def test_consent_to_what_changed_since_it_was_shown_is_asked_again(
    half: FrontHalf, change: str
) -> None:
    browser, page = asked(half)
    CHANGES[change](half)
    again = browser.allow(page)
    assert (again.status_code, again.headers.get("location")) == (409, None)
    assert half.spool.events[-1].reasons == ("consent.outdated",)
    assert half.cuts(EventType.CONSENT_GRANTED) == []
    assert half.cuts(EventType.CODE_ISSUED) == []
    assert "code" in answer_of(browser.allow(again))  # read again, and still yes
    assert "code" in answer_of(browser.authorize())  # and that is what is remembered


@pytest.mark.requirement("trap-consent-by-name")
def test_consent_page_shown_again_says_so_and_shows_what_is_now(half: FrontHalf) -> None:
    browser, page = asked(half)
    assert 'role="alert"' not in page.text
    CHANGES["owner"](half)
    CHANGES["read_only"](half)
    again = browser.allow(page)
    assert 'role="alert"' in again.text
    assert "somebody@else.example" in again.text
    assert '<span class="read">' not in again.text


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize("shown", [None, "", "x", "0" * 32, "<script>"])
def test_consent_to_nothing_that_was_shown_is_asked_again(
    half: FrontHalf, shown: str | None
) -> None:
    browser, page = asked(half)
    again = browser.submit(page, answer="allow", shown=shown)
    assert again.status_code == 409
    assert half.cuts(EventType.CODE_ISSUED) == []
    assert "code" in answer_of(browser.allow(page))


def test_consent_to_what_was_shown_for_less_does_not_serve_more(half: FrontHalf) -> None:
    change_entry(half, "support-bot", tools=("crm/get_*", "crm/refund", "crm/list_hours"))
    browser, page = asked(half)
    fewer = marks(page)[:1]
    again = browser.submit(page, answer="allow", shown=" ".join(fewer))
    assert again.status_code == 409
    assert marks(again) == marks(page)


def test_consent_of_the_command_line_shows_no_tools_and_needs_none(half: FrontHalf) -> None:
    browser, page = asked(half, **cli_parameters(half.issuer))
    assert is_consent(page)
    assert "code" in answer_of(browser.allow(page))


def test_consent_denied_does_not_need_what_was_shown(half: FrontHalf) -> None:
    browser, page = asked(half)
    CHANGES["owner"](half)
    assert answer_of(browser.submit(page, answer="deny"))["error"] == "access_denied"


def marks(page: Response) -> list[str]:
    _, _, rest = page.text.partition('name="shown" value="')
    return rest.partition('"')[0].split()
