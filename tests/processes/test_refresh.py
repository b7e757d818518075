"""Refresh over the real processes: token after token for one consent, until the first replay."""

from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from compose.demo.browser import log_in_and_allow
from compose.demo.people import PASSWORDS
from compose.demo.stack import Stack
from tests.stack import TestAgent, in_parallel
from tests.witness import Witness

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture
def agent(stack: Stack) -> TestAgent:
    return TestAgent(stack)


def first_answer(agent: TestAgent) -> dict[str, str]:
    url, pending = agent.authorization_url(
        "crm", ["get_account"], scope="mcp:tools offline_access", prompt="consent"
    )
    browser = agent.browser()
    try:
        redirect, consent = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
    finally:
        browser.close()
    assert consent is not None
    assert "Stays connected" in consent.text
    code = parse_qs(urlsplit(redirect).query)["code"][0]
    answer = agent.token_request(agent.redemption(pending | {"code": code}))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refresh(agent: TestAgent, token: str) -> httpx2.Response:
    return agent.token_request({"grant_type": "refresh_token", "refresh_token": token})


@pytest.mark.requirement("RFC6749-6")
def test_refreshed_token_calls_tools_and_its_predecessor_is_used_up(
    stack: Stack, agent: TestAgent
) -> None:
    answer = refresh(agent, first_answer(agent)["refresh_token"])
    assert answer.status_code == 200, answer.text
    agent.tokens["crm"] = answer.json()["access_token"]
    called = agent.call("crm", "get_account", {"id": 17})
    assert called.status_code == 200, called.text
    assert refresh(agent, answer.json()["refresh_token"]).status_code == 200
    written = (stack.directory / "data" / "countersign.db").read_bytes()
    assert answer.json()["refresh_token"].encode() not in written


@pytest.mark.requirement("attack-14")
def test_replayed_refresh_token_cuts_off_every_token_of_its_run(
    stack: Stack, agent: TestAgent
) -> None:
    used = first_answer(agent)["refresh_token"]
    second = refresh(agent, used).json()
    agent.tokens["crm"] = second["access_token"]
    assert agent.call("crm", "get_account", {"id": 17}).status_code == 200
    witness = Witness(stack)
    replayed = refresh(agent, used)
    assert (replayed.status_code, replayed.json()["error"]) == (400, "invalid_grant")
    witness.event("revocation.blocked")
    assert agent.call("crm", "get_account", {"id": 17}).status_code == 401
    assert refresh(agent, second["refresh_token"]).json()["error"] == "invalid_grant"


@pytest.mark.requirement("attack-14")
def test_refresh_token_of_another_agents_key_is_worth_nothing(
    stack: Stack, agent: TestAgent
) -> None:
    token = first_answer(agent)["refresh_token"]
    thief = TestAgent(stack)
    refused = refresh(thief, token)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert refresh(agent, token).status_code == 200


@pytest.mark.requirement("attack-14")
def test_refresh_token_used_twenty_times_at_once_yields_one_successor(agent: TestAgent) -> None:
    token = first_answer(agent)["refresh_token"]
    answers = in_parallel(20, lambda: refresh(agent, token))
    assert [answer.status_code for answer in answers].count(200) <= 1
    assert {answer.status_code for answer in answers} <= {200, 400, 503}
