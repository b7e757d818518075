import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey, OKPKey

from credential_providers.vault.seal import (
    MAXIMUM_SECRET_BYTES,
    UnusableKeyError,
    seal_credential,
    seal_secret,
    sealed_header,
    unseal_credential,
    unseal_secret,
)
from tests.credential_providers.samples import GATEWAY_KEY, VAULT_KEY
from token_exchange.claims import Refusal
from token_exchange.compact_jws import decode_base64url, encode_base64url

PUBLIC = VAULT_KEY.as_dict(private=False)
PRIVATE = VAULT_KEY.as_dict(private=True)


@given(st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()))
@settings(max_examples=50, deadline=None)
def test_sealed_secret_opens_to_exactly_what_was_sealed(value: str) -> None:
    assert unseal_secret("notes-key", seal_secret("notes-key", value, PUBLIC), PRIVATE) == value


@pytest.mark.requirement("trap-moved-secret")
def test_sealed_secret_moved_to_another_name_is_refused() -> None:
    sealed = seal_secret("notes-key", "k-123", PUBLIC)
    assert isinstance(unseal_secret("crm-key", sealed, PRIVATE), Refusal)


@pytest.mark.requirement("trap-moved-secret")
def test_sealed_secret_whose_header_was_renamed_is_refused() -> None:
    header, rest = seal_secret("notes-key", "k-123", PUBLIC).split(".", 1)
    members = json.loads(decode_base64url(header) or b"")
    renamed = encode_base64url(json.dumps(members | {"secret": "crm-key"}).encode())
    assert isinstance(unseal_secret("crm-key", f"{renamed}.{rest}", PRIVATE), Refusal)


def test_sealed_secret_with_another_key_is_refused() -> None:
    sealed = seal_secret("notes-key", "k-123", PUBLIC)
    refusal = unseal_secret("notes-key", sealed, GATEWAY_KEY.as_dict(private=True))
    assert isinstance(refusal, Refusal)
    assert "k-123" not in repr(refusal)


def test_credential_offered_as_a_secret_is_refused_and_the_reverse() -> None:
    credential = seal_credential("X-Key", "v", PUBLIC)
    assert isinstance(unseal_secret("notes-key", credential, PRIVATE), Refusal)
    secret = seal_secret("notes-key", "k-123", PUBLIC)
    assert isinstance(unseal_credential(secret, PRIVATE), Refusal)
    assert unseal_credential(credential, PRIVATE) == ("X-Key", "v")


@pytest.mark.parametrize("position", range(5))
def test_sealed_secret_altered_in_any_part_is_refused(position: int) -> None:
    segments = seal_secret("notes-key", "k-123", PUBLIC).split(".")
    segments[position] = ("B" if segments[position].startswith("A") else "A") + segments[position][
        1:
    ]
    altered = ".".join(segments)
    assert isinstance(unseal_secret("notes-key", altered, PRIVATE), Refusal)


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize(
    ("algorithm", "encryption"), [("ECDH-ES+A128KW", "A256GCM"), ("ECDH-ES", "A128GCM")]
)
def test_sealed_secret_by_another_algorithm_is_refused(algorithm: str, encryption: str) -> None:
    registry = jwe.JWERegistry(algorithms=[algorithm, encryption], strict_check_header=False)
    header = {
        "alg": algorithm,
        "enc": encryption,
        "typ": "countersign-secret+jwe",
        "secret": "notes-key",
    }
    sealed = jwe.encrypt_compact(header, b"k-123", VAULT_KEY, registry=registry)
    assert isinstance(unseal_secret("notes-key", sealed, PRIVATE), Refusal)


@pytest.mark.parametrize(
    "rubbish",
    ["", "....", "a.b.c.d.e", "e30....", "x" * 20_000, "\ud800....", "bnVsbA....", "W10....",
     encode_base64url(b'{"alg":"ECDH-ES","enc":"A256GCM","typ":"countersign-secret+jwe"}') + "....",
     encode_base64url(b'{"alg":"ECDH-ES","enc":"A256GCM","typ":"countersign-secret+jwe",'
                      b'"secret":"notes-key","epk":7}') + "..AAAA.AAAA.AAAA",
     encode_base64url(b'{"alg":"ECDH-ES","enc":"A256GCM","typ":"countersign-secret+jwe",'
                      b'"secret":"notes-key","epk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}')
     + "..AAAA.AAAA.AAAA"],
)  # fmt: skip
def test_sealed_secret_that_is_rubbish_is_refused_not_raised(rubbish: str) -> None:
    assert isinstance(unseal_secret("notes-key", rubbish, PRIVATE), Refusal)


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_sealed_header_of_anything_never_raises(text: str) -> None:
    assert isinstance(sealed_header(text), Refusal)


@pytest.mark.parametrize("name", ["", "Notes", "a/b", "a\n", "-a", "x" * 64])
def test_seal_under_a_name_that_is_no_label_raises(name: str) -> None:
    with pytest.raises(ValueError, match="DNS label"):
        seal_secret(name, "k-123", PUBLIC)


@pytest.mark.parametrize("value", ["", "x" * (MAXIMUM_SECRET_BYTES + 1)])
def test_seal_of_an_empty_or_oversize_value_raises(value: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        seal_secret("notes-key", value, PUBLIC)


def test_seal_of_the_largest_value_opens_again() -> None:
    value = "x" * MAXIMUM_SECRET_BYTES
    assert unseal_secret("notes-key", seal_secret("notes-key", value, PUBLIC), PRIVATE) == value


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        OKPKey.generate_key("X25519").as_dict(private=False),
        ECKey.generate_key("P-384").as_dict(private=False),
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": None},
    ],
)
def test_seal_to_a_key_that_is_no_p256_point_raises(jwk: dict[str, object]) -> None:
    with pytest.raises(UnusableKeyError):
        seal_secret("notes-key", "k-123", jwk)
    with pytest.raises(UnusableKeyError):
        seal_credential("X-Key", "v", jwk)


def test_seal_to_a_key_marked_for_signing_works_for_it_is_the_gateways_only_key() -> None:
    jwk = GATEWAY_KEY.as_dict(private=False) | {"use": "sig", "alg": "ES256"}
    private = GATEWAY_KEY.as_dict(private=True)
    assert unseal_credential(seal_credential("X-Key", "v", jwk), private) == ("X-Key", "v")


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"{}", b"null", b'{"header":"X"}'])
def test_sealed_value_that_is_not_what_its_kind_says_is_refused(payload: bytes) -> None:
    registry = jwe.JWERegistry(strict_check_header=False)
    opened = []
    for typ, name in (("countersign-secret+jwe", "notes-key"), ("countersign-credential+jwe", "")):
        header = {"alg": "ECDH-ES", "enc": "A256GCM", "typ": typ, "secret": name}
        sealed = jwe.encrypt_compact(header, payload, VAULT_KEY, registry=registry)
        opened.append(
            unseal_secret(name, sealed, PRIVATE) if name else unseal_credential(sealed, PRIVATE)
        )
    assert isinstance(opened[0], Refusal) is (payload == b"\xff")
    assert isinstance(opened[1], Refusal)
