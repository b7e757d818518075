"""JWTs that are no access tokens: attestations, client assertions, and what is read unverified."""

from typing import Any

import pytest

from tests.token_exchange.signing import (
    ISSUER,
    KEY_ID,
    KEYS,
    NOW,
    STRANGER,
    sign,
    sign_bytes,
    without,
)
from tests.token_exchange.verdicts import ES256, detail_of, rule_of
from token_exchange.claims import Refusal, VerifiedJwt
from token_exchange.verify import UnverifiedClaims, unverified_claims, verify_jwt

ATTESTATION = {
    "iss": "https://attest",
    "sub": "unix:host/1000/bot",
    "aud": ISSUER,
    "iat": NOW,
    "exp": NOW + 60,
    "jti": "proof-1",
}


def judged(token: str, **changes: Any) -> VerifiedJwt | Refusal:
    """What the verifier says by its defaults of a JWT of the attester for us, with changes."""
    asked = {"typ": "t", "issuer": "https://attest", "audience": ISSUER, "now": NOW, **changes}
    return verify_jwt(token, keys=KEYS, algorithms=ES256, **asked)


def verified_jwt(
    claims: dict[str, Any],
    *,
    audience: str | None = ISSUER,
    now: int = NOW,
    maximum_lifetime_seconds: int | None = 60,
    require: tuple[str, ...] = ("exp", "iat", "jti"),
    leeway_seconds: int = 5,
) -> VerifiedJwt | Refusal:
    return judged(
        sign({"alg": "ES256", "typ": "attest+jwt", "kid": KEY_ID}, claims),
        typ="attest+jwt",
        audience=audience,
        now=now,
        leeway_seconds=leeway_seconds,
        maximum_lifetime_seconds=maximum_lifetime_seconds,
        require=require,
    )


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize("audience", [ISSUER, [ISSUER]])
def test_jwt_for_exactly_one_audience_is_verified(audience: object) -> None:
    result = verified_jwt({**ATTESTATION, "aud": audience})

    assert isinstance(result, VerifiedJwt)
    assert result.claims == {**ATTESTATION, "aud": audience}
    assert result.header == {"alg": "ES256", "typ": "attest+jwt", "kid": KEY_ID}


@pytest.mark.requirement("attack-5")
@pytest.mark.requirement("RFC7519-4.1.3")
@pytest.mark.parametrize(
    "audience",
    ["https://other", "", [], [ISSUER, ISSUER], [ISSUER, "https://other"], [[ISSUER]], 7, True],
)
def test_jwt_for_another_or_further_audience_is_refused(audience: object) -> None:
    assert rule_of(verified_jwt({**ATTESTATION, "aud": audience})) == "jwt.audience"


@pytest.mark.requirement("RFC7519-4.1.3")
def test_jwt_with_an_audience_where_none_is_expected_is_refused() -> None:
    assert rule_of(verified_jwt(ATTESTATION, audience=None)) == "jwt.audience"
    assert rule_of(verified_jwt({**ATTESTATION, "aud": [None]}, audience=None)) == "jwt.audience"
    assert rule_of(verified_jwt(without(ATTESTATION, "aud"))) == "jwt.audience"
    assert isinstance(verified_jwt(without(ATTESTATION, "aud"), audience=None), VerifiedJwt)


@pytest.mark.requirement("attack-5")
def test_jwt_of_another_issuer_signing_for_ours_is_refused() -> None:
    assert rule_of(verified_jwt({**ATTESTATION, "iss": "https://other"})) == "jwt.issuer"


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize("name", ["exp", "iat", "jti"])
def test_jwt_without_a_required_claim_is_refused(name: str) -> None:
    result = verified_jwt(without(ATTESTATION, name))

    assert rule_of(result) == "jwt.missing"
    assert detail_of(result) == name


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("changes", "now", "rule"),
    [
        ({}, NOW + 64, None),
        ({}, NOW + 65, "jwt.expired"),
        ({}, NOW - 5, None),
        ({}, NOW - 6, "jwt.future"),
        ({"nbf": NOW + 6}, NOW, "jwt.future"),
        ({"nbf": NOW + 5}, NOW, None),
        ({"exp": NOW + 61}, NOW, "jwt.lifetime"),
        ({"exp": NOW + 10**9}, NOW, "jwt.lifetime"),
        ({"exp": 60.0 + NOW}, NOW, "jwt.claim"),
    ],
)
def test_jwt_times_are_bounded(changes: dict[str, object], now: int, rule: str | None) -> None:
    assert rule_of(verified_jwt({**ATTESTATION, **changes}, now=now)) == rule


def test_jwt_lifetime_without_iat_is_measured_from_now() -> None:
    claims = without(ATTESTATION, "iat")

    assert isinstance(verified_jwt(claims, require=("exp",)), VerifiedJwt)
    assert rule_of(verified_jwt(claims, require=("exp",), now=NOW - 1)) == "jwt.lifetime"


def test_jwt_without_exp_has_no_bounded_lifetime() -> None:
    claims = without(ATTESTATION, "exp")

    assert rule_of(verified_jwt(claims, require=())) == "jwt.lifetime"
    unbounded = verified_jwt(claims, require=(), maximum_lifetime_seconds=None)
    assert isinstance(unbounded, VerifiedJwt)


