"""Rungs 1 to 6: algorithm, header, `typ`, `kid` and signature, of tokens and of other documents."""

import json
from typing import Any

import pytest
from joserfc.jwk import OctKey
from joserfc.jws import JWSRegistry

from tests.token_exchange.signing import (
    KEY_ID,
    KEYS,
    SIGNER,
    STRANGER,
    access_token,
    access_token_claims,
    access_token_header,
    base64url,
    public_jwk,
    sign,
    without,
)
from tests.token_exchange.verdicts import ES256, rule_of, verified_token
from token_exchange.claims import Refusal, VerifiedClaims
from token_exchange.keys import VerificationKeys
from token_exchange.signed_jws import VerifiedJws, verify_jws


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize(
    "algorithm", ["none", "None", "HS256", "RS256", "ES384", "es256", "", None, ["ES256"], 7]
)
def test_access_token_with_another_algorithm_is_refused(algorithm: object) -> None:
    token = sign(access_token_header(alg=algorithm), access_token_claims())

    assert rule_of(verified_token(token)) == "jwt.algorithm"


@pytest.mark.requirement("attack-1")
def test_access_token_algorithm_is_judged_before_any_key() -> None:
    token = sign(access_token_header(alg="none", kid="unknown", jku="http://evil"), {})

    assert rule_of(verified_token(token)) == "jwt.algorithm"


@pytest.mark.requirement("attack-1")
def test_access_token_signed_hs256_with_our_public_key_is_refused() -> None:
    secret = OctKey.import_key(json.dumps(public_jwk(SIGNER)))
    header = base64url(json.dumps(access_token_header(alg="HS256")).encode())
    body = f"{header}.{base64url(json.dumps(access_token_claims()).encode())}"
    hs256 = JWSRegistry(algorithms=["HS256"]).get_alg("HS256")
    token = f"{body}.{base64url(hs256.sign(body.encode(), secret))}"

    assert rule_of(verified_token(token)) == "jwt.algorithm"
    listed = verify_jws(
        token, keys=KEYS, algorithms=frozenset(("HS256",)), typ="at+jwt", refuse_as="some_code"
    )
    assert isinstance(listed, Refusal)
    assert (listed.rule, listed.code) == ("jwt.algorithm", "some_code")


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize("length", [0, 1, 63, 65])
def test_access_token_with_a_cut_signature_is_refused(length: int) -> None:
    body = access_token().rpartition(".")[0]

    assert rule_of(verified_token(f"{body}.{base64url(bytes(length))}")) in {
        "jwt.signature",
        "jws.form",
    }


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crit", ["exp"]),
        ("crit", []),
        ("b64", False),
        ("b64", True),
        ("jku", "https://evil.example/jwks"),
        ("x5u", "https://evil.example/cert"),
        ("x5c", ["AA"]),
        ("jwk", public_jwk(STRANGER)),
        ("jwk", None),
    ],
)
def test_access_token_header_that_brings_a_key_or_rules_is_refused(
    name: str, value: object
) -> None:
    token = sign(access_token_header(**{name: value}), access_token_claims())

    assert rule_of(verified_token(token)) == "jwt.header"


@pytest.mark.requirement("attack-2")
def test_access_token_with_a_harmless_further_header_is_verified() -> None:
    token = sign(access_token_header(cty="x", other=1), access_token_claims())

    assert isinstance(verified_token(token), VerifiedClaims)


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize(
    "key_id", ["unknown", "../../key", "' OR 1=1 --", "http://evil/key", "", None, 7, [KEY_ID]]
)
def test_access_token_with_an_unknown_kid_is_refused(key_id: object) -> None:
    token = sign(access_token_header(kid=key_id), access_token_claims())

    assert rule_of(verified_token(token)) == "jwt.key"


@pytest.mark.requirement("attack-2")
def test_access_token_without_kid_is_refused() -> None:
    token = sign(without(access_token_header(), "kid"), access_token_claims())

    assert rule_of(verified_token(token)) == "jwt.key"


