import base64
import hashlib
import json
from typing import Any

import pytest
from joserfc.jwk import ECKey

from tests.token_exchange.signing import (
    NOW,
    SIGNER,
    STRANGER,
    base64url,
    public_jwk,
    sign,
    sign_bytes,
    without,
)
from tests.token_exchange.verdicts import rule_of
from token_exchange.claims import Refusal
from token_exchange.proof_of_possession import (
    DpopProof,
    access_token_hash,
    normalised_uri,
    verify_dpop_proof,
)

URI = "https://gw.example.com/crm/mcp"
TOKEN = "the.access.token"
HEADER = {"alg": "ES256", "typ": "dpop+jwt", "jwk": public_jwk(SIGNER)}
CLAIMS = {
    "jti": "0123456789abcdef",
    "htm": "POST",
    "htu": URI,
    "iat": NOW,
    "ath": base64url(hashlib.sha256(TOKEN.encode()).digest()),
}


def verified(
    proof: str,
    *,
    now: int = NOW,
    method: str = "POST",
    uri: str = URI,
    access_token: str | None = TOKEN,
    expected_thumbprint: str | None = SIGNER.thumbprint(),
    nonce: str | None = None,
) -> DpopProof | Refusal:
    return verify_dpop_proof(
        proof,
        method=method,
        uri=uri,
        now=now,
        access_token=access_token,
        expected_thumbprint=expected_thumbprint,
        nonce=nonce,
    )


def proof(**changes: Any) -> str:
    return sign(HEADER, {**CLAIMS, **changes})


@pytest.mark.requirement("RFC9449-4.3")
def test_proof_for_this_request_key_and_token_is_accepted() -> None:
    result = verified(proof())

    digest = hashlib.sha256(f"{SIGNER.thumbprint()} 0123456789abcdef".encode()).digest()
    assert result == DpopProof(
        jkt=SIGNER.thumbprint(),  # type: ignore[arg-type] # a NewType of str
        jti="0123456789abcdef",
        issued_at=NOW,
        replay_key=base64.urlsafe_b64encode(digest).decode().rstrip("="),
        expires_at=NOW + 61,
    )


@pytest.mark.requirement("RFC9449-4.3")
def test_proof_without_token_or_bound_key_is_accepted_for_its_own_key() -> None:
    result = verified(
        sign(HEADER, without(CLAIMS, "ath")), access_token=None, expected_thumbprint=None
    )

    assert isinstance(result, DpopProof)
    assert result.jkt == SIGNER.thumbprint()


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ({**HEADER, "typ": "JWT"}, "dpop.type"),
        ({**HEADER, "typ": "at+jwt"}, "dpop.type"),
        ({**HEADER, "typ": "DPoP+jwt"}, "dpop.type"),
        (without(HEADER, "typ"), "dpop.type"),
        ({**HEADER, "alg": "none"}, "dpop.algorithm"),
        ({**HEADER, "alg": "HS256"}, "dpop.algorithm"),
        ({**HEADER, "alg": "RS256"}, "dpop.algorithm"),
        ({**HEADER, "alg": ["ES256"]}, "dpop.algorithm"),
        (without(HEADER, "alg"), "dpop.algorithm"),
        ({**HEADER, "crit": ["iat"]}, "dpop.header"),
        ({**HEADER, "b64": True}, "dpop.header"),
        ({**HEADER, "jku": "https://evil.example"}, "dpop.header"),
        ({**HEADER, "x5u": "https://evil.example"}, "dpop.header"),
        ({**HEADER, "x5c": []}, "dpop.header"),
        (without(HEADER, "jwk"), "dpop.key"),
        ({**HEADER, "jwk": None}, "dpop.key"),
        ({**HEADER, "jwk": "https://evil.example"}, "dpop.key"),
        ({**HEADER, "jwk": SIGNER.as_dict(private=True)}, "dpop.key"),
        ({**HEADER, "jwk": {"kty": "oct", "k": "AA"}}, "dpop.key"),
        ({**HEADER, "jwk": public_jwk(ECKey.generate_key("P-384"))}, "dpop.key"),
        ({**HEADER, "jwk": public_jwk(STRANGER)}, "dpop.signature"),
    ],
)
def test_proof_with_another_header_is_refused(header: dict[str, Any], rule: str) -> None:
    refusal = verified(sign(header, CLAIMS))

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.code) == (rule, "invalid_dpop_proof")


@pytest.mark.requirement("attack-15")
def test_proof_private_key_refusal_names_the_reason_for_the_audit_only() -> None:
    header = {**HEADER, "jwk": SIGNER.as_dict(private=True)}

    assert verified(sign(header, CLAIMS)) == Refusal(
        "invalid_dpop_proof",
        "The proof's jwk is not a public P-256 key.",
        "key.private",
        "dpop.key",
    )


