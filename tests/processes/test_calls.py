"""Real calls through the real processes: allowed, denied, per person."""

import json

import pytest

from compose.demo.stack import Stack
from tests.stack import TestAgent
from tests.witness import Witness

pytestmark = pytest.mark.processes


def test_alice_and_bob_with_one_agent_get_different_decisions_and_credentials(
    stack: Stack,
) -> None:
    seen = {}
    for person in ("alice", "bob"):
        agent = TestAgent(stack)
        agent.token_for(person, "crm", ["get_account", "list_hours"])
        answer = agent.call("crm", "list_hours").json()["result"]
        seen[person] = answer["structuredContent"]["seen"]
        account = agent.call("crm", "get_account", {"id": 17}).json()["result"]
        assert bool(account.get("isError")) is (person == "bob")
    assert seen["alice"]["name"] == "alice"
    assert seen["bob"]["name"] == "bob"
    assert seen["alice"]["subject"] != seen["bob"]["subject"]
    assert seen["alice"]["token_id"] != seen["bob"]["token_id"]


def test_a_denied_call_is_in_the_audit_with_its_guard_and_never_reaches_the_server(
    stack: Stack,
) -> None:
    agent = TestAgent(stack)
    agent.token_for("alice", "crm", ["refund"])
    witness = Witness(stack)
    answer = agent.call("crm", "refund", {"id": 17, "amount": 900}).json()["result"]
    assert answer["isError"]
    assert "Agents may not refund more than 500." in json.dumps(answer)
    denied = witness.event("call.decided", outcome="denied", tool="refund")
    assert "guard-refund-limit" in denied["policy_matched"]
