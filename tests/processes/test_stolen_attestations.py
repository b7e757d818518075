"""A stolen or forged proof of what somebody is gets no token: attestations, assertions, proofs.

Forged ones are signed by the authority's real keys (`tests.forging`) and wrong in one respect;
each kind has its accepted twin, and a wrong request never burns the code it tried.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import httpx2
import pytest

from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.store.codes import CODE_LIFETIME_SECONDS
from compose.demo.stack import Stack
from tests.forging import Forge, Keys, SigningKey, part, saying, signed, unsigned, without
from tests.gateways import TestGateway, now
from tests.stack import TestAgent
from tests.witness import Witness
from token_exchange.token_types import (
    ACCESS_TOKEN_TYP,
    ATTESTATION_TYP,
    CLIENT_ASSERTION_JWT_BEARER,
    CLIENT_ASSERTION_TYP,
)

pytestmark = pytest.mark.processes

TOOLS: Final = ["get_account", "list_hours"]


@pytest.fixture
def pending(agent: TestAgent) -> dict[str, str]:
    """What only a client may redeem: a code of Alice's."""
    return agent.redemption(agent.code("alice", "crm", TOOLS))


@pytest.fixture(scope="module")
def unspent(agent: TestAgent) -> Callable[[], dict[str, str]]:
    """The same for requests that must not use a code up: one serves many, while it is fresh."""
    kept: list[tuple[float, dict[str, str]]] = []

    def fresh() -> dict[str, str]:
        if not kept or time.monotonic() - kept[-1][0] > CODE_LIFETIME_SECONDS / 2:
            form = agent.redemption(agent.code("alice", "crm", TOOLS))
            kept.append((time.monotonic(), form))
        return kept[-1][1]

    return fresh


def assert_no_client(answer: httpx2.Response) -> None:
    """RFC 6749 §5.2: no token, and one sentence for every cause."""
    assert (answer.status_code, answer.json()) == (
        401,
        {"error": "invalid_client", "error_description": "Client authentication failed."},
    )
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.requirement("attack-15")
def test_stolen_attestation_with_another_key_is_refused_and_the_code_survives(
    stack: Stack, agent: TestAgent, pending: dict[str, str]
) -> None:
    stolen = agent.attestation()
    thief = TestAgent(stack)
    witness = Witness(stack)
    answer = thief.token_request(pending, assertion=stolen)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), answer.text
    witness.event("token.refused", says="client.key", agent="support-bot")
    assert agent.token_request(pending, assertion=stolen).status_code == 200


@pytest.mark.requirement("attack-15")
def test_stolen_attestation_without_a_proof_is_refused(
    stack: Stack, agent: TestAgent, pending: dict[str, str]
) -> None:
    own = {
        "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
        "client_assertion": agent.attestation(),
    }
    witness = Witness(stack)
    url = f"{stack.issuer}/oauth/token"
    for headers in ({}, {"dpop": ""}):
        answer = stack.http.post(url, data=own | pending, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    witness.event("token.refused", says="dpop.missing")
    witness.event("token.refused", says="dpop.header_count")
    proof = agent.key.proof("POST", url)
    assert stack.http.post(url, data=own | pending, headers={"dpop": proof}).status_code == 200


@pytest.mark.requirement("attack-15")
def test_stolen_proof_with_a_fresh_attestation_is_refused_the_second_time(
    stack: Stack, agent: TestAgent, pending: dict[str, str]
) -> None:
    proof = agent.key.proof("POST", f"{stack.issuer}/oauth/token")
    assert agent.token_request(pending, proof=proof).status_code == 200
    again = agent.redemption(agent.code("alice", "crm", TOOLS))
    witness = Witness(stack)
    answer = agent.token_request(again, proof=proof)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    witness.event("token.refused", says="replay.dpop", agent="support-bot")
    assert agent.token_request(again).status_code == 200


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/oauth/token", "dpop.method"),
        ("POST", "/oauth/authorize", "dpop.uri"),
        ("POST", "/crm/mcp", "dpop.uri"),
    ],
)
def test_stolen_proof_for_another_request_is_refused_at_the_token_endpoint(
    agent: TestAgent, pending: dict[str, str], method: str, path: str, rule: str
) -> None:
    stack = agent.stack
    witness = Witness(stack)
    answer = agent.token_request(pending, proof=agent.key.proof(method, f"{stack.issuer}{path}"))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    witness.event("token.refused", says=rule)
    assert agent.token_request(pending).status_code == 200


@pytest.mark.requirement("attack-5")
def test_stolen_attestation_used_twice_is_refused_the_second_time(
    stack: Stack, agent: TestAgent, pending: dict[str, str]
) -> None:
    assertion = agent.attestation()
    assert agent.token_request(pending, assertion=assertion).status_code == 200
    again = agent.redemption(agent.code("alice", "crm", TOOLS))
    witness = Witness(stack)
    answer = agent.token_request(again, assertion=assertion)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    witness.event("token.refused", says="replay.attestation", agent="support-bot")
    assert agent.token_request(again).status_code == 200


