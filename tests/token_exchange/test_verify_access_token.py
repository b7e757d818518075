"""Rungs 7 to 12 of an access token of ours: claims, issuer, audience, times, shape."""

import json

import pytest

from tests.token_exchange.signing import (
    ENDPOINT,
    ISSUER,
    KEY_ID,
    KEYS,
    NOW,
    STRANGER,
    access_token,
    access_token_claims,
    access_token_header,
    sign,
    sign_bytes,
    without,
)
from tests.token_exchange.verdicts import detail_of, rule_of, verified_token
from token_exchange.claims import Refusal, VerifiedClaims
from token_exchange.verify import verify_access_token


def chain_of(depth: int) -> dict[str, object] | None:
    chain: dict[str, object] | None = None
    for number in range(depth):
        actor: dict[str, object] = {"iss": "i", "sub": f"s{number}", "sub_profile": "ai_agent"}
        chain = {**actor, "act": chain}
    return chain


@pytest.mark.requirement("RFC9068-4")
def test_access_token_of_ours_is_verified() -> None:
    result = verified_token(access_token())

    assert isinstance(result, VerifiedClaims)
    assert result.key_id == KEY_ID
    assert result.token.sub == "usr_alice"
    assert result.token.act is not None
    assert result.token.act.agent == "support-bot"
    assert result.token.authorization_details[0].tools == ("get_*",)


def test_access_token_that_is_no_jws_is_refused_as_asked() -> None:
    refusal = verify_access_token(
        "x", keys=KEYS, issuer=ISSUER, audiences=(ENDPOINT,), now=NOW, refuse_as="invalid_request"
    )

    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.rule) == ("invalid_request", "jws.form")


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize("payload", [b"[]", b"null", b"{", b'{"a":' * 40 + b"1" + b"}" * 40])
def test_access_token_with_a_payload_that_is_no_plain_object_is_refused(payload: bytes) -> None:
    token = sign_bytes(json.dumps(access_token_header()).encode(), payload)

    assert rule_of(verified_token(token)) == "jwt.payload"


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize("name", ["exp", "iat", "jti", "sub"])
def test_access_token_without_a_required_claim_is_refused(name: str) -> None:
    token = sign(access_token_header(), without(access_token_claims(), name))

    result = verified_token(token)

    assert rule_of(result) == "jwt.missing"
    assert detail_of(result) == name


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize("name", ["client_id", "sub_profile"])
def test_access_token_without_a_claim_of_its_shape_is_refused(name: str) -> None:
    token = sign(access_token_header(), without(access_token_claims(), name))

    result = verified_token(token)

    assert rule_of(result) == "jwt.shape"
    assert detail_of(result) == f"Object missing required field `{name}`"


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "literal",
    [
        "1800000000.0",
        "1.8e9",
        '"1800000000"',
        "true",
        "false",
        "null",
        "[1800000000]",
        "-1",
        "253402300800",
        "1" + "0" * 400,
    ],
)
def test_access_token_with_a_time_that_is_no_plain_integer_is_refused(
    name: str, literal: str
) -> None:
    claims = json.dumps({**access_token_claims(), name: "HERE"}).replace('"HERE"', literal)
    token = sign_bytes(json.dumps(access_token_header()).encode(), claims.encode())

    result = verified_token(token)

    assert rule_of(result) == "jwt.claim"
    assert detail_of(result) == name


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_access_token_with_a_time_that_is_no_number_is_refused(literal: str) -> None:
    claims = json.dumps({**access_token_claims(), "exp": "HERE"}).replace('"HERE"', literal)
    token = sign_bytes(json.dumps(access_token_header()).encode(), claims.encode())

    assert rule_of(verified_token(token)) == "jwt.payload"


@pytest.mark.parametrize("name", ["iss", "sub", "jti"])
@pytest.mark.parametrize("value", ["", None, 7, ["x"]])
def test_access_token_with_a_text_claim_that_is_no_text_is_refused(
    name: str, value: object
) -> None:
    result = verified_token(access_token(**{name: value}))

    assert rule_of(result) == "jwt.claim"
    assert detail_of(result) == name


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize("issuer", [f"{ISSUER}/", "http://127.0.0.1:8701", ISSUER.upper()])
def test_access_token_of_another_issuer_is_refused(issuer: str) -> None:
    assert rule_of(verified_token(access_token(iss=issuer))) == "jwt.issuer"


@pytest.mark.requirement("attack-6")
def test_access_token_without_issuer_is_refused() -> None:
    token = sign(access_token_header(), without(access_token_claims(), "iss"))

    assert rule_of(verified_token(token)) == "jwt.issuer"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "audience",
    [
        "http://127.0.0.1:8701/notes/mcp",
        f"{ENDPOINT}/",
        ENDPOINT[:-1],
        ENDPOINT.upper(),
        "",
        None,
        [ENDPOINT],
        [ENDPOINT, "http://other"],
        {ENDPOINT: 1},
    ],
)
def test_access_token_for_another_audience_is_refused(audience: object) -> None:
    assert rule_of(verified_token(access_token(aud=audience))) == "jwt.audience"


@pytest.mark.requirement("attack-16")
def test_access_token_without_audience_is_refused() -> None:
    token = sign(access_token_header(), without(access_token_claims(), "aud"))

    assert rule_of(verified_token(token)) == "jwt.audience"


