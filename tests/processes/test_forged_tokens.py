"""Access tokens that are wrong in one respect: refused by the gateway, and by the authority.

All are signed by the authority's real keys (`tests.forging`), so that nothing but the one respect
speaks against them; the twin shows that the same token without it is accepted by both.
"""

from typing import Any, Final

import pytest

from authz_server.issuing.signing_keys import KeyPurpose
from compose.demo.stack import Stack
from tests.challenges import assert_challenged
from tests.forging import Forge, Keys, SigningKey, part, saying, signed, unsigned
from tests.gateways import TestGateway
from tests.stack import TestAgent
from tests.witness import Witness
from token_exchange.token_types import ACCESS_TOKEN_TYP, ATTESTATION_TYP

pytestmark = pytest.mark.processes

TOOLS: Final = ["get_account"]


def _token(**header: Any) -> Forge:
    return signed(KeyPurpose.TOKENS, **{"typ": ACCESS_TOKEN_TYP} | header)


def _token_saying(**changes: Any) -> Forge:
    return saying(KeyPurpose.TOKENS, ACCESS_TOKEN_TYP, **changes)


def _expired(claims: dict[str, Any]) -> int:
    return int(claims["iat"]) - 1


# The last rows are about who presents a token: an exchange, by a gateway, is judged without them.
BEARERS_OWN: Final = 2
FORGED_TOKENS: Final[list[Any]] = [
    pytest.param(
        lambda _keys, claims: unsigned({"typ": ACCESS_TOKEN_TYP}, claims, "AAAA"),
        "jwt.algorithm",
        id="alg none",
    ),
    pytest.param(
        lambda _keys, claims: unsigned({"typ": ACCESS_TOKEN_TYP}, claims),
        "jws.form",
        id="alg none without a signature",
    ),
    pytest.param(
        lambda _keys, claims: unsigned({"typ": ACCESS_TOKEN_TYP, "alg": "nOnE"}, claims, "AAAA"),
        "jwt.algorithm",
        id="alg nOnE",
    ),
    pytest.param(
        lambda keys, claims: keys[KeyPurpose.TOKENS].sign_hs256(
            {"typ": ACCESS_TOKEN_TYP}, claims, "pem"
        ),
        "jwt.algorithm",
        id="HS256 with the public key as PEM",
    ),
    pytest.param(
        lambda keys, claims: keys[KeyPurpose.TOKENS].sign_hs256(
            {"typ": ACCESS_TOKEN_TYP}, claims, "jwk"
        ),
        "jwt.algorithm",
        id="HS256 with the public key as JWK",
    ),
    pytest.param(_token(alg="ES384"), "jwt.algorithm", id="another algorithm"),
    pytest.param(_token(kid="../../etc/passwd"), "jwt.key", id="kid is a path"),
    pytest.param(_token(kid="' OR 1=1 --"), "jwt.key", id="kid is SQL"),
    pytest.param(_token(kid="http://127.0.0.1:9/k"), "jwt.key", id="kid is a URL"),
    pytest.param(_token(jku="http://127.0.0.1:9/k"), "jwt.header", id="jku"),
    pytest.param(_token(x5u="http://127.0.0.1:9/k"), "jwt.header", id="x5u"),
    pytest.param(_token(x5c=["AAAA"]), "jwt.header", id="x5c"),
    pytest.param(
        lambda _keys, claims: _with_own_jwk(SigningKey.new(), claims), "jwt.header", id="jwk"
    ),
    pytest.param(_token(crit=["exp"]), "jwt.header", id="crit"),
    pytest.param(_token(b64=False, crit=["b64"]), "jwt.header", id="b64"),
    pytest.param(_token(typ="JWT"), "jwt.type", id="typ JWT"),
    pytest.param(_token(typ=ATTESTATION_TYP), "jwt.type", id="typ of an attestation"),
    pytest.param(
        lambda keys, claims: keys[KeyPurpose.ID_TOKENS].sign({"typ": ACCESS_TOKEN_TYP}, claims),
        "jwt.key",
        id="signed by the key of ID tokens",
    ),
    pytest.param(
        lambda keys, claims: keys[KeyPurpose.ATTESTATION].sign({"typ": ACCESS_TOKEN_TYP}, claims),
        "jwt.key",
        id="signed by the key of attestations",
    ),
    pytest.param(
        lambda keys, claims: SigningKey.new(keys[KeyPurpose.TOKENS].key_id).sign(
            {"typ": ACCESS_TOKEN_TYP}, claims
        ),
        "jwt.signature",
        id="signed by a thief under the right kid",
    ),
    pytest.param(_token_saying(iss="http://127.0.0.1:9"), "jwt.issuer", id="another issuer"),
    pytest.param(
        _token_saying(aud=lambda claims: [claims["aud"]]), "jwt.audience", id="array audience"
    ),
    pytest.param(_token_saying(aud=None), "jwt.audience", id="no audience"),
    pytest.param(
        _token_saying(exp=_expired, iat=lambda claims: claims["iat"] - 600),
        "jwt.expired",
        id="expired",
    ),
    pytest.param(_token_saying(exp=None), "jwt.missing", id="no exp"),
    pytest.param(
        _token_saying(exp=lambda claims: claims["iat"] + 86_400), "jwt.lifetime", id="exp too far"
    ),
    pytest.param(
        _token_saying(exp=lambda claims: float(claims["exp"])), "jwt.claim", id="float exp"
    ),
    pytest.param(_token_saying(exp=lambda claims: str(claims["exp"])), "jwt.claim", id="text exp"),
    pytest.param(_token_saying(exp=float("nan")), "jwt.payload", id="NaN exp"),
    pytest.param(_token_saying(nbf=lambda claims: claims["iat"] + 300), "jwt.future", id="nbf"),
    pytest.param(_token_saying(sub=None), "jwt.missing", id="no sub"),
    pytest.param(_token_saying(act=None), "principal is person", id="a person without an agent"),
    pytest.param(
        _token_saying(act=lambda claims: claims["act"] | {"agent": "root-bot"}),
        "unknown root-bot",
        id="an agent nobody declared",
    ),
    pytest.param(_token_saying(cnf=None), "not bound to a key", id="bound to no key"),
]