def _attestation(**header: Any) -> Forge:
    return signed(KeyPurpose.ATTESTATION, **{"typ": ATTESTATION_TYP} | header)


def _attesting(**changes: Any) -> Forge:
    return saying(KeyPurpose.ATTESTATION, ATTESTATION_TYP, **changes)


@pytest.mark.requirement("attack-1")
@pytest.mark.requirement("attack-2")
@pytest.mark.requirement("attack-5")
@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    ("forge", "rule"),
    [
        pytest.param(
            lambda _keys, claims: unsigned({"typ": ATTESTATION_TYP}, claims, "AAAA"),
            "jwt.algorithm",
            id="alg none",
        ),
        pytest.param(
            lambda keys, claims: keys[KeyPurpose.ATTESTATION].sign_hs256(
                {"typ": ATTESTATION_TYP}, claims, "pem"
            ),
            "jwt.algorithm",
            id="HS256 with the public key as PEM",
        ),
        pytest.param(
            lambda keys, claims: keys[KeyPurpose.ATTESTATION].sign_hs256(
                {"typ": ATTESTATION_TYP}, claims, "jwk"
            ),
            "jwt.algorithm",
            id="HS256 with the public key as JWK",
        ),
        pytest.param(_attestation(alg="ES384"), "jwt.algorithm", id="another algorithm"),
        pytest.param(_attestation(jku="http://127.0.0.1:9/k"), "jwt.header", id="jku"),
        pytest.param(_attestation(x5u="http://127.0.0.1:9/k"), "jwt.header", id="x5u"),
        pytest.param(_attestation(crit=["exp"]), "jwt.header", id="crit"),
        pytest.param(_attestation(b64=False, crit=["b64"]), "jwt.header", id="b64"),
        pytest.param(_attestation(kid="../../etc/passwd"), "jwt.key", id="kid is a path"),
        pytest.param(_attestation(kid="' OR 1=1 --"), "jwt.key", id="kid is SQL"),
        pytest.param(_attestation(typ="JWT"), "jwt.type", id="typ JWT"),
        pytest.param(_attestation(typ=ACCESS_TOKEN_TYP), "jwt.type", id="typ of an access token"),
        pytest.param(
            lambda keys, claims: keys[KeyPurpose.TOKENS].sign({"typ": ATTESTATION_TYP}, claims),
            "jwt.key",
            id="signed by the key of tokens",
        ),
        pytest.param(
            lambda keys, claims: SigningKey.new(keys[KeyPurpose.ATTESTATION].key_id).sign(
                {"typ": ATTESTATION_TYP}, claims
            ),
            "jwt.signature",
            id="signed by a thief under the right kid",
        ),
        pytest.param(
            _attesting(aud="http://127.0.0.1:9"), "jwt.audience", id="for another authority"
        ),
        pytest.param(
            _attesting(aud=lambda claims: [claims["aud"], "http://127.0.0.1:9"]),
            "jwt.audience",
            id="for several",
        ),
        pytest.param(
            _attesting(aud=lambda claims: f"{claims['aud']}/oauth/token"),
            "jwt.audience",
            id="for the endpoint",
        ),
        pytest.param(
            _attesting(iss=lambda claims: f"{claims['iss']}-of-another"),
            "client.unknown",
            id="by another trust provider",
        ),
        pytest.param(
            _attesting(iss="support-bot", sub="support-bot"), "jwt.type", id="by the client itself"
        ),
        pytest.param(
            _attesting(
                iat=lambda claims: claims["iat"] - 120, exp=lambda claims: claims["iat"] - 65
            ),
            "jwt.expired",
            id="expired",
        ),
        pytest.param(
            _attesting(exp=lambda claims: claims["iat"] + 3600), "jwt.lifetime", id="exp too far"
        ),
        pytest.param(_attesting(exp=None), "jwt.missing", id="no exp"),
        pytest.param(
            _attesting(exp=lambda claims: float(claims["exp"])), "jwt.claim", id="float exp"
        ),
        pytest.param(_attesting(exp=lambda claims: str(claims["exp"])), "jwt.claim", id="text exp"),
        pytest.param(_attesting(exp=float("nan")), "jwt.payload", id="NaN exp"),
        pytest.param(_attesting(nbf=lambda claims: claims["iat"] + 300), "jwt.future", id="nbf"),
        pytest.param(_attesting(jti=None), "jwt.missing", id="no jti"),
        pytest.param(_attesting(cnf=None), "jwt.missing", id="bound to no key"),
        pytest.param(
            _attesting(cnf=lambda _claims: {"jkt": "short"}), "attestation.key", id="no thumbprint"
        ),
        pytest.param(
            _attesting(evidence=lambda claims: claims["evidence"] | {"unix.uid": "4711"}),
            "",
            id="of another user",
        ),
        pytest.param(_attesting(level=3), "attestation.shape", id="above its level"),
    ],
)
def test_stolen_attestation_forged_is_no_client_and_audited(
    agent: TestAgent, unspent: Callable[[], dict[str, str]], keys: Keys, forge: Forge, rule: str
) -> None:
    forged = forge(keys, part(agent.attestation(), 1))
    witness = Witness(agent.stack)
    assert_no_client(agent.token_request(unspent(), assertion=forged))
    witness.event("token.refused", says=rule, error_code="invalid_client")


