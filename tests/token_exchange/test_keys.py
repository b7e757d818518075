import base64
from collections.abc import Mapping

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from tests.token_exchange.signing import SIGNER, STRANGER, base64url, public_jwk
from token_exchange.claims import Refusal
from token_exchange.keys import PublicKey, VerificationKeys, public_key_of

JWK = public_jwk(SIGNER)


def x_of(jwk: dict[str, str]) -> bytes:
    return base64.urlsafe_b64decode(jwk["x"] + "=")


def key_with_leading_zero() -> dict[str, str]:
    """A key whose x starts with a zero byte, so that its number has a shorter spelling."""
    while True:
        jwk = public_jwk(ECKey.generate_key("P-256"))
        if x_of(jwk).startswith(b"\x00"):
            return jwk


@pytest.mark.requirement("RFC7638-3")
def test_key_public_is_taken_with_its_thumbprint() -> None:
    key = public_key_of({**JWK, "use": "sig", "alg": "ES256", "kid": "mine", "x5u": "http://x"})

    assert isinstance(key, PublicKey)
    assert key.thumbprint == SIGNER.thumbprint()
    assert key.algorithm == "ES256"
    assert not key.key.is_private


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_key_with_a_private_member_is_refused(member: str) -> None:
    text = "The key contains private members."

    assert public_key_of({**JWK, member: "AA"}) == Refusal(
        "invalid_request", text, text, "key.private"
    )


@pytest.mark.parametrize(
    ("unverified", "rule"),
    [
        (None, "key.form"),
        ("{}", "key.form"),
        ([], "key.form"),
        ({}, "key.type"),
        ({**JWK, "kty": "RSA"}, "key.type"),
        ({**JWK, "kty": "OKP"}, "key.type"),
        ({**JWK, "crv": "P-384"}, "key.type"),
        ({**JWK, "crv": ["P-256"]}, "key.type"),
        (public_jwk(ECKey.generate_key("P-384")), "key.type"),
        (RSAKey.generate_key(2048).as_dict(private=False), "key.type"),
        (OctKey.generate_key(256).as_dict(private=False), "key.private"),
        ({**JWK, "use": "enc"}, "key.purpose"),
        ({**JWK, "use": None}, "key.purpose"),
        ({**JWK, "alg": "HS256"}, "key.purpose"),
        ({**JWK, "alg": "none"}, "key.purpose"),
        ({**JWK, "x": None}, "key.coordinates"),
        ({**JWK, "y": 7}, "key.coordinates"),
        ({**JWK, "x": JWK["x"] + "="}, "key.coordinates"),
        ({**JWK, "y": JWK["y"] + "\n"}, "key.coordinates"),
        ({**JWK, "x": JWK["x"][:-2]}, "key.coordinates"),
        ({**JWK, "y": base64url(b"\x00" + b"\x01" * 32)}, "key.coordinates"),
        ({**JWK, "x": "!" * 43}, "key.coordinates"),
        ({**JWK, "x": base64url(b"\xff" * 32)}, "key.point"),
        ({**JWK, "y": base64url(b"\x01" * 32)}, "key.point"),
        ({**JWK, "x": base64url(bytes(32)), "y": base64url(bytes(32))}, "key.point"),
    ],
)
def test_key_that_is_no_public_p256_signature_key_is_refused(unverified: object, rule: str) -> None:
    refusal = public_key_of(unverified)

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.code) == (rule, "invalid_request")


@pytest.mark.requirement("RFC7638-3")
def test_key_with_a_shortened_coordinate_is_refused() -> None:
    jwk = key_with_leading_zero()
    assert isinstance(public_key_of(jwk), PublicKey)

    refusal = public_key_of({**jwk, "x": base64url(x_of(jwk)[1:])})

    assert isinstance(refusal, Refusal)
    assert refusal.rule == "key.coordinates"


def test_keys_are_found_by_kid_or_thumbprint_only() -> None:
    keys = VerificationKeys.of([JWK, {**public_jwk(STRANGER), "kid": "named"}])

    mine, named = keys.find(SIGNER.thumbprint()), keys.find("named")
    assert mine is not None
    assert mine.thumbprint == SIGNER.thumbprint()
    assert named is not None
    assert named.thumbprint == STRANGER.thumbprint()
    assert keys.find(STRANGER.thumbprint()) is None


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize(
    "key_id",
    [None, 7, ["a"], {}, "", "../../etc/passwd", "' OR 1=1 --", "http://evil/jwks", "a\x00b"],
)
def test_keys_kid_that_is_a_path_query_or_url_finds_nothing(key_id: object) -> None:
    assert VerificationKeys.of([JWK]).find(key_id) is None


def test_keys_same_key_twice_is_accepted() -> None:
    assert len(VerificationKeys.of([JWK, JWK]).by_key_id) == 1


@pytest.mark.parametrize(
    ("jwks", "message"),
    [
        ([JWK, {**JWK, "d": "AA"}], "The key contains private members."),
        ([{**JWK, "kid": ""}], "a key's kid is not a short text"),
        ([{**JWK, "kid": 7}], "a key's kid is not a short text"),
        ([{**JWK, "kid": "k" * 129}], "a key's kid is not a short text"),
        ([{**JWK, "kid": "k"}, {**public_jwk(STRANGER), "kid": "k"}], "two keys have the same kid"),
    ],
)
def test_keys_of_a_set_that_is_partly_wrong_are_not_used(
    jwks: list[Mapping[str, object]], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        VerificationKeys.of(jwks)


@pytest.mark.parametrize("key_id", ["k", "k" * 128])
def test_keys_kid_of_accepted_length_is_found(key_id: str) -> None:
    assert VerificationKeys.of([{**JWK, "kid": key_id}]).find(key_id) is not None


def test_keys_cannot_be_changed() -> None:
    keys = VerificationKeys.of([JWK])

    with pytest.raises(TypeError):
        keys.by_key_id["other"] = keys.by_key_id[SIGNER.thumbprint()]  # type: ignore[index] # the point


@pytest.mark.requirement("RFC7638-3")
def test_thumbprint_equals_the_librarys() -> None:
    assert VerificationKeys.thumbprint_of(JWK) == SIGNER.thumbprint()


def test_thumbprint_of_no_key_raises() -> None:
    with pytest.raises(ValueError, match=r"^The key is not an EC key on P-256\.$"):
        VerificationKeys.thumbprint_of({})
