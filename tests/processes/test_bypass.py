"""Nobody gets a credential past the gateway's own calls: not an agent, not a lying gateway."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from compose.demo.browser import Browser, log_in_and_allow
from compose.demo.stack import Stack
from tests.gateways import TestGateway
from tests.operators import declared
from tests.stack import CALLBACK, PASSWORDS, TestAgent, demo_objects
from tests.witness import Witness
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_JWT,
    TOKEN_TYPE_STATIC_SECRET,
)

pytestmark = pytest.mark.processes

OTHER_BASE_URL = "http://127.0.0.1:9001"
LEDGER_URL = "http://127.0.0.1:9002/mcp"
LEDGER_AUDIENCE = "https://ledger.example/api"
DISCOVERY = {"type": "mcp_discovery", "tool": None, "args_sha256": None, "decision": None}
TOOLS = ["get_account", "list_hours"]


def objects_with_another_gateway(stack: Stack) -> list[dict[str, Any]]:
    """The demo's, a second Gateway with `crm` and a server with a token audience of its own."""
    objects = demo_objects(stack)
    objects += [
        {
            "kind": "CredentialProvider",
            "name": "ledger-token",
            "spec": {"type": "issued_token", "audience": LEDGER_AUDIENCE},
        },
        {
            "kind": "McpServer",
            "name": "ledger",
            "spec": {"url": LEDGER_URL, "credential": {"provider": "ledger-token"}},
        },
        {
            "kind": "Gateway",
            "name": "second",
            "spec": {"base_url": OTHER_BASE_URL, "servers": ["crm", "ledger"]},
        },
    ]
    return objects


@pytest.fixture(scope="module")
def stack(stack: Stack) -> Iterator[Stack]:
    with declared(stack, objects_with_another_gateway(stack)):
        yield stack


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> TestGateway:
    return TestGateway.running(stack)


@pytest.fixture(scope="module")
def second(stack: Stack) -> TestGateway:
    return TestGateway.enrol(stack, "second")


def named(stack: Stack, what: str) -> str:
    """A value no agent may ask for, by name: parameters are made before the ports are known."""
    return {
        "the url of a target": stack.crm_url,
        "the url of a target with a secret": stack.notes_url,
        "the url of another gateway's target": LEDGER_URL,
        "the audience of a target": LEDGER_AUDIENCE,
        "control": f"{stack.issuer}/control/v1",
        "admin": f"{stack.issuer}/admin",
        "the issuer": stack.issuer,
        "nothing we know": "https://nowhere.example/mcp",
    }[what]


WHAT = [
    "the url of a target",
    "the url of a target with a secret",
    "the url of another gateway's target",
    "the audience of a target",
    "control",
    "admin",
    "the issuer",
    "nothing we know",
]


def assert_refused(answer: httpx2.Response, code: str, status: int = 400) -> None:
    body = answer.json()
    assert (answer.status_code, body.get("error")) == (status, code), answer.text
    assert "access_token" not in body
    assert answer.headers["cache-control"] == "no-store"


# --- an agent ------------------------------------------------------------------------------------


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("what", WHAT)
def test_bypass_agent_asks_at_authorize_gets_no_code_and_is_audited(
    stack: Stack, agent: TestAgent, what: str
) -> None:
    witness = Witness(stack)
    url, _ = agent.authorization_url("crm", TOOLS, resource=named(stack, what))
    with_code = _redirect(url)
    assert with_code.params["error"] == "invalid_target"
    assert with_code.params["iss"] == stack.issuer
    assert "code" not in with_code.params
    event = witness.event("authorize.refused", says="authorize.resource")
    assert event["error_code"] == "invalid_target"
    assert event["client_id"] == "support-bot"


@pytest.mark.requirement("attack-16")
def test_bypass_agent_asks_at_authorize_for_several_or_no_resource_gets_no_code(
    stack: Stack, agent: TestAgent
) -> None:
    url, _ = agent.authorization_url("crm", TOOLS)
    without = str(httpx2.URL(url).copy_remove_param("resource"))
    for wrong in (f"{url}&resource={stack.crm_url}", without):
        witness = Witness(stack)
        answer = _redirect(wrong)
        assert answer.params["error"] == "invalid_target"
        assert "code" not in answer.params
        witness.event("authorize.refused", says="authorize.resource_count")


