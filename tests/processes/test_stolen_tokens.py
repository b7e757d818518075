"""What a thief has is worth nothing: tokens, proofs and attestations, at gateway and authority.

Forged tokens are signed by the authority's real keys (`tests.forging`), wrong in one respect only;
`test_…_twin_…` shows that the same forgery without that respect is accepted.
"""

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any, Final

import pytest

from compose.demo.stack import Stack
from tests.challenges import assert_challenged
from tests.forging import SigningKey, part
from tests.gateways import TestGateway
from tests.stack import TestAgent, in_parallel, mcp_headers, new_key, tool_call
from tests.witness import Witness

pytestmark = pytest.mark.processes

TOOLS: Final = ["get_account", "list_hours"]


@pytest.fixture(scope="module")
def agent(stack: Stack) -> TestAgent:
    """The victim: an agent with Alice's tokens for crm and notes."""
    agent = TestAgent(stack)
    agent.token_for("alice", "crm", TOOLS)
    agent.token_for("alice", "notes", ["search"])
    return agent


# --- a token at the gateway --------------------------------------------------------------------


@pytest.mark.requirement("attack-15")
def test_stolen_token_twin_with_its_key_and_a_fresh_proof_is_accepted(agent: TestAgent) -> None:
    answer = agent.call("crm", "get_account", {"id": 17})
    assert answer.status_code == 200
    assert not answer.json()["result"].get("isError")


def _no_proof(_agent: TestAgent, _url: str, token: str) -> dict[str, str]:
    return {"authorization": f"DPoP {token}"}


def _as_bearer(_agent: TestAgent, _url: str, token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _as_bearer_with_proof(agent: TestAgent, url: str, token: str) -> dict[str, str]:
    return agent.headers("POST", url, token) | {"authorization": f"Bearer {token}"}


def _thief_key(_agent: TestAgent, url: str, token: str) -> dict[str, str]:
    return {"authorization": f"DPoP {token}", "dpop": new_key().proof("POST", url, token)}


def _empty_proof(_agent: TestAgent, _url: str, token: str) -> dict[str, str]:
    return {"authorization": f"DPoP {token}", "dpop": ""}


def _proof_of(method: str, path: str) -> Callable[[TestAgent, str, str], dict[str, str]]:
    def headers(agent: TestAgent, url: str, token: str) -> dict[str, str]:
        other = url.replace("/crm/mcp", path)
        return {"authorization": f"DPoP {token}", "dpop": agent.key.proof(method, other, token)}

    return headers


def _other_token(agent: TestAgent, url: str, token: str) -> dict[str, str]:
    proof = agent.key.proof("POST", url, agent.tokens["notes"])
    return {"authorization": f"DPoP {token}", "dpop": proof}


def _no_token_hash(agent: TestAgent, url: str, token: str) -> dict[str, str]:
    return {"authorization": f"DPoP {token}", "dpop": agent.key.proof("POST", url)}


def _crafted(**changes: Any) -> Callable[[TestAgent, str, str], dict[str, str]]:
    """A proof by the agent's own key, with other claims or header parameters."""

    def headers(agent: TestAgent, url: str, token: str) -> dict[str, str]:
        good = agent.key.proof("POST", url, token)
        header, claims = part(good, 0), part(good, 1)
        header |= changes.get("header", {})
        claims |= {name: make(claims) for name, make in changes.get("claims", {}).items()}
        if changes.get("private"):
            header["jwk"] = agent.key.key.as_dict(private=True)
        signed = SigningKey.of(agent.key.key).sign(header, claims)
        return {"authorization": f"DPoP {token}", "dpop": signed}

    return headers


def _replaced_jwk(agent: TestAgent, url: str, token: str) -> dict[str, str]:
    """The agent's public key in the header, the thief's signature below it."""
    good = agent.key.proof("POST", url, token)
    signed = SigningKey.new("").sign(part(good, 0), part(good, 1))
    return {"authorization": f"DPoP {token}", "dpop": signed}


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("headers", "error", "detail"),
    [
        pytest.param(_no_proof, "invalid_dpop_proof", "no DPoP header", id="no proof"),
        pytest.param(_empty_proof, "invalid_dpop_proof", "jws.form", id="empty proof"),
        pytest.param(_as_bearer, "invalid_token", "DPoP scheme", id="plain Bearer"),
        pytest.param(
            _as_bearer_with_proof, "invalid_token", "DPoP scheme", id="Bearer with a good proof"
        ),
        pytest.param(_thief_key, "invalid_dpop_proof", "dpop.binding", id="another key"),
        pytest.param(_replaced_jwk, "invalid_dpop_proof", "dpop.signature", id="swapped jwk"),
        pytest.param(
            _proof_of("GET", "/crm/mcp"), "invalid_dpop_proof", "dpop.method", id="another method"
        ),
        pytest.param(
            _proof_of("POST", "/notes/mcp"), "invalid_dpop_proof", "dpop.uri", id="another url"
        ),
        pytest.param(
            _proof_of("POST", "/crm/mcp/"), "invalid_dpop_proof", "dpop.uri", id="longer url"
        ),
        pytest.param(_other_token, "invalid_dpop_proof", "dpop.token", id="another token"),
        pytest.param(_no_token_hash, "invalid_dpop_proof", "dpop.token", id="no ath"),
        pytest.param(
            _crafted(claims={"iat": lambda claims: claims["iat"] - 120}),
            "invalid_dpop_proof",
            "dpop.age",
            id="old",
        ),
        pytest.param(
            _crafted(claims={"iat": lambda claims: claims["iat"] + 120}),
            "invalid_dpop_proof",
            "dpop.age",
            id="from the future",
        ),
        pytest.param(
            _crafted(claims={"iat": lambda claims: float(claims["iat"])}),
            "invalid_dpop_proof",
            "dpop.claim",
            id="float iat",
        ),
        pytest.param(
            _crafted(private=True), "invalid_dpop_proof", "dpop.key", id="private key in the header"
        ),
        pytest.param(
            _crafted(header={"typ": "JWT"}), "invalid_dpop_proof", "dpop.type", id="another typ"
        ),
        pytest.param(
            _crafted(header={"alg": "none"}), "invalid_dpop_proof", "dpop.algorithm", id="alg none"
        ),
        pytest.param(
            _crafted(header={"crit": ["exp"], "exp": 1}),
            "invalid_dpop_proof",
            "dpop.header",
            id="crit",
        ),
        pytest.param(
            _crafted(header={"jku": "http://127.0.0.1:9/jwks"}),
            "invalid_dpop_proof",
            "dpop.header",
            id="jku",
        ),
    ],
)
def test_stolen_token_presented_in_a_wrong_way_is_refused_and_audited(
    stack: Stack,
    agent: TestAgent,
    headers: Callable[[TestAgent, str, str], dict[str, str]],
    error: str,
    detail: str,
) -> None:
    token = agent.tokens["crm"]
    witness = Witness(stack)
    own = headers(agent, stack.endpoint("crm"), token)
    answer = agent.call("crm", "get_account", {"id": 17}, headers=own)
    assert_challenged(answer, stack, error)
    event = witness.event("caller.refused", says=detail, error_code=error)
    assert event["presented_token_id"] == part(token, 1)["jti"]
    assert event["target_service"] == "crm"
    assert event["status"] == 401


