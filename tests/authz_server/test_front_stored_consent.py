"""Stored consents: what they cover, for whom, how long, and what withdraws them."""

from typing import Any

import msgspec
import pytest

from audit_log.event import EventType, PrincipalKind
from authz_server.store.consents import Consent
from registry.blocks import BlockKind
from tests.authz_server.front_half import (
    NOTES_ENDPOINT,
    FrontHalf,
    agent,
    answer_of,
    cli_parameters,
    is_consent,
    is_login,
    tool,
)
from tests.authz_server.front_requests import (
    agreed,
    asked,
    change_agent,
    change_entry,
    details,
    of_crm,
    set_agents,
)

DAY = 86_400
WEB = {"client_id": "web-bot", "redirect_uri": "https://app.example.com/cb?tenant=1"}
ONLY_GET = details(of_crm("get_account"))


def test_consent_stored_covers_the_same_and_less_but_not_more(half: FrontHalf) -> None:
    browser = agreed(half)
    for narrower in ({}, {"authorization_details": ONLY_GET}, {"scope": None}):
        assert "code" in answer_of(browser.authorize(**narrower))
    assert is_consent(browser.authorize(scope="mcp:tools openid"))
    change_entry(half, "support-bot", tools=("crm/*",))
    assert is_consent(browser.authorize())
    assert "code" in answer_of(browser.authorize(authorization_details=ONLY_GET))


def test_consent_stored_for_less_asks_again_for_more(half: FrontHalf) -> None:
    browser = agreed(half, authorization_details=ONLY_GET)
    assert "code" in answer_of(browser.authorize(authorization_details=ONLY_GET))
    page = browser.authorize()
    assert is_consent(page)
    browser.allow(page)
    assert "code" in answer_of(browser.authorize())


def test_consent_stored_does_not_grow_with_the_server(half: FrontHalf) -> None:
    browser = agreed(half)
    snapshot = half.live.snapshot
    crm = snapshot.servers["crm"]
    grown = msgspec.structs.replace(crm, tools=(*crm.tools, tool("get_salary")))
    half.live.snapshot = msgspec.structs.replace(
        snapshot, servers=snapshot.servers | {"crm": grown}
    )
    page = browser.authorize()
    assert is_consent(page)
    assert "get_salary" in page.text


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "somebody-else@example.com"},
        {"match": {"unix.uid": "0"}},
        {"providers": ("k8s",)},
        {"environment": "staging"},
        {"minimum_level": 0},
        {"url": "http://127.0.0.1:6666/mcp"},
        {"digest": "sha-256:changed"},
        {"read_only": False},
        {"sensitivity": 3},
    ],
)
def test_consent_stored_is_for_what_was_shown(half: FrontHalf, changes: dict[str, Any]) -> None:
    browser = agreed(half, authorization_details=ONLY_GET)
    snapshot = half.live.snapshot
    (name,) = changes
    if name in {"owner", "match", "providers"}:
        change_agent(half, "support-bot", **changes)
    elif name in {"environment", "minimum_level"}:
        change_entry(half, "support-bot", **changes)
    else:
        crm = snapshot.servers["crm"]
        first = crm.tools[0] if name == "url" else msgspec.structs.replace(crm.tools[0], **changes)
        crm = msgspec.structs.replace(crm, tools=(first, *crm.tools[1:]))
        crm = msgspec.structs.replace(crm, **changes) if name == "url" else crm
        half.live.snapshot = msgspec.structs.replace(
            snapshot, servers=snapshot.servers | {"crm": crm}
        )
    assert is_consent(browser.authorize(authorization_details=ONLY_GET))
    half.live.snapshot = snapshot
    assert "code" in answer_of(browser.authorize(authorization_details=ONLY_GET))


def test_consent_stored_for_one_agent_or_server_or_person_serves_no_other(half: FrontHalf) -> None:
    set_agents(half, {"support-bot": agent("support-bot", "crm/get_*", "notes/*")})
    half.accounts.groups["bob"] = ("local/support",)
    browser = agreed(half, authorization_details=ONLY_GET)
    assert is_consent(browser.authorize(**WEB))
    assert is_consent(browser.authorize(resource=NOTES_ENDPOINT))
    asked(half, "bob", authorization_details=ONLY_GET)
    assert "code" in answer_of(browser.authorize(authorization_details=ONLY_GET))


def test_consent_stored_serves_the_same_person_in_another_browser(half: FrontHalf) -> None:
    agreed(half)
    browser = half.browser()
    assert "code" in answer_of(browser.log_in(browser.authorize()))


def test_consent_stored_ends_after_its_days(half: FrontHalf) -> None:
    agreed(half)
    half.clock.now += 30 * DAY - 1
    browser = half.browser()
    assert "code" in answer_of(browser.log_in(browser.authorize()))
    half.clock.now += 1
    asked(half)


def test_consent_stored_is_not_used_when_the_client_wants_to_ask(half: FrontHalf) -> None:
    browser = agreed(half)
    assert is_consent(browser.authorize(prompt="consent"))
    assert is_login(browser.authorize(prompt="login"))


@pytest.mark.requirement("attack-12")
def test_consent_of_the_command_line_is_asked_for_each_time(half: FrontHalf) -> None:
    browser = agreed(half, **cli_parameters(half.issuer))
    page = browser.authorize(**cli_parameters(half.issuer))
    assert is_login(page)  # whoever holds a lost session cookie administers nothing
    assert is_consent(browser.log_in(page))
    silent = browser.authorize(**cli_parameters(half.issuer, prompt="none"))
    assert answer_of(silent)["error"] == "login_required"
    granted = half.cuts(EventType.CONSENT_GRANTED)[0]
    assert (granted.consent, granted.agent, granted.principal_kind) == (
        None,
        None,
        PrincipalKind.PERSON,
    )


@pytest.mark.requirement("attack-28")
def test_consent_blocked_is_asked_for_again_and_serves_again_when_restored(
    half: FrontHalf,
) -> None:
    browser = agreed(half)
    gid = half.cuts(EventType.CONSENT_GRANTED)[0].consent or ""
    half.clock.now += 10
    half.block(BlockKind.CONSENT, gid)
    assert is_consent(browser.authorize())
    half.restore(BlockKind.CONSENT, gid)
    half.clock.now += 2
    assert "code" in answer_of(browser.authorize())  # consents survive an epoch


@pytest.mark.parametrize(
    ("shown", "scope", "expected"),
    [
        ({"get_account": "a"}, "mcp:tools", True),
        ({"get_account": "a", "refund": "r"}, "mcp:tools", True),
        ({"get_account": "a", "delete": "d"}, "mcp:tools", False),
        ({"get_account": "b"}, "mcp:tools", False),
        ({"get_*": "a"}, "mcp:tools", False),
        ({"Get_account": "a"}, "mcp:tools", False),
        ({"get_account": "a"}, "mcp:tools openid", False),
    ],
)
def test_consent_covers_equal_or_narrower_only(
    shown: dict[str, str], scope: str, expected: bool
) -> None:
    consent = Consent(
        gid="grt_1",
        sub="usr_1",
        agent="support-bot",
        server="crm",
        tools={"get_account": "a", "refund": "r"},
        scope="mcp:tools",
        created_at=0,
        expires_at=1,
    )
    assert consent.covers(shown, scope) is expected