def test_bypass_twin_agent_asks_at_authorize_for_the_endpoint_gets_a_code(
    agent: TestAgent,
) -> None:
    assert agent.code("alice", "crm", TOOLS)["code"]


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("what", WHAT)
def test_bypass_agent_redeems_a_code_for_another_resource_gets_invalid_target(
    stack: Stack, agent: TestAgent, what: str
) -> None:
    witness = Witness(stack)
    pending = agent.code("alice", "crm", TOOLS)
    form = agent.redemption(pending)
    assert_refused(
        agent.token_request(form | {"resource": named(stack, what)}),
        "invalid_target",
    )
    event = witness.event("token.refused", error_code="invalid_target")
    assert event["agent"] == "support-bot"
    # The wrong request has not burnt the code of the right one.
    assert agent.token_request(form).status_code == 200


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("what", WHAT)
def test_bypass_agent_asks_by_client_credentials_gets_invalid_target(
    stack: Stack, agent: TestAgent, what: str
) -> None:
    witness = Witness(stack)
    form = {"grant_type": GRANT_CLIENT_CREDENTIALS, "resource": named(stack, what)}
    assert_refused(agent.token_request(form), "invalid_target")
    event = witness.event("token.refused", says="token.resource")
    assert event["agent"] == "support-bot"
    assert event["error_code"] == "invalid_target"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("what", WHAT)
def test_bypass_agent_exchanges_its_own_token_gets_invalid_target(
    stack: Stack, agent: TestAgent, what: str
) -> None:
    witness = Witness(stack)
    form = {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": agent.tokens["crm"],
        "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "resource": named(stack, what),
    }
    assert_refused(agent.token_request(form), "invalid_target")
    event = witness.event("exchange.refused", says="token.resource")
    assert event["agent"] == "support-bot"
    assert not event.get("token_issued")


