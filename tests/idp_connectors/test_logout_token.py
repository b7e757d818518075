"""Logout tokens: one that is right, and each way to be wrong (Back-Channel Logout 1.0 §2.6)."""

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from idp_connectors.workforce.logout_token import EVENT, LogoutClaims, judge_logout_token
from outbound.public_keys import ForeignKeys
from token_exchange.claims import Refusal

ISSUER = "https://login.corp.example/realms/corp"
CLIENT = "countersign"
NOW = 1_800_000_000
KEY = RSAKey.generate_key(2048, {"kid": "k1", "alg": "RS256", "use": "sig"})
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "k1", "alg": "RS256", "use": "sig"})
EC_KEY = ECKey.generate_key("P-256", {"kid": "k2", "alg": "ES256", "use": "sig"})
KEYS = ForeignKeys.of([KEY.as_dict(private=False), EC_KEY.as_dict(private=False)])
ALGORITHMS = frozenset({"RS256", "ES256"})


def claims(**changes: Any) -> dict[str, Any]:
    said = {
        "iss": ISSUER,
        "aud": CLIENT,
        "iat": NOW - 1,
        "exp": NOW + 119,
        "jti": "6a159037-943e-a954-1c2b-d61d4e552a94",
        "sub": "alice",
        "sid": "boBq7JyGBtCEQMxWAjF2jePL",
        "events": {EVENT: {}},
    }
    return {name: value for name, value in (said | changes).items() if value is not ...}


def signed(said: dict[str, Any], key: RSAKey | ECKey | OctKey = KEY, **header: Any) -> str:
    algorithm = {"RSA": "RS256", "EC": "ES256", "oct": "HS256"}[key.key_type]
    protected = {"alg": algorithm, "kid": key.kid or "k1", "typ": "logout+jwt"} | header
    protected = {name: value for name, value in protected.items() if value is not ...}
    return jws.serialize_compact(
        protected, json.dumps(said), key, algorithms=["RS256", "ES256", "HS256"]
    )


def judge(token: str, now: int = NOW) -> LogoutClaims | Refusal:
    return judge_logout_token(
        token, keys=KEYS, algorithms=ALGORITHMS, issuer=ISSUER, client_id=CLIENT, now=now
    )


def rule(token: str, now: int = NOW) -> str:
    refusal = judge(token, now)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.code == "invalid_request"
    return refusal.rule


@pytest.mark.requirement("OIDC-BCL-2.6")
@pytest.mark.parametrize("key", [KEY, EC_KEY])
def test_a_logout_token_names_person_and_session(key: RSAKey | ECKey) -> None:
    judged = judge(signed(claims(), key))
    assert isinstance(judged, LogoutClaims)
    assert (judged.subject, judged.upstream_session) == ("alice", "boBq7JyGBtCEQMxWAjF2jePL")
    assert judged.issued_at == NOW - 1


@pytest.mark.parametrize("absent", ["sub", "sid"])
def test_either_of_person_and_session_is_enough(absent: str) -> None:
    assert isinstance(judge(signed(claims(**{absent: ...}))), LogoutClaims)


def test_the_audience_may_be_a_list_of_us_alone() -> None:
    assert isinstance(judge(signed(claims(aud=[CLIENT]))), LogoutClaims)


@pytest.mark.requirement("OIDC-BCL-2.6")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iss": "https://login.corp.example/realms/other"}, "jwt.issuer"),
        ({"iss": ...}, "jwt.issuer"),
        ({"aud": "other-program"}, "jwt.audience"),
        ({"aud": [CLIENT, "other-program"]}, "jwt.audience"),
        ({"aud": ...}, "jwt.audience"),
        ({"iat": NOW + 3600, "exp": NOW + 3700}, "jwt.future"),
        ({"iat": ...}, "jwt.missing"),
        ({"iat": NOW - 400, "exp": NOW - 300}, "jwt.expired"),
        ({"exp": ...}, "jwt.missing"),
        ({"exp": NOW + 86_400}, "jwt.lifetime"),
        ({"jti": ...}, "jwt.missing"),
        ({"jti": "x" * 600}, "logout.id"),
        ({"jti": 7}, "jwt.claim"),
        ({"events": ...}, "logout.event"),
        ({"events": [EVENT]}, "logout.event"),
        ({"events": {EVENT: True}}, "logout.event"),
        ({"events": {"https://other.example/event": {}}}, "logout.event"),
        ({"nonce": "n-0S6_WzA2Mj"}, "logout.nonce"),
        ({"nonce": None}, "logout.nonce"),
        ({"sub": ..., "sid": ...}, "logout.session"),
        ({"sub": None, "sid": None}, "jwt.claim"),
        ({"sub": ["alice"]}, "jwt.claim"),
        ({"sid": ""}, "logout.session"),
        ({"sid": {"a": 1}}, "logout.session"),
    ],
)
def test_a_logout_token_wrong_in_one_respect_is_refused(
    changes: dict[str, Any], expected: str
) -> None:
    assert rule(signed(claims(**changes))) == expected


@pytest.mark.requirement("OIDC-BCL-2.6")
@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "dpop+jwt", "LOGOUT+JWT", ...])
def test_a_token_of_another_type_is_no_logout_token(typ: object) -> None:
    assert rule(signed(claims(), typ=typ)) == "jwt.type"


def test_another_key_of_the_same_id_verifies_nothing() -> None:
    assert rule(signed(claims(), OTHER_KEY)) == "jwt.signature"


def test_an_unknown_key_id_is_refused() -> None:
    assert rule(signed(claims(), kid="unknown")) == "jwt.key"


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    public = json.dumps(KEY.as_dict(private=False)).encode()
    assert rule(signed(claims(), OctKey.import_key(public), kid="k1")) == "jwt.algorithm"


def test_an_unsigned_token_is_refused() -> None:
    parts = ({"alg": "none", "typ": "logout+jwt", "kid": "k1"}, claims())
    encoded = [urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts]
    assert rule(".".join([*encoded, ""])).startswith("j")
