import json

from hypothesis import given
from hypothesis import strategies as st

from tests.token_exchange.signing import (
    ENDPOINT,
    ISSUER,
    KEYS,
    NOW,
    access_token,
    access_token_claims,
    access_token_header,
    base64url,
    sign,
)
from token_exchange.claims import Refusal, VerifiedClaims
from token_exchange.compact_jws import decode_base64url, encode_base64url, parse_json
from token_exchange.proof_of_possession import normalised_uri, verify_dpop_proof
from token_exchange.verify import unverified_claims, verify_access_token

TOKEN = access_token()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


def verified(token: str, now: int = NOW) -> VerifiedClaims | Refusal:
    return verify_access_token(token, keys=KEYS, issuer=ISSUER, audiences=(ENDPOINT,), now=now)


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_token_with_any_other_character_is_refused(position: int, character: str) -> None:
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]

    assert isinstance(verified(changed), VerifiedClaims) == (changed == TOKEN)


@given(st.text())
def test_text_of_any_kind_is_refused_without_a_fault(text: str) -> None:
    assert isinstance(verified(text), Refusal)
    assert isinstance(unverified_claims(text), Refusal)
    proof = verify_dpop_proof(
        text, method="POST", uri=ENDPOINT, now=NOW, access_token=None, expected_thumbprint=None
    )
    assert isinstance(proof, Refusal)


@given(st.sampled_from(sorted(access_token_claims())), JSON)
def test_token_signed_with_any_claim_value_never_faults(name: str, value: object) -> None:
    result = verified(access_token(**{name: value}))

    if isinstance(result, VerifiedClaims):
        assert result.token.iss == ISSUER
        assert result.token.aud == ENDPOINT
        assert NOW < result.token.exp <= NOW + 900


@given(st.sampled_from(sorted(access_token_header())), JSON)
def test_token_signed_with_any_header_value_is_refused(name: str, value: object) -> None:
    token = sign(access_token_header(**{name: value}), access_token_claims())

    assert isinstance(verified(token), Refusal)


@given(st.integers(-1000, 2000))
def test_token_is_accepted_only_between_its_times(offset: int) -> None:
    accepted = isinstance(verified(TOKEN, NOW + offset), VerifiedClaims)

    assert accepted == (-5 <= offset < 900)


@given(JSON)
def test_json_of_any_value_is_read_as_the_standard_reads_it(value: object) -> None:
    for escaped in (True, False):
        text = json.dumps(value, ensure_ascii=escaped)
        assert parse_json(text.encode()) == json.loads(text)


@given(st.binary(max_size=200))
def test_json_of_any_bytes_never_faults(data: bytes) -> None:
    parse_json(data)


@given(st.binary(max_size=64), st.characters())
def test_base64url_has_one_spelling(data: bytes, character: str) -> None:
    text = base64url(data)

    assert encode_base64url(data) == text
    assert decode_base64url(text) == data
    assert decode_base64url(text + character) != data


@given(st.text())
def test_uri_normal_form_is_its_own_normal_form(tail: str) -> None:
    normal = normalised_uri(f"http://h/{tail}")

    assert normal is None or normalised_uri(normal) == normal
