"""`binding: call`: a credential is for one decision, and a decision is good once, for everybody."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from compose.demo.stack import Stack
from tests.gateways import TestGateway, decision
from tests.operators import declared
from tests.stack import (
    TestAgent,
    demo_objects,
    in_parallel,
)
from tests.witness import Witness

pytestmark = pytest.mark.processes

OTHER_BASE_URL = "http://127.0.0.1:9001"
TOOLS = ["get_account", "list_hours", "refund"]
PARALLEL = 20

# What the authority itself refuses, on its own snapshot: nobody gets a credential for bob.
NO_CREDENTIAL_FOR_BOB = """
@id("guard-no-credential-for-staff")
@reason("Only support gets a credential.")
forbid (principal, action == Action::"issue_credential", resource)
when { context.run has user && !(context.run.user in Group::"local/support") };
"""


def objects_bound_to_calls(stack: Stack) -> list[dict[str, Any]]:
    """The demo's, with one token per call for crm, and a second Gateway in front of it."""
    objects = demo_objects(stack)
    for each in objects:
        if (each["kind"], each["name"]) == ("CredentialProvider", "crm-token"):
            each["spec"]["binding"] = "call"
    spec = {"base_url": OTHER_BASE_URL, "servers": ["crm"]}
    policy = {"kind": "Policy", "name": "issuing", "spec": {"cedar": NO_CREDENTIAL_FOR_BOB}}
    return [*objects, {"kind": "Gateway", "name": "second", "spec": spec}, policy]


@pytest.fixture(scope="module")
def stack(stack: Stack) -> Iterator[Stack]:
    with declared(stack, objects_bound_to_calls(stack)):
        yield stack


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> TestGateway:
    return TestGateway.running(stack)


def assert_used_up(answer: httpx2.Response) -> None:
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == "invalid_authorization_details"
    assert "access_token" not in answer.json()


def tokens_at_crm(stack: Stack) -> list[str]:
    """The ids of the tokens crm was called with, by its own log."""
    connection = sqlite3.connect(stack.directory / "crm.db")
    try:
        return [row[0] for row in connection.execute("SELECT token_id FROM calls ORDER BY id")]
    finally:
        connection.close()


def test_binding_call_each_call_has_a_token_of_its_own(stack: Stack, agent: TestAgent) -> None:
    witness = Witness(stack)
    before = len(tokens_at_crm(stack))
    seen = []
    for _ in range(4):
        answer = agent.call("crm", "get_account", {"id": 17}).json()["result"]
        seen.append(answer["structuredContent"]["seen"]["token_id"])
    assert len(set(seen)) == 4
    assert tokens_at_crm(stack)[before:] == seen
    events = witness.settled()
    for token_id in seen:
        (exchanged,) = (event for event in events if event.get("token_id") == token_id)
        decided = [
            event
            for event in events
            if event["type"] == "call.decided" and event["decision_id"] == exchanged["decision_id"]
        ]
        assert len(decided) == 1
        assert decided[0]["argument_digest"] == exchanged["argument_digest"]


def test_binding_call_parallel_calls_each_have_a_token_of_their_own(
    stack: Stack, agent: TestAgent
) -> None:
    before = len(tokens_at_crm(stack))
    answers = in_parallel(PARALLEL, lambda: agent.call("crm", "get_account", {"id": 17}))
    assert [answer.status_code for answer in answers] == [200] * PARALLEL
    tokens = tokens_at_crm(stack)[before:]
    assert len(set(tokens)) == PARALLEL


def test_binding_call_decision_used_by_the_gateway_is_refused_afterwards_to_everybody(
    stack: Stack, agent: TestAgent, gateway: TestGateway
) -> None:
    witness = Witness(stack)
    assert agent.call("crm", "get_account", {"id": 17}).status_code == 200
    used = witness.event("token.exchanged", target_service="crm")["decision_id"]
    for who, token in (
        (gateway, agent.tokens["crm"]),
        (TestGateway.enrol(stack, "main"), agent.tokens["crm"]),
        (TestGateway.enrol(stack, "second"), token_at_second(stack)),
    ):
        fresh = who.exchange(token)
        assert fresh.status_code == 200, fresh.text
        witness = Witness(stack)
        assert_used_up(who.exchange(token, detail={"decision": used}))
        event = witness.event("exchange.refused", says="exchange.decision_used")
        assert event["client_id"] == who.client_id