@pytest.mark.requirement("attack-16")
def test_bypass_agent_asks_by_the_audience_parameter_gets_invalid_target(
    stack: Stack, agent: TestAgent
) -> None:
    for form in (
        {"grant_type": GRANT_CLIENT_CREDENTIALS},
        {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": agent.tokens["crm"],
            "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        },
    ):
        answer = agent.token_request(form | {"audience": stack.crm_url})
        assert_refused(answer, "invalid_target")


@pytest.mark.requirement("attack-16")
def test_bypass_agent_mixes_its_endpoint_with_a_target_gets_invalid_target(
    stack: Stack, agent: TestAgent
) -> None:
    several = [stack.endpoint("crm"), stack.crm_url]
    for form in (
        {"grant_type": GRANT_CLIENT_CREDENTIALS},
        agent.redemption(agent.code("alice", "crm", TOOLS)),
    ):
        assert_refused(agent.token_request(form | {"resource": several}), "invalid_target")


@pytest.mark.requirement("attack-16")
def test_bypass_agent_names_no_resource_gets_nothing(stack: Stack, agent: TestAgent) -> None:
    witness = Witness(stack)
    answer = agent.token_request({"grant_type": GRANT_CLIENT_CREDENTIALS})
    assert answer.status_code == 400
    assert answer.json()["error"] in {"invalid_target", "unauthorized_client"}
    witness.event("token.refused", agent="support-bot")
    answer = agent.token_request(
        {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": agent.tokens["crm"],
            "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        }
    )
    assert answer.status_code == 400
    assert answer.json()["error"] in {"invalid_target", "unauthorized_client"}
    witness.event("exchange.refused", agent="support-bot")


@pytest.mark.requirement("attack-16")
def test_bypass_agent_with_its_endpoint_as_resource_may_not_exchange(
    stack: Stack, agent: TestAgent
) -> None:
    witness = Witness(stack)
    form = {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": agent.tokens["crm"],
        "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "resource": stack.endpoint("crm"),
    }
    assert_refused(agent.token_request(form), "unauthorized_client")
    witness.event("exchange.refused", agent="support-bot", error_code="unauthorized_client")


@pytest.mark.requirement("attack-15")
def test_bypass_stolen_attestation_and_token_without_the_key_exchange_nothing(
    stack: Stack, agent: TestAgent
) -> None:
    witness = Witness(stack)
    form = {
        "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
        "client_assertion": agent.attestation(),
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": agent.tokens["crm"],
        "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "resource": stack.crm_url,
    }
    answer = stack.http.post(f"{stack.issuer}/oauth/token", data=form)
    assert_refused(answer, "invalid_dpop_proof")
    witness.event("exchange.refused", agent="support-bot", error_code="invalid_dpop_proof")


@pytest.mark.requirement("attack-6")
def test_bypass_agent_presents_its_token_at_the_target_control_and_admin_is_refused(
    stack: Stack, agent: TestAgent
) -> None:
    token = agent.tokens["crm"]
    doors = (
        ("POST", stack.crm_url, stack.crm_url),
        ("GET", f"{stack.issuer}/control/v1/snapshot", f"{stack.issuer}/control/v1/snapshot"),
        ("GET", f"{stack.issuer}/admin/v1/objects", f"{stack.issuer}/admin/v1/objects"),
    )
    for method, url, htu in doors:
        for headers in (
            agent.headers(method, htu, token),
            {"authorization": f"Bearer {token}"},
        ):
            answer = stack.http.request(method, url, headers=headers)
            assert answer.status_code in {401, 403}, (url, answer.text)


# --- a gateway -----------------------------------------------------------------------------------


def test_bypass_twin_gateway_exchanges_a_token_of_its_own_endpoint(
    stack: Stack, agent: TestAgent, gateway: TestGateway
) -> None:
    witness = Witness(stack)
    answer = gateway.exchange(agent.tokens["crm"], scope="mcp:tools")
    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "Bearer"
    event = witness.event("token.exchanged", target_service="crm")
    assert event["agent"] == "support-bot"
    assert event["actor_chain"]


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("changes", "code", "rule"),
    [
        ({"resource": "NOTES"}, "invalid_target", "exchange.resource"),
        ({"resource": "LEDGER"}, "invalid_target", "exchange.resource"),
        ({"resource": LEDGER_AUDIENCE}, "invalid_target", "exchange.resource"),
        ({"resource": "ENDPOINT"}, "invalid_target", "token.resource"),
        ({"resource": "ADMIN"}, "invalid_target", "token.resource"),
        ({"resource": "CONTROL"}, "invalid_target", "exchange.resource"),
        ({"resource": None}, "invalid_target", "exchange.resource_count"),
        ({"resource": ["CRM", "NOTES"]}, "invalid_target", "exchange.resource_count"),
        ({"audience": "CRM"}, "invalid_target", "token.audience"),
        ({"scope": "mcp:tools mcp:admin"}, "invalid_scope", "exchange.scope_widened"),
        ({"scope": "mcp:discover"}, "invalid_scope", "exchange.scope_widened"),
        ({"actor_token": "TOKEN"}, "invalid_request", "exchange.actor_token"),
        ({"actor_token_type": TOKEN_TYPE_JWT}, "invalid_request", "exchange.actor_token"),
        (
            {"authorization_details": None},
            "invalid_authorization_details",
            "exchange.details_missing",
        ),
        ({"requested_token_type": TOKEN_TYPE_STATIC_SECRET}, "invalid_request", "token_type"),
        ({"subject_token_type": TOKEN_TYPE_JWT}, "invalid_request", "exchange.subject_type"),
        (
            {"detail": {"tool": "refund"}},
            "invalid_authorization_details",
            "exchange.detail_widened",
        ),
        (
            {"detail": {"server": "notes", "tool": "search"}},
            "invalid_authorization_details",
            "exchange.detail_server",
        ),
        (
            {"detail": DISCOVERY},
            "invalid_authorization_details",
            "exchange.detail_form",
        ),
    ],
)
def test_bypass_gateway_asks_for_more_than_the_token_names_is_refused_and_audited(
    agent: TestAgent,
    gateway: TestGateway,
    changes: dict[str, Any],
    code: str,
    rule: str,
) -> None:
    stack = agent.stack
    values = {
        "CRM": stack.crm_url,
        "NOTES": stack.notes_url,
        "LEDGER": LEDGER_URL,
        "ENDPOINT": stack.endpoint("crm"),
        "ADMIN": f"{stack.issuer}/admin",
        "CONTROL": f"{stack.issuer}/control/v1",
        "TOKEN": agent.tokens["crm"],
    }
    filled: dict[str, Any] = {
        name: [values[each] for each in value]
        if isinstance(value, list)
        else values.get(value, value)
        if isinstance(value, str)
        else value
        for name, value in changes.items()
    }
    witness = Witness(stack)
    assert_refused(gateway.exchange(agent.tokens["crm"], **filled), code)
    event = witness.event("exchange.refused", says=rule)
    assert event["client_id"] == "gateway:main"
    assert event["error_code"] == code


@pytest.mark.requirement("attack-16")
def test_bypass_gateway_presents_a_token_of_another_gateways_endpoint_is_refused(
    stack: Stack, gateway: TestGateway, second: TestGateway
) -> None:
    agent = TestAgent(stack)
    url, pending = agent.authorization_url("crm", TOOLS, resource=f"{OTHER_BASE_URL}/crm/mcp")
    code = _login(url)
    answer = agent.token_request(agent.redemption(pending | {"code": code}))
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    witness = Witness(stack)
    assert_refused(gateway.exchange(token), "invalid_request")
    event = witness.event("exchange.refused", says="exchange.subject_audience")
    assert event["client_id"] == "gateway:main"
    # Its own gateway may; and may not with a token of ours.
    assert second.exchange(token).status_code == 200
    agent.token_for("alice", "crm", TOOLS)
    assert_refused(second.exchange(agent.tokens["crm"]), "invalid_request")


@pytest.mark.requirement("attack-16")
def test_bypass_gateway_presents_its_control_token_for_a_call_is_refused(
    stack: Stack, agent: TestAgent, gateway: TestGateway
) -> None:
    witness = Witness(stack)
    assert_refused(gateway.exchange(gateway.control_token()), "invalid_authorization_details")
    witness.event("exchange.refused", says="exchange.detail_form")
    # An agent's token in turn is no licence to discover.
    answer = gateway.discover("crm", stack.crm_url, agent.tokens["crm"])
    assert_refused(answer, "invalid_authorization_details")


@pytest.mark.requirement("attack-16")
def test_bypass_gateway_discovers_a_server_of_another_gateway_is_refused(
    stack: Stack, gateway: TestGateway, second: TestGateway
) -> None:
    assert second.discover("ledger", LEDGER_URL).status_code == 200
    witness = Witness(stack)
    assert_refused(gateway.discover("ledger", LEDGER_URL), "invalid_target")
    witness.event("exchange.refused", says="exchange.resource", client_id="gateway:main")
    assert gateway.discover("crm", stack.crm_url).status_code == 200


@pytest.mark.requirement("attack-16")
def test_bypass_gateway_discovers_with_the_control_token_of_another_is_refused(
    stack: Stack, gateway: TestGateway, second: TestGateway
) -> None:
    witness = Witness(stack)
    answer = gateway.discover("crm", stack.crm_url, second.control_token())
    assert_refused(answer, "invalid_request")
    witness.event("exchange.refused", says="exchange.discovery_subject", client_id="gateway:main")


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("what", WHAT)
def test_bypass_gateway_asks_by_client_credentials_gets_control_alone(
    stack: Stack, gateway: TestGateway, what: str
) -> None:
    answer = gateway.client_credentials(named(stack, what))
    if what == "control":
        assert answer.status_code == 200
        assert answer.json()["token_type"] == "DPoP"
    else:
        assert_refused(answer, "invalid_target")


@pytest.mark.requirement("attack-16")
def test_bypass_gateway_exchanges_a_target_token_again_is_refused(
    stack: Stack, agent: TestAgent, gateway: TestGateway
) -> None:
    target = gateway.exchange(agent.tokens["crm"]).json()["access_token"]
    witness = Witness(stack)
    assert_refused(gateway.exchange(target), "invalid_request")
    witness.event("exchange.refused", says="exchange.subject_audience")


@pytest.mark.requirement("attack-18")
def test_bypass_gateway_of_one_name_with_the_key_of_another_is_refused(
    stack: Stack, agent: TestAgent, second: TestGateway
) -> None:
    witness = Witness(stack)
    impostor = TestGateway(stack, "main", second.key)
    assert_refused(impostor.exchange(agent.tokens["crm"]), "invalid_client", 401)
    witness.event("exchange.refused", error_code="invalid_client")


# --- how --------------------------------------------------------------------------------------


def _redirect(url: str) -> httpx2.URL:
    """Where the authorization endpoint sends a browser without a session."""
    browser = Browser(stop_at=CALLBACK)
    try:
        answer = browser.open(url)
    finally:
        browser.close()
    assert isinstance(answer, str), answer
    return httpx2.URL(answer)


def _login(url: str) -> str:
    browser = Browser(stop_at=CALLBACK)
    try:
        redirect, _ = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
    finally:
        browser.close()
    return httpx2.URL(redirect).params["code"]
