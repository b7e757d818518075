import json
from typing import Any

import pytest
from joserfc.jwk import OctKey
from joserfc.jws import JWSRegistry

from tests.token_exchange.signing import (
    ENDPOINT,
    ISSUER,
    KEY_ID,
    KEYS,
    NOW,
    SIGNER,
    STRANGER,
    access_token,
    access_token_claims,
    access_token_header,
    base64url,
    public_jwk,
    sign,
    sign_bytes,
    without,
)
from token_exchange.claims import Refusal, VerifiedClaims, VerifiedJwt
from token_exchange.keys import VerificationKeys
from token_exchange.verify import (
    UnverifiedClaims,
    VerifiedJws,
    unverified_claims,
    verify_access_token,
    verify_jws,
    verify_jwt,
)

ES256 = frozenset(("ES256",))
ATTESTATION = {
    "iss": "https://attest",
    "sub": "unix:host/1000/bot",
    "aud": ISSUER,
    "iat": NOW,
    "exp": NOW + 60,
    "jti": "proof-1",
}


def verified_token(token: str, now: int = NOW) -> VerifiedClaims | Refusal:
    return verify_access_token(
        token, keys=KEYS, issuer=ISSUER, audiences=frozenset((ENDPOINT,)), now=now
    )


def verified_jwt(
    claims: dict[str, Any],
    *,
    audience: str | None = ISSUER,
    now: int = NOW,
    maximum_lifetime_seconds: int | None = 60,
    require: tuple[str, ...] = ("exp", "iat", "jti"),
    leeway_seconds: int = 5,
) -> VerifiedJwt | Refusal:
    return verify_jwt(
        sign({"alg": "ES256", "typ": "attest+jwt", "kid": KEY_ID}, claims),
        keys=KEYS,
        algorithms=ES256,
        typ="attest+jwt",
        issuer="https://attest",
        audience=audience,
        now=now,
        leeway_seconds=leeway_seconds,
        maximum_lifetime_seconds=maximum_lifetime_seconds,
        require=require,
    )


def chain_of(depth: int) -> dict[str, object] | None:
    chain: dict[str, object] | None = None
    for number in range(depth):
        actor: dict[str, object] = {"iss": "i", "sub": f"s{number}", "sub_profile": "ai_agent"}
        chain = {**actor, "act": chain}
    return chain


def rule_of(result: object) -> str | None:
    return result.rule if isinstance(result, Refusal) else None


def detail_of(result: object) -> str | None:
    return result.detail if isinstance(result, Refusal) else None


@pytest.mark.requirement("RFC9068-4")
def test_access_token_of_ours_is_verified() -> None:
    result = verified_token(access_token())

    assert isinstance(result, VerifiedClaims)
    assert result.key_id == KEY_ID
    assert result.token.sub == "usr_alice"
    assert result.token.act is not None
    assert result.token.act.agent == "support-bot"
    assert result.token.authorization_details[0].tools == ("get_*",)


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
        return verify_jwt(
            sign({"alg": "ES256", "typ": "t", "kid": KEY_ID}, claims),
            keys=KEYS,
            algorithms=ES256,
            typ="t",
            issuer="https://attest",
            audience=ISSUER,
            now=now,
        )

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
    refusal = verify_jwt(
        token,
        keys=KEYS,
        algorithms=ES256,
        typ="t",
        issuer="https://attest",
        audience=ISSUER,
        now=NOW,
        refuse_as="some_code",
    )

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.code) == (rule, "some_code")


@pytest.mark.requirement("attack-1")
def test_jws_algorithm_outside_the_callers_list_is_refused() -> None:
    document = sign({"alg": "ES256", "typ": "snapshot", "kid": KEY_ID}, {})

    refused = verify_jws(document, keys=KEYS, algorithms=frozenset(), typ="snapshot")

    assert rule_of(refused) == "jwt.algorithm"
    assert isinstance(refused, Refusal)
    assert refused.code == "invalid_request"
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


def test_jwt_whose_issuer_is_known_by_its_keys_alone_may_name_any_or_none() -> None:
    def verified(claims: dict[str, Any], issuer: str | None) -> VerifiedJwt | Refusal:
        return verify_jwt(
            sign({"alg": "ES256", "kid": KEY_ID}, claims),
            keys=KEYS,
            algorithms=ES256,
            typ=frozenset((None,)),
            issuer=issuer,
            audience=ISSUER,
            now=NOW,
        )

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