def test_proof_with_a_kid_beside_its_key_is_accepted() -> None:
    assert isinstance(verified(sign({**HEADER, "kid": "mine"}, CLAIMS)), DpopProof)


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize("unverified", ["", "x", "a.b.c", proof() + "," + proof(), proof() + "\n"])
def test_proof_that_is_no_single_jws_is_refused(unverified: str) -> None:
    refusal = verified(unverified)

    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_dpop_proof"
    assert refusal.rule in {"jws.form", "jws.header"}


@pytest.mark.requirement("attack-30")
def test_proof_over_four_kibibytes_is_refused() -> None:
    assert isinstance(verified(proof(padding="x" * 1000)), DpopProof)
    assert rule_of(verified(proof(padding="x" * 4000))) == "jws.size"


def test_proof_with_claims_that_are_no_object_is_refused() -> None:
    assert rule_of(verified(sign_bytes(json.dumps(HEADER).encode(), b"[]"))) == "dpop.payload"


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jti", None),
        ("jti", 12345678),
        ("jti", "1234567"),
        ("jti", "x" * 129),
        ("iat", None),
        ("iat", float(NOW)),
        ("iat", str(NOW)),
        ("iat", True),
        ("iat", -1),
        ("iat", 253_402_300_800),
        ("iat", 10**30),
    ],
)
def test_proof_with_a_claim_out_of_range_is_refused(name: str, value: object) -> None:
    refusal = verified(proof(**{name: value}))

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.detail) == ("dpop.claim", name)


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("jti", "dpop.claim"),
        ("iat", "dpop.claim"),
        ("htm", "dpop.method"),
        ("htu", "dpop.uri"),
        ("ath", "dpop.token"),
    ],
)
def test_proof_without_a_claim_is_refused(name: str, rule: str) -> None:
    assert rule_of(verified(sign(HEADER, without(CLAIMS, name)))) == rule


@pytest.mark.parametrize("proof_id", ["12345678", "x" * 128])
def test_proof_id_of_accepted_length_gives_a_short_replay_key(proof_id: str) -> None:
    result = verified(proof(jti=proof_id))

    assert isinstance(result, DpopProof)
    assert len(result.replay_key) == 43


@pytest.mark.parametrize(
    ("issued_at", "rule"),
    [(0, "dpop.age"), (253_402_300_799, "dpop.age")],
)
def test_proof_time_at_the_ends_of_its_range_is_well_formed(issued_at: int, rule: str) -> None:
    assert rule_of(verified(proof(iat=issued_at))) == rule


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize("method", ["post", "GET", "", None, ["POST"], "POST "])
def test_proof_for_another_method_is_refused(method: object) -> None:
    assert rule_of(verified(proof(htm=method))) == "dpop.method"


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    "uri",
    [
        "https://gw.example.com/notes/mcp",
        "https://gw.example.com/crm/mcp/",
        "https://gw.example.com/crm/MCP",
        "http://gw.example.com/crm/mcp",
        "https://gw.example.com:8443/crm/mcp",
        "https://evil.example.com/crm/mcp",
        "https://gw.example.com@evil.example/crm/mcp",
        "/crm/mcp",
        "",
        None,
        [URI],
    ],
)
def test_proof_for_another_uri_is_refused(uri: object) -> None:
    assert rule_of(verified(proof(htu=uri))) == "dpop.uri"


@pytest.mark.requirement("RFC9449-4.3")
@pytest.mark.parametrize(
    "uri",
    [
        URI + "?a=1",
        URI + "#part",
        URI + "?a=1#part",
        "HTTPS://GW.Example.COM/crm/mcp",
        "https://gw.example.com:443/crm/mcp",
        "https://gw.example.com:/crm/mcp",
        "https://gw.example.com/%63rm/mcp",
    ],
)
def test_proof_uri_in_another_spelling_is_accepted(uri: str) -> None:
    assert isinstance(verified(proof(htu=uri)), DpopProof)
    assert isinstance(verified(proof(), uri=uri), DpopProof)


@pytest.mark.requirement("attack-15")
def test_proof_for_no_uri_does_not_match_a_request_without_one() -> None:
    assert rule_of(verified(proof(htu="x"), uri="x")) == "dpop.uri"