def _with_own_jwk(thief: SigningKey, claims: dict[str, Any]) -> str:
    public = thief.jwk.as_dict(private=False)
    return thief.sign({"typ": ACCESS_TOKEN_TYP, "jwk": public}, claims)


@pytest.mark.requirement("attack-1")
@pytest.mark.requirement("attack-2")
@pytest.mark.requirement("attack-5")
@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(("forge", "detail"), FORGED_TOKENS)
def test_forged_token_is_refused_by_the_gateway_and_audited(
    stack: Stack, agent: TestAgent, keys: Keys, forge: Forge, detail: str
) -> None:
    token = forge(keys, part(agent.tokens["crm"], 1))
    witness = Witness(stack)
    answer = agent.call("crm", "get_account", {"id": 17}, token=token)
    assert_challenged(answer, stack, "invalid_token")
    witness.event("caller.refused", says=detail, error_code="invalid_token")


@pytest.mark.requirement("attack-1")
@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(("forge", "detail"), FORGED_TOKENS[:-BEARERS_OWN])
def test_forged_token_is_refused_by_the_authority_as_a_subject_token(
    stack: Stack, agent: TestAgent, keys: Keys, forge: Forge, detail: str
) -> None:
    token = forge(keys, part(agent.tokens["crm"], 1))
    witness = Witness(stack)
    answer = TestGateway.running(stack).exchange(token)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), answer.text
    rule = "exchange.subject_form" if detail.startswith("principal") else detail
    witness.event("exchange.refused", says=rule, client_id="gateway:main")


def test_forged_token_twin_with_nothing_wrong_is_accepted_by_both(
    stack: Stack, agent: TestAgent, keys: Keys
) -> None:
    token = _token()(keys, part(agent.tokens["crm"], 1))
    assert agent.call("crm", "get_account", {"id": 17}, token=token).status_code == 200
    assert TestGateway.running(stack).exchange(token).status_code == 200