def test_binding_call_decision_is_good_once_whatever_is_changed_around_it(
    agent: TestAgent, gateway: TestGateway
) -> None:
    once = decision()
    token = agent.tokens["crm"]
    assert gateway.exchange(token, detail={"decision": once}).status_code == 200
    assert_used_up(gateway.exchange(token, detail={"decision": once}))
    other_digest = "sha-256:" + "A" * 43
    changes: list[dict[str, Any]] = [{"tool": "list_hours"}, {"args_sha256": other_digest}]
    for change in changes:
        assert gateway.exchange(token, detail=change).status_code == 200, change
        assert_used_up(gateway.exchange(token, detail={"decision": once} | change))
    another = TestAgent(agent.stack)
    another.token_for("alice", "crm", TOOLS)
    assert_used_up(gateway.exchange(another.tokens["crm"], detail={"decision": once}))


def test_binding_call_without_a_decision_is_refused(
    stack: Stack, agent: TestAgent, gateway: TestGateway
) -> None:
    witness = Witness(stack)
    answer = gateway.exchange(agent.tokens["crm"], detail={"decision": None})
    assert_used_up(answer)
    witness.event("exchange.refused", says="details.form")


def test_binding_call_twenty_parallel_exchanges_of_one_decision_have_one_success(
    stack: Stack, agent: TestAgent, gateway: TestGateway
) -> None:
    witness = Witness(stack)
    once = decision()
    token = agent.tokens["crm"]
    token_there = token_at_second(stack)
    others = [TestGateway.enrol(stack, "main"), TestGateway.enrol(stack, "second")]
    asking = iter([(gateway, token), (others[0], token), (others[1], token_there)] * 7)

    def ask() -> httpx2.Response:
        who, subject_token = next(asking)
        return who.exchange(subject_token, detail={"decision": once})

    answers = in_parallel(PARALLEL, ask)
    assert len(answers) == PARALLEL
    succeeded = [answer for answer in answers if answer.status_code == 200]
    assert len(succeeded) == 1
    for answer in answers:
        if answer is not succeeded[0]:
            assert_used_up(answer)
    with_it = [
        event
        for event in witness.settled()
        if event["type"] == "token.exchanged" and event.get("decision_id") == once
    ]
    assert len(with_it) == 1


def test_binding_call_wrong_exchange_does_not_burn_the_decision(
    agent: TestAgent, gateway: TestGateway
) -> None:
    once = decision()
    token = agent.tokens["crm"]
    for wrong in (
        gateway.exchange(token, detail={"decision": once, "tool": "delete_account"}),
        gateway.exchange(token, detail={"decision": once}, scope="mcp:admin"),
        gateway.exchange(token, detail={"decision": once}, resource=agent.stack.notes_url),
    ):
        assert wrong.status_code == 400, wrong.text
    assert gateway.exchange(token, detail={"decision": once}).status_code == 200


def test_binding_call_denied_decision_yields_no_credential_and_no_call(
    stack: Stack, agent: TestAgent
) -> None:
    witness = Witness(stack)
    before = tokens_at_crm(stack)
    answer = agent.call("crm", "refund", {"id": 17, "amount": 900}).json()["result"]
    assert answer["isError"]
    denied = witness.event("call.decided", outcome="denied", tool="refund")
    # The twin, afterwards, with a credential: whatever the denial caused is recorded before it.
    assert not agent.call("crm", "refund", {"id": 17, "amount": 1}).json()["result"].get("isError")
    allowed = witness.event("token.exchanged", tool="refund")
    events = [event for event in witness.settled() if event["type"] == "token.exchanged"]
    assert [event["decision_id"] for event in events] == [allowed["decision_id"]]
    assert denied["decision_id"] != allowed["decision_id"]
    assert len(tokens_at_crm(stack)) == len(before) + 1


def test_binding_call_credential_the_authority_denies_is_not_issued(
    stack: Stack, gateway: TestGateway
) -> None:
    bob = TestAgent(stack)
    bob.token_for("bob", "crm", ["list_hours"])
    once = decision()
    witness = Witness(stack)
    detail = {"tool": "list_hours", "decision": once}
    answer = gateway.exchange(bob.tokens["crm"], detail=detail)
    assert (answer.status_code, answer.json()["error"]) == (403, "access_denied")
    assert "access_token" not in answer.json()
    event = witness.event("exchange.refused", says="exchange.policy")
    assert event["client_id"] == "gateway:main"
    # And through the gateway, whose own policies allow the call, nothing reaches crm.
    before = tokens_at_crm(stack)
    called = bob.call("crm", "list_hours")
    assert "seen" not in called.text
    assert tokens_at_crm(stack) == before


def token_at_second(stack: Stack) -> str:
    """Alice's token for crm behind the other Gateway."""
    agent = TestAgent(stack)
    answer = agent.token_request(
        agent.redemption(agent.code("alice", "crm", TOOLS, resource=f"{OTHER_BASE_URL}/crm/mcp"))
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])