@pytest.mark.parametrize(
    ("uri", "normal"),
    [
        ("http://127.0.0.1:8700/oauth/token", "http://127.0.0.1:8700/oauth/token"),
        ("http://h:80/", "http://h/"),
        ("https://h:443", "https://h/"),
        ("http://h:443", "http://h:443/"),
        ("https://h:80", "https://h:80/"),
        ("http://h:0/", "http://h:0/"),
        ("http://h", "http://h/"),
        ("http://h?a", "http://h/"),
        ("http://h/%7euser", "http://h/~user"),
        ("http://h/a%2fb", "http://h/a%2Fb"),
        ("http://h/%2D%2E%5F%41%7A%39", "http://h/-._Az9"),
        ("http://h/%e2%82%ac", "http://h/%E2%82%AC"),
        ("http://h/a.b/..c", "http://h/a.b/..c"),
        ("http://[::1]:8700/a", "http://[::1]:8700/a"),
        ("http://[2001:DB8::1]/a", "http://[2001:db8::1]/a"),
    ],
)
def test_uri_is_normalised(uri: str, normal: str) -> None:
    assert normalised_uri(uri) == normal


@pytest.mark.parametrize(
    "uri",
    [
        None,
        7,
        "",
        "h",
        "/path",
        "//h/path",
        "ftp://h/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://user@h/",
        "http://user:pw@h/",
        "http://@h/",
        "http://h:port/",
        "http://h:99999/",
        "http://[::1/",
        "http://h/a b",
        "http://h/a\n",
        "http://h/\t",
        "http://hé/",
        "http://h/a/../b",
        "http://h/./a",
        "http://h/%2e%2e/a",
        "http://h/..",
    ],
)
def test_uri_that_has_no_normal_form_is_none(uri: object) -> None:
    assert normalised_uri(uri) is None


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("now", "rule"),
    [
        (NOW + 60, None),
        (NOW + 61, "dpop.age"),
        (NOW - 5, None),
        (NOW - 6, "dpop.age"),
    ],
)
def test_proof_age_is_bounded(now: int, rule: str | None) -> None:
    assert rule_of(verified(proof(), now=now)) == rule


@pytest.mark.requirement("attack-15")
def test_proof_is_remembered_until_its_age_alone_refuses_it() -> None:
    result = verified(proof())
    assert isinstance(result, DpopProof)

    assert isinstance(verified(proof(), now=result.expires_at - 1), DpopProof)
    assert rule_of(verified(proof(), now=result.expires_at)) == "dpop.age"


def test_proof_age_is_the_callers() -> None:
    def aged(now: int) -> DpopProof | Refusal:
        return verify_dpop_proof(
            proof(),
            method="POST",
            uri=URI,
            now=now,
            access_token=None,
            expected_thumbprint=None,
            maximum_age_seconds=10,
        )

    result = aged(NOW + 10)
    assert isinstance(result, DpopProof)
    assert result.expires_at == NOW + 11
    assert rule_of(aged(NOW + 11)) == "dpop.age"


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize("claimed", ["", None, 7, "é", TOKEN, access_token_hash("another")])
def test_proof_for_another_token_is_refused(claimed: object) -> None:
    assert rule_of(verified(proof(ath=claimed))) == "dpop.token"


@pytest.mark.requirement("attack-15")
def test_proof_by_another_key_than_the_tokens_is_refused() -> None:
    stolen = sign({**HEADER, "jwk": public_jwk(STRANGER)}, CLAIMS, STRANGER)

    assert rule_of(verified(stolen)) == "dpop.binding"
    assert isinstance(verified(stolen, expected_thumbprint=STRANGER.thumbprint()), DpopProof)
    assert rule_of(verified(proof(), expected_thumbprint="")) == "dpop.binding"


@pytest.mark.requirement("attack-15")
def test_proof_replayed_has_the_same_replay_key_whatever_else_it_says() -> None:
    first, again = verified(proof()), verified(proof(htm="GET", iat=NOW - 1), method="GET")
    other = verified(proof(jti="another-jti"))
    stranger = verified(
        sign({**HEADER, "jwk": public_jwk(STRANGER)}, CLAIMS, STRANGER), expected_thumbprint=None
    )

    assert isinstance(first, DpopProof)
    assert isinstance(again, DpopProof)
    assert isinstance(other, DpopProof)
    assert isinstance(stranger, DpopProof)
    assert first.replay_key == again.replay_key
    assert len({first.replay_key, other.replay_key, stranger.replay_key}) == 3


@pytest.mark.requirement("RFC9449-4.3")
@pytest.mark.parametrize("claimed", [None, "", "old", 7, ["fresh"], "é"])
def test_proof_without_the_demanded_nonce_is_refused(claimed: object) -> None:
    refusal = verified(proof(nonce=claimed), nonce="fresh")

    text = "The proof must contain the nonce of the server."
    assert refusal == Refusal("use_dpop_nonce", text, text, "dpop.nonce")


@pytest.mark.requirement("RFC9449-4.3")
def test_proof_with_the_demanded_nonce_is_accepted() -> None:
    assert isinstance(verified(proof(nonce="fresh"), nonce="fresh"), DpopProof)
    assert rule_of(verified(proof(), nonce="fresh")) == "dpop.nonce"


def test_access_token_hash_is_its_sha256() -> None:
    assert access_token_hash("abc") == "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