def test_stolen_attestation_twin_forged_with_nothing_wrong_is_accepted(
    agent: TestAgent, unspent: Callable[[], dict[str, str]], keys: Keys
) -> None:
    """With a code that many of the others were refused with: none of them has burnt it."""
    code = unspent()
    wrong = _attestation(typ="JWT")(keys, part(agent.attestation(), 1))
    assert_no_client(agent.token_request(code, assertion=wrong))
    forged = _attestation()(keys, part(agent.attestation(), 1))
    assert agent.token_request(code, assertion=forged).status_code == 200


@pytest.mark.requirement("attack-6")
def test_stolen_tokens_of_other_kinds_are_no_attestation(
    stack: Stack, agent: TestAgent, pending: dict[str, str]
) -> None:
    gateway = TestGateway.running(stack)
    others = {
        "an access token": agent.tokens["crm"],
        "a proof": agent.key.proof("POST", f"{stack.issuer}/oauth/token"),
        "a control token": gateway.control_token(),
        "a gateway's assertion, for another client": gateway.assertion(),
    }
    for name, other in others.items():
        witness = Witness(stack)
        answer = agent.token_request(pending, assertion=other)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), name
        witness.event("token.refused", error_code="invalid_client")
    assert agent.token_request(pending).status_code == 200


@pytest.mark.requirement("attack-18")
def test_stolen_code_without_client_authentication_is_refused(
    stack: Stack, agent: TestAgent, pending: dict[str, str]
) -> None:
    witness = Witness(stack)
    url = f"{stack.issuer}/oauth/token"
    proof = agent.key.proof("POST", url)
    form = {"client_id": "support-bot"} | pending
    answer = stack.http.post(url, data=form, headers={"dpop": proof})
    assert_no_client(answer)
    witness.event("token.refused", says="client.method")
    # RFC 6749 §5.2: an Authorization header that fails is challenged.
    answer = stack.http.post(
        url, data=pending, headers={"dpop": agent.key.proof("POST", url)}, auth=("support-bot", "x")
    )
    assert_no_client(answer)
    assert answer.headers["www-authenticate"]
    assert agent.token_request(pending).status_code == 200


# --- a gateway's assertion ----------------------------------------------------------------------


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        pytest.param({"aud": "http://127.0.0.1:9"}, "jwt.audience", id="for another authority"),
        pytest.param({"aud": ["x", "y"]}, "jwt.audience", id="for several"),
        pytest.param({"sub": "gateway:second"}, "client.subject", id="another subject"),
        pytest.param({"exp": 3600}, "jwt.lifetime", id="exp too far"),
        pytest.param({"exp": -60, "iat": -120}, "jwt.expired", id="expired"),
        pytest.param({"jti": None}, "jwt.missing", id="no jti"),
        pytest.param({"iat": 60}, "jwt.future", id="from the future"),
    ],
)
def test_stolen_gateway_assertion_that_is_wrong_is_no_client(
    stack: Stack, agent: TestAgent, changes: dict[str, Any], rule: str
) -> None:
    gateway = TestGateway.running(stack)
    assert gateway.exchange(agent.tokens["crm"]).status_code == 200
    witness = Witness(stack)
    signer = SigningKey.of(gateway.key._key, gateway.key.thumbprint)
    claims = part(gateway.assertion(), 1)
    moved = {
        name: now() + value if isinstance(value, int) else value for name, value in changes.items()
    }
    wrong = without(claims | moved, *(name for name in moved if moved[name] is None))
    forged = signer.sign({"typ": CLIENT_ASSERTION_TYP}, wrong)
    assert_no_client(gateway.exchange(agent.tokens["crm"], assertion=forged))
    witness.event("exchange.refused", says=rule, error_code="invalid_client")


@pytest.mark.requirement("attack-5")
def test_stolen_gateway_assertion_used_twice_is_refused_the_second_time(
    stack: Stack, agent: TestAgent
) -> None:
    gateway = TestGateway.running(stack)
    assertion = gateway.assertion()
    token = agent.tokens["crm"]
    assert gateway.exchange(token, assertion=assertion).status_code == 200
    witness = Witness(stack)
    answer = gateway.exchange(token, assertion=assertion)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    witness.event("exchange.refused", says="replay.", client_id="gateway:main")