@pytest.mark.requirement("attack-16")
def test_access_token_audiences_given_as_one_text_do_not_match_its_parts() -> None:
    def verified(audience: str) -> VerifiedClaims | Refusal:
        return verify_access_token(
            access_token(aud=audience), keys=KEYS, issuer=ISSUER, audiences=ENDPOINT, now=NOW
        )

    assert rule_of(verified(ENDPOINT[:-4])) == "jwt.audience"
    assert isinstance(verified(ENDPOINT), VerifiedClaims)


@pytest.mark.parametrize(
    ("changes", "now", "rule"),
    [
        ({}, NOW + 899, None),
        ({}, NOW + 900, "jwt.expired"),  # our own clocks: `exp` is exact
        ({}, NOW - 5, None),
        ({}, NOW - 6, "jwt.future"),
        ({"nbf": NOW + 5}, NOW, None),
        ({"nbf": NOW + 6}, NOW, "jwt.future"),
        ({"iat": NOW + 5, "exp": NOW + 20}, NOW, None),
        ({"iat": NOW + 6, "exp": NOW + 20}, NOW, "jwt.future"),
        ({"exp": NOW + 900}, NOW, None),
        ({"exp": NOW + 901}, NOW, "jwt.lifetime"),
        ({"iat": NOW - 800, "exp": NOW + 101}, NOW, "jwt.lifetime"),
        ({"exp": 253_402_300_799}, NOW, "jwt.lifetime"),
        ({"iat": 0, "nbf": 0, "exp": 0}, NOW, "jwt.expired"),
    ],
)
@pytest.mark.requirement("attack-5")
@pytest.mark.requirement("attack-27")
def test_access_token_times_are_bounded(
    changes: dict[str, int], now: int, rule: str | None
) -> None:
    assert rule_of(verified_token(access_token(**changes), now)) == rule


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": ["mcp:tools"]},
        {"act": {"sub": "x"}},
        {"act": []},
        {"cnf": {}},
        {"cnf": "x"},
        {"authorization_details": {}},
        {"authorization_details": [{"type": "mcp_tool", "server": "crm", "datatypes": []}]},
        {
            "attn": {
                "provider": "p",
                "method": "m",
                "level": True,
                "iat": 0,
                "exp": 0,
                "evidence": "",
            }
        },
        {"uctx": {"groups": "all"}},
    ],
)
def test_access_token_of_another_shape_is_refused(changes: dict[str, object]) -> None:
    assert rule_of(verified_token(access_token(**changes))) == "jwt.shape"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(("depth", "rule"), [(1, None), (4, None), (5, "jwt.actors")])
def test_access_token_actor_chain_is_bounded(depth: int, rule: str | None) -> None:
    assert rule_of(verified_token(access_token(act=chain_of(depth)))) == rule


@pytest.mark.requirement("attack-17")
def test_access_token_unknown_claims_say_nothing() -> None:
    result = verified_token(access_token(may_act={"sub": "x"}, act_as="admin"))

    assert result == verified_token(access_token())


@pytest.mark.parametrize(
    ("changes", "now", "rule"),
    [
        ({}, NOW, None),
        ({}, NOW + 900, None),
        ({}, NOW + 10_000_000, None),
        ({}, NOW - 6, "jwt.future"),
        ({"nbf": NOW + 905}, NOW + 10_000_000, "jwt.future"),
        ({"exp": NOW + 901}, NOW + 10_000_000, "jwt.lifetime"),
        ({"aud": "x"}, NOW + 10_000_000, "jwt.audience"),
    ],
)
def test_access_token_taken_even_expired_is_held_to_all_the_rest(
    changes: dict[str, object], now: int, rule: str | None
) -> None:
    result = verify_access_token(
        access_token(**changes),
        keys=KEYS,
        issuer=ISSUER,
        audiences=(ENDPOINT,),
        now=now,
        even_expired=True,
    )

    assert rule_of(result) == rule


def test_access_token_refusals_have_the_bearer_code_unless_asked() -> None:
    text = "The token has expired."

    assert verified_token(access_token(), NOW + 900) == Refusal(
        "invalid_token", text, text, "jwt.expired"
    )


@pytest.mark.parametrize(
    ("token", "rule"),
    [
        ("x", "jws.form"),
        (sign(access_token_header(alg="none"), access_token_claims()), "jwt.algorithm"),
        (sign(access_token_header(jku="x"), access_token_claims()), "jwt.header"),
        (sign(access_token_header(typ="x"), access_token_claims()), "jwt.type"),
        (sign(access_token_header(kid="x"), access_token_claims()), "jwt.key"),
        (sign(access_token_header(), access_token_claims(), STRANGER), "jwt.signature"),
        (sign_bytes(json.dumps(access_token_header()).encode(), b"[]"), "jwt.payload"),
        (sign(access_token_header(), {}), "jwt.missing"),
        (access_token(jti=7), "jwt.claim"),
        (access_token(exp=True), "jwt.claim"),
        (access_token(iss="x"), "jwt.issuer"),
        (access_token(aud="x"), "jwt.audience"),
        (access_token(exp=1), "jwt.expired"),
        (access_token(nbf=NOW + 99), "jwt.future"),
        (access_token(exp=NOW + 9999), "jwt.lifetime"),
        (access_token(scope=7), "jwt.shape"),
        (access_token(act=chain_of(5)), "jwt.actors"),
    ],
)
def test_access_token_every_refusal_has_the_code_asked_for(token: str, rule: str) -> None:
    refusal = verify_access_token(
        token, keys=KEYS, issuer=ISSUER, audiences=(ENDPOINT,), now=NOW, refuse_as="some_code"
    )

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.code) == (rule, "some_code")