@pytest.mark.requirement("attack-15")
def test_stolen_token_twin_crafted_proof_without_changes_is_accepted(
    stack: Stack, agent: TestAgent
) -> None:
    headers = _crafted()(agent, stack.endpoint("crm"), agent.tokens["crm"])
    assert agent.call("crm", "get_account", {"id": 17}, headers=headers).status_code == 200


@pytest.mark.requirement("attack-15")
def test_stolen_token_with_a_replayed_proof_is_refused_the_second_time(
    stack: Stack, agent: TestAgent
) -> None:
    headers = agent.headers("POST", stack.endpoint("crm"), agent.tokens["crm"])
    assert agent.call("crm", "get_account", {"id": 17}, headers=headers).status_code == 200
    witness = Witness(stack)
    answer = agent.call("crm", "get_account", {"id": 17}, headers=headers)
    assert_challenged(answer, stack, "invalid_dpop_proof")
    witness.event("caller.refused", says="replayed", error_code="invalid_dpop_proof")


@pytest.mark.requirement("attack-15")
def test_stolen_token_with_one_proof_twenty_times_at_once_is_accepted_once(
    stack: Stack, agent: TestAgent
) -> None:
    headers = agent.headers("POST", stack.endpoint("crm"), agent.tokens["crm"])
    answers = in_parallel(20, lambda: agent.call("crm", "get_account", {"id": 17}, headers=headers))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19


@pytest.mark.requirement("attack-15")
def test_stolen_token_with_two_proofs_is_refused(stack: Stack, agent: TestAgent) -> None:
    url = stack.endpoint("crm")
    witness = Witness(stack)
    headers = [
        *mcp_headers("tools/call", "get_account").items(),
        *agent.headers("POST", url, agent.tokens["crm"]).items(),
        ("dpop", new_key().proof("POST", url, agent.tokens["crm"])),
    ]
    body = tool_call("get_account", {"id": 17})
    answer = stack.http.post(url, json=body, headers=headers)
    assert_challenged(answer, stack, "invalid_dpop_proof")
    witness.event("caller.refused", says="repeated DPoP")


