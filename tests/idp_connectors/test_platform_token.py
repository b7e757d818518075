"""A platform's JWT: whose keys, which claims, how old, and what it is worth."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from joserfc.jwk import ECKey
from pydantic import ValidationError

from idp_connectors.evidence import Evidence
from idp_connectors.workload.platform_token import PlatformTokenSettings, PlatformTokenVerifier
from outbound.fetcher import FetchError
from outbound.jwks import JwksCache
from tests.idp_connectors.samples import AGENT_THUMBPRINT, ISSUER, NOW, workload_parts
from tests.idp_connectors.trust_domains import RSA, present, sign_as, sign_by_secret
from tests.outbound.samples import Clock, TableFetcher
from token_exchange.claims import Refusal

pytestmark = pytest.mark.requirement("platform-token")

PLATFORM = "https://token.platform.example"
KEY = ECKey.generate_key("P-256")
STRANGER = ECKey.generate_key("P-256")
JWKS = {
    "keys": [
        {**KEY.as_dict(private=False), "kid": "ec", "use": "sig"},
        {**RSA.as_dict(private=False), "kid": "rsa", "use": "sig", "alg": "RS256"},
    ]
}
NAMES = {
    "ci.repository_id": "/repository_id",
    "ci.run": "/run/number",
    "ci.protected": "/ref_protected",
    "k8s.namespace": "/kubernetes.io/namespace",
    "odd.name": "/a~1b~0c",
}


def settings(**changes: Any) -> PlatformTokenSettings:
    return PlatformTokenSettings.model_validate(
        {"issuer": PLATFORM, "jwks": JWKS, "claims": NAMES, "level": 2, **changes}
    )


def claims(**changes: Any) -> dict[str, Any]:
    said = {
        "iss": PLATFORM,
        "sub": "repo:corp/billing:ref:refs/heads/main",
        "aud": ISSUER,
        "iat": NOW - 5,
        "exp": NOW + 300,
        "jti": "one",
        "repository_id": "74",
        "run": {"number": 12},
        "ref_protected": True,
        "kubernetes.io": {"namespace": "billing"},
        "a/b~c": "odd",
    }
    return present({**said, **changes})


def token(*, key: ECKey = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    head = present({"alg": "ES256", "kid": "ec", "typ": "JWT", **(header or {})})
    return sign_as("ES256", head, claims(**changes), key)


def judge(assertion: str, now: int = NOW, **changes: Any) -> Evidence | Refusal:
    verifier = PlatformTokenVerifier("ci", settings(**changes), workload_parts())
    return asyncio.run(verifier.verify(assertion, now))


def rule_of(judged: Evidence | Refusal) -> str:
    assert isinstance(judged, Refusal), judged
    return judged.rule


def test_token_gives_the_named_claims_as_texts() -> None:
    found = judge(token())
    assert isinstance(found, Evidence)
    assert (found.provider, found.method, found.level) == ("ci", "platform-token", 2)
    assert (found.issuer, found.subject) == (PLATFORM, "repo:corp/billing:ref:refs/heads/main")
    assert found.claims == {
        "platform.sub": "repo:corp/billing:ref:refs/heads/main",
        "ci.repository_id": "74",
        "ci.run": "12",
        "ci.protected": "true",
        "k8s.namespace": "billing",
        "odd.name": "odd",
    }
    assert (found.issued_at, found.expires_at) == (NOW - 5, NOW + 300)
    assert (found.proof_id, found.key_thumbprint) == (None, None)


def test_claim_without_one_spelling_as_text_is_not_there() -> None:
    for value in (1.5, ["74"], {"id": "74"}, None):
        found = judge(token(repository_id=value))
        assert isinstance(found, Evidence)
        assert "ci.repository_id" not in found.claims


def test_rsa_key_verifies_too() -> None:
    head = {"alg": "RS256", "kid": "rsa", "typ": "JWT"}
    assert isinstance(judge(sign_as("RS256", head, claims(), RSA)), Evidence)


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"iss": "https://other.example"}, "jwt.issuer"),
        ({"iss": f"{PLATFORM}/"}, "jwt.issuer"),
        ({"aud": "https://other.example"}, "jwt.audience"),
        ({"aud": [ISSUER, "https://other.example"]}, "jwt.audience"),
        ({"aud": None}, "jwt.audience"),
        ({"exp": None}, "jwt.missing"),
        ({"iat": None}, "jwt.missing"),
        ({"sub": None}, "jwt.missing"),
        ({"exp": float(NOW + 300)}, "jwt.claim"),
        ({"exp": NOW - 6}, "jwt.expired"),
        ({"exp": NOW}, "jwt.expired"),
        ({"exp": NOW + 3700}, "jwt.lifetime"),
        ({"iat": NOW + 60}, "jwt.future"),
        ({"nbf": NOW + 60}, "jwt.future"),
        ({"cnf": {}}, "platform.cnf"),
        ({"cnf": {"x5t#S256": "A"}}, "platform.cnf"),
        ({"cnf": {"jkt": "short"}}, "platform.cnf"),
        ({"cnf": "text"}, "platform.cnf"),
        ({"repository_id": "7" * 5000}, "platform.claim"),
    ],
)
def test_wrong_token_is_refused(changes: dict[str, Any], rule: str) -> None:
    assert rule_of(judge(token(**changes))) == rule
    assert isinstance(judge(token()), Evidence)


@pytest.mark.requirement("attack-1")
def test_key_confusion_is_refused() -> None:
    assert rule_of(judge(token(header={"alg": "none"}))) == "jwt.algorithm"
    assert rule_of(judge(token(header={"alg": "HS256"}))) == "jwt.algorithm"
    assert rule_of(judge(token(header={"alg": "RS256"}))) == "jwt.algorithm"
    assert rule_of(judge(token(header={"alg": "ES384"}))) == "jwt.algorithm"
    secret = RSA.as_pem(private=False)
    confused = sign_by_secret({"alg": "RS256", "kid": "rsa"}, claims(), secret)
    assert rule_of(judge(confused)) == "jwt.signature"
    assert rule_of(judge(token(key=STRANGER))) == "jwt.signature"
    assert rule_of(judge(token(), algorithms=["RS256"])) == "jwt.algorithm"


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize("header", [{"jku": PLATFORM}, {"jwk": {}}, {"x5c": []}, {"crit": []}])
def test_header_that_brings_a_key_is_refused(header: dict[str, Any]) -> None:
    assert rule_of(judge(token(header=header))) == "jwt.header"


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "logout+jwt", "jwt", ""])
def test_token_of_another_type_is_refused(typ: str) -> None:
    assert rule_of(judge(token(header={"typ": typ}))) == "jwt.type"
    assert isinstance(judge(token(header={"typ": None})), Evidence)


def test_old_token_is_refused_before_it_ends() -> None:
    assert rule_of(judge(token(), now=NOW + 60, maximum_age_seconds=60)) == "platform.age"
    assert isinstance(judge(token(), now=NOW + 55, maximum_age_seconds=60), Evidence)


def test_required_claims_have_their_value() -> None:
    required = {"ci.repository_id": "74", "platform.sub": "repo:corp/billing:ref:refs/heads/main"}
    assert isinstance(judge(token(), require=required), Evidence)
    for said in ("75", "74 ", None):
        assert rule_of(judge(token(repository_id=said), require=required)) == "platform.required"


def test_single_use_token_has_an_id_to_use_up() -> None:
    found = judge(token(), single_use=True)
    assert isinstance(found, Evidence)
    assert found.proof_id == "one"
    assert rule_of(judge(token(jti=None), single_use=True)) == "jwt.missing"
    assert rule_of(judge(token(jti="j" * 257), single_use=True)) == "platform.jti"


@pytest.mark.requirement("attack-15")
def test_key_in_the_token_is_the_one_to_prove() -> None:
    found = judge(token(cnf={"jkt": AGENT_THUMBPRINT}))
    assert isinstance(found, Evidence)
    assert found.key_thumbprint == AGENT_THUMBPRINT


@pytest.mark.parametrize("way", ["metadata", "jwks_uri"])
def test_keys_are_fetched_from_where_the_issuer_says(way: str) -> None:
    clock = Clock(NOW)
    address = f"{PLATFORM}/keys"
    fetcher = TableFetcher(
        {
            f"{PLATFORM}/.well-known/openid-configuration": {
                "issuer": PLATFORM,
                "jwks_uri": address,
            },
            address: JWKS,
        }
    )
    parts = replace(workload_parts(), fetcher=fetcher, jwks=JwksCache(fetcher, clock), clock=clock)
    told = settings(jwks=None, jwks_uri=address if way == "jwks_uri" else None)
    verifier = PlatformTokenVerifier("ci", told, parts)

    async def story() -> None:
        for _ in range(3):
            assert isinstance(await verifier.verify(token(), NOW), Evidence)
        assert len(fetcher.asked) == (1 if way == "jwks_uri" else 2)
        unknown = await verifier.verify(token(header={"kid": "other"}), NOW)
        assert rule_of(unknown) == "jwt.key"

    asyncio.run(story())


def test_issuer_that_cannot_be_reached_vouches_for_nobody() -> None:
    fetcher = TableFetcher()
    fetcher.failure = FetchError("unreachable")
    clock = Clock(NOW)
    parts = replace(workload_parts(), fetcher=fetcher, jwks=JwksCache(fetcher, clock), clock=clock)
    verifier = PlatformTokenVerifier("ci", settings(jwks=None), parts)
    assert rule_of(asyncio.run(verifier.verify(token(), NOW))) == "platform.keys"


def test_metadata_without_keys_or_of_another_issuer_is_refused() -> None:
    for said in ({"issuer": PLATFORM}, {"issuer": "https://other.example", "jwks_uri": PLATFORM}):
        fetcher = TableFetcher({f"{PLATFORM}/.well-known/openid-configuration": said})
        clock = Clock(NOW)
        parts = replace(
            workload_parts(), fetcher=fetcher, jwks=JwksCache(fetcher, clock), clock=clock
        )
        verifier = PlatformTokenVerifier("ci", settings(jwks=None), parts)
        assert rule_of(asyncio.run(verifier.verify(token(), NOW))) == "platform.keys"


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": ""},
        {"issuer": "http://platform.example", "jwks": None},
        {"jwks_uri": "https://platform.example/keys"},
        {"jwks": None, "jwks_uri": "http://platform.example/keys"},
        {"jwks": {}},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k"}]}},
        {"jwks": {"keys": [{**KEY.as_dict(private=True), "kid": "k"}]}},
        {"jwks": {"keys": [KEY.as_dict(private=False) | {"kid": ""}]}},
        {"algorithms": []},
        {"algorithms": ["none"]},
        {"algorithms": ["ES256", "HS256"]},
        {"claims": {"spiffe.id": "/sub"}},
        {"claims": {"unix.uid": "/sub"}},
        {"claims": {"plain": "/sub"}},
        {"claims": {"ci.id": "sub"}},
        {"require": {"ci.other": "x"}},
        {"level": 3},
        {"level": 2, "audience": "https://shared.example"},
        {"unknown": 1},
    ],
)
def test_unsound_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**changes)
    assert settings(level=1, audience="https://shared.example").level == 1