def test_jwt_by_default_requires_exp_and_iat_with_five_seconds_of_leeway() -> None:
    def verified(claims: dict[str, Any], now: int = NOW) -> VerifiedJwt | Refusal:
        return judged(sign({"alg": "ES256", "typ": "t", "kid": KEY_ID}, claims), now=now)

    assert detail_of(verified(without(ATTESTATION, "exp"))) == "exp"
    assert detail_of(verified(without(ATTESTATION, "iat"))) == "iat"
    assert isinstance(verified(without(ATTESTATION, "jti"), NOW + 64), VerifiedJwt)
    assert rule_of(verified(ATTESTATION, NOW + 65)) == "jwt.expired"
    assert isinstance(verified({**ATTESTATION, "exp": NOW + 10**8}), VerifiedJwt)
    expired = verified(ATTESTATION, NOW + 65)
    assert isinstance(expired, Refusal)
    assert expired.code == "invalid_client"


def test_jwt_leeway_is_the_callers() -> None:
    assert isinstance(verified_jwt(ATTESTATION, now=NOW + 59, leeway_seconds=0), VerifiedJwt)
    assert rule_of(verified_jwt(ATTESTATION, now=NOW + 60, leeway_seconds=0)) == "jwt.expired"
    assert rule_of(verified_jwt(ATTESTATION, now=NOW - 1, leeway_seconds=0)) == "jwt.future"


@pytest.mark.parametrize(
    ("token", "rule"),
    [
        ("x", "jws.form"),
        (sign({"alg": "ES256", "typ": "at+jwt", "kid": KEY_ID}, ATTESTATION), "jwt.type"),
        (
            sign_bytes(b'{"alg":"ES256","typ":"t","kid":"%s"}' % KEY_ID.encode(), b"1"),
            "jwt.payload",
        ),
        (sign({"alg": "ES256", "typ": "t", "kid": KEY_ID}, {}), "jwt.missing"),
        (
            sign({"alg": "ES256", "typ": "t", "kid": KEY_ID}, {**ATTESTATION, "aud": 1}),
            "jwt.audience",
        ),
        (
            sign({"alg": "ES256", "typ": "t", "kid": KEY_ID}, {**ATTESTATION, "exp": 1}),
            "jwt.expired",
        ),
    ],
)
@pytest.mark.requirement("attack-6")
def test_jwt_every_refusal_has_the_code_asked_for(token: str, rule: str) -> None:
    refusal = judged(token, refuse_as="some_code")

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.code) == (rule, "some_code")


def test_unverified_claims_name_the_issuer_of_any_signature() -> None:
    token = sign({"alg": "HS256"}, {"iss": "https://attest"}, STRANGER)

    assert unverified_claims(token) == UnverifiedClaims("https://attest", {"alg": "HS256"})


@pytest.mark.parametrize(
    ("token", "rule"),
    [
        ("x", "jws.form"),
        (sign_bytes(b"{}", b"[]"), "jwt.payload"),
        (sign({}, {}), "jwt.missing"),
        (sign({}, {"iss": ""}), "jwt.missing"),
        (sign({}, {"iss": ["https://attest"]}), "jwt.missing"),
    ],
    ids=["no JWS", "no object", "no iss", "empty iss", "iss is a list"],
)
def test_unverified_claims_without_an_issuer_are_refused(token: str, rule: str) -> None:
    refusal = unverified_claims(token)
    asked = unverified_claims(token, refuse_as="some_code")

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.code) == (rule, "invalid_client")
    assert isinstance(asked, Refusal)
    assert asked.code == "some_code"
    assert rule != "jwt.missing" or refusal.detail == "iss"


def test_jwt_whose_issuer_is_known_by_its_keys_alone_may_name_any_or_none() -> None:
    def verified(claims: dict[str, Any], issuer: str | None) -> VerifiedJwt | Refusal:
        token = sign({"alg": "ES256", "kid": KEY_ID}, claims)
        return judged(token, typ=frozenset((None,)), issuer=issuer)

    for claims in (ATTESTATION, without(ATTESTATION, "iss")):
        assert isinstance(verified(claims, None), VerifiedJwt)
    assert rule_of(verified(without(ATTESTATION, "iss"), "https://attest")) == "jwt.issuer"
    assert rule_of(verified({**ATTESTATION, "iss": ""}, None)) == "jwt.claim"
    assert rule_of(verified({**ATTESTATION, "iss": 7}, None)) == "jwt.claim"


@pytest.mark.parametrize(
    ("claims", "issuer", "subject"),
    [
        ({"sub": "spiffe://a/b"}, "", "spiffe://a/b"),
        ({"iss": "i", "sub": "s"}, "i", "s"),
        ({"iss": "i", "sub": 7}, "i", ""),
        ({}, "", ""),
    ],
)
def test_unverified_claims_may_be_asked_for_without_an_issuer(
    claims: dict[str, Any], issuer: str, subject: str
) -> None:
    token = sign({"alg": "ES256"}, claims)
    found = unverified_claims(token, require_issuer=False)
    assert found == UnverifiedClaims(issuer, {"alg": "ES256"}, subject)
    odd = unverified_claims(sign({"alg": "ES256"}, {**claims, "iss": 7}), require_issuer=False)
    assert isinstance(odd, Refusal)
    assert odd.rule == "jwt.missing"