@pytest.mark.requirement("attack-16")
def test_stolen_token_of_another_endpoint_is_refused(stack: Stack, agent: TestAgent) -> None:
    token = agent.tokens["notes"]
    assert agent.call("notes", "search", {"text": "Q3"}).status_code == 200
    witness = Witness(stack)
    answer = agent.call("crm", "get_account", {"id": 17}, token=token)
    assert_challenged(answer, stack, "invalid_token")
    witness.event("caller.refused", says="jwt.audience", target_service="crm")


@pytest.mark.requirement("attack-6")
def test_stolen_token_of_a_target_or_of_control_is_refused_at_the_gateway(
    stack: Stack, agent: TestAgent
) -> None:
    gateway = TestGateway.running(stack)
    target = gateway.exchange(agent.tokens["crm"])
    assert target.status_code == 200
    for token in (target.json()["access_token"], gateway.control_token()):
        for scheme in ("DPoP", "Bearer"):
            witness = Witness(stack)
            headers = agent.headers("POST", stack.endpoint("crm"), token)
            headers["authorization"] = f"{scheme} {token}"
            answer = agent.call("crm", "get_account", {"id": 17}, headers=headers)
            assert_challenged(answer, stack, "invalid_token")
            witness.event("caller.refused", says="jwt.audience")


@pytest.mark.parametrize("name", ["access_token", "token", "authorization"])
def test_stolen_token_in_the_query_is_no_token(stack: Stack, agent: TestAgent, name: str) -> None:
    url = stack.endpoint("crm")
    token = agent.tokens["crm"]
    proof = {"dpop": agent.key.proof("POST", url, token)}
    witness = Witness(stack)
    answer = agent.call(
        "crm", "get_account", {"id": 17}, headers=proof, endpoint=f"{url}?{name}={token}"
    )
    assert_challenged(answer, stack, None)
    event = witness.event("caller.refused", error_code="no_token")
    assert token not in json.dumps(event)


def test_stolen_token_in_the_body_is_no_token(stack: Stack, agent: TestAgent) -> None:
    url = stack.endpoint("crm")
    token = agent.tokens["crm"]
    witness = Witness(stack)
    answer = stack.http.post(
        url, data={"access_token": token}, headers={"dpop": agent.key.proof("POST", url, token)}
    )
    assert answer.status_code in {401, 415}
    if answer.status_code == 401:
        witness.event("caller.refused", error_code="no_token")


def test_stolen_token_in_a_trailer_is_no_token(stack: Stack, agent: TestAgent) -> None:
    witness = Witness(stack)
    answer = _raw_call(agent, in_trailer=True)
    assert answer.startswith(b"HTTP/1.1 401 "), answer[:300]
    witness.event("caller.refused", error_code="no_token")


def test_stolen_token_twin_the_same_bytes_with_the_token_in_the_header_are_accepted(
    agent: TestAgent,
) -> None:
    answer = _raw_call(agent, in_trailer=False)
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]
    assert b"Ada Lovelace" in answer


@pytest.mark.requirement("attack-19")
def test_stolen_token_in_two_authorization_headers_is_refused(
    stack: Stack, agent: TestAgent
) -> None:
    url = stack.endpoint("crm")
    headers = [
        *mcp_headers("tools/call", "get_account").items(),
        *agent.headers("POST", url, agent.tokens["crm"]).items(),
        ("authorization", f"Bearer {agent.tokens['crm']}"),
    ]
    witness = Witness(stack)
    answer = stack.http.post(url, json=tool_call("get_account", {"id": 17}), headers=headers)
    assert answer.status_code == 400
    assert "www-authenticate" in answer.headers
    witness.event("caller.refused", error_code="invalid_request")


def _raw_call(agent: TestAgent, *, in_trailer: bool) -> bytes:
    """One chunked request on a socket of our own; token and proof before or after the body."""
    stack, url = agent.stack, agent.stack.endpoint("crm")
    credentials = agent.headers("POST", url, agent.tokens["crm"])
    body = json.dumps(tool_call("get_account", {"id": 17})).encode()
    common = {
        "host": f"127.0.0.1:{stack.ports.gateway}",
        "transfer-encoding": "chunked",
        "connection": "close",
        "te": "trailers",
        "trailer": "authorization, dpop",
    } | mcp_headers("tools/call", "get_account")
    first, last = (common, credentials) if in_trailer else (common | credentials, {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in first.items())
    trailers = "".join(f"{name}: {value}\r\n" for name, value in last.items())
    request = (
        f"POST /crm/mcp HTTP/1.1\r\n{lines}\r\n{len(body):x}\r\n".encode()
        + body
        + f"\r\n0\r\n{trailers}\r\n".encode()
    )
    received = b""
    with socket.create_connection(("127.0.0.1", stack.ports.gateway), 10) as connection:
        connection.settimeout(10)
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    return received