@pytest.mark.requirement("attack-6")
@pytest.mark.requirement("trap-7")
@pytest.mark.parametrize(
    "typ",
    [
        "JWT",
        "dpop+jwt",
        "countersign-attestation+jwt",
        "countersign-snapshot+jwt",
        "AT+JWT",
        "application/at+jwt",
        "",
        None,
        ["at+jwt"],
    ],
)
def test_access_token_of_another_typ_is_refused(typ: object) -> None:
    token = sign(access_token_header(typ=typ), access_token_claims())

    assert rule_of(verified_token(token)) == "jwt.type"


@pytest.mark.requirement("attack-6")
@pytest.mark.requirement("trap-7")
def test_access_token_without_typ_is_refused() -> None:
    token = sign(without(access_token_header(), "typ"), access_token_claims())

    assert rule_of(verified_token(token)) == "jwt.type"


def test_access_token_by_another_key_is_refused() -> None:
    token = sign(access_token_header(), access_token_claims(), STRANGER)

    assert rule_of(verified_token(token)) == "jwt.signature"


def test_access_token_with_changed_claims_is_refused() -> None:
    header, _, signature = access_token().split(".")
    claims = base64url(json.dumps(access_token_claims(sub="usr_mallory")).encode())

    assert rule_of(verified_token(f"{header}.{claims}.{signature}")) == "jwt.signature"


@pytest.mark.requirement("attack-1")
def test_jws_algorithm_outside_the_callers_list_is_refused() -> None:
    document = sign({"alg": "ES256", "typ": "snapshot", "kid": KEY_ID}, {})

    refused = verify_jws(document, keys=KEYS, algorithms=frozenset(), typ="snapshot")

    text = "The token's algorithm is not accepted here."
    assert refused == Refusal("invalid_request", text, text, "jwt.algorithm")
    accepted = verify_jws(document, keys=KEYS, algorithms=ES256, typ="snapshot")
    assert accepted == VerifiedJws(
        {"alg": "ES256", "typ": "snapshot", "kid": KEY_ID}, b"{}", KEY_ID
    )


def test_jws_size_cap_is_the_callers() -> None:
    document = sign({"alg": "ES256", "typ": "snapshot", "kid": KEY_ID}, {"a": "x" * 20_000})

    refused = verify_jws(document, keys=KEYS, algorithms=ES256, typ="snapshot")
    accepted = verify_jws(
        document, keys=KEYS, algorithms=ES256, typ="snapshot", maximum_bytes=40_000
    )

    assert rule_of(refused) == "jws.size"
    assert isinstance(accepted, VerifiedJws)


def test_jws_of_a_key_found_under_its_name_is_verified() -> None:
    keys = VerificationKeys.of([{**public_jwk(SIGNER), "kid": "control"}])
    document = sign({"alg": "ES256", "typ": "snapshot", "kid": "control"}, {})

    result = verify_jws(document, keys=keys, algorithms=ES256, typ="snapshot")

    assert isinstance(result, VerifiedJws)
    assert result.key_id == "control"


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ({}, True),
        ({"typ": "JWT"}, True),
        ({"typ": None}, True),
        ({"typ": "at+jwt"}, False),
        ({"typ": "jwt"}, False),
        ({"typ": ["JWT"]}, False),
        ({"typ": {}}, False),
        ({"typ": 0}, False),
    ],
)
def test_jws_typ_may_be_one_of_a_set_or_absent(header: dict[str, Any], accepted: bool) -> None:
    token = sign({"alg": "ES256", "kid": KEY_ID, **header}, {"a": 1})

    found = verify_jws(token, keys=KEYS, algorithms=ES256, typ=frozenset(("JWT", None)))

    assert isinstance(found, VerifiedJws) is accepted
    assert accepted or rule_of(found) == "jwt.type"
