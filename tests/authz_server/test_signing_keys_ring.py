"""The key ring: one active key per purpose, encrypted at rest, separate by use."""

import asyncio
import secrets
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import update
from sqlmodel import col

from authz_server.issuing.signing_keys import KeyPurpose, KeyRing, KeyRingError
from authz_server.store.signing_keys import KeyState, SigningKeyRow, SigningKeyStore
from credential_providers.vault.seal import seal_secret, unseal_secret
from database.engine import Database
from tests.databases import everything_in
from token_exchange.claims import Refusal, VerifiedJwt
from token_exchange.verify import verify_jwt

NOW_MS = 1_800_000_000_000
SIGNING_KEK = b"s" * 32
VAULT_KEK = b"v" * 32


@pytest.fixture
def database(database_url_with_tables: str) -> Iterator[Database]:
    database = Database.open(database_url_with_tables)
    yield database
    database.close()


def open_ring(
    database: Database, signing: bytes = SIGNING_KEK, vault: bytes = VAULT_KEK
) -> KeyRing:
    return asyncio.run(
        KeyRing.open(
            SigningKeyStore(database),
            signing_kek=signing,
            vault_kek=vault,
            random=secrets.token_bytes,
            now_ms=NOW_MS,
        )
    )


def change(database: Database, of: str, **values: object) -> None:
    statement = update(SigningKeyRow).where(col(SigningKeyRow.purpose) == of).values(**values)
    database.write_now(lambda connection: connection.execute(statement).rowcount)


def test_signing_keys_of_a_new_database_are_one_per_purpose(database: Database) -> None:
    open_ring(database)
    stored = SigningKeyStore(database).all()
    assert sorted(key.purpose for key in stored) == sorted(KeyPurpose)
    assert {key.state for key in stored} == {KeyState.ACTIVE}


def test_signing_keys_survive_a_restart(database: Database) -> None:
    first, second = open_ring(database), open_ring(database)
    assert first.published_jwks() == second.published_jwks()
    assert first.pairwise_key() == second.pairwise_key()


@pytest.mark.requirement("keys-one-active")
def test_signing_keys_made_by_several_processes_at_once_are_the_same(
    database: Database, database_url_with_tables: str
) -> None:
    processes = [database, *(Database.open(database_url_with_tables) for _ in range(3))]

    async def all_at_once() -> list[KeyRing]:
        opening = (
            KeyRing.open(
                SigningKeyStore(database),
                signing_kek=SIGNING_KEK,
                vault_kek=VAULT_KEK,
                random=secrets.token_bytes,
                now_ms=NOW_MS,
            )
            for database in processes
        )
        return await asyncio.gather(*opening)

    rings = asyncio.run(all_at_once())
    assert len(SigningKeyStore(processes[0]).all()) == len(KeyPurpose)
    assert len({ring.active_public_jwk(KeyPurpose.TOKENS)["kid"] for ring in rings}) == 1
    assert len({ring.pairwise_key() for ring in rings}) == 1
    for process in processes:
        process.close()


def test_signing_keys_publish_only_token_and_id_token_keys(database: Database) -> None:
    ring = open_ring(database)
    published = {jwk["kid"] for jwk in ring.published_jwks()}
    assert published == {
        ring.active_public_jwk(purpose)["kid"]
        for purpose in (KeyPurpose.TOKENS, KeyPurpose.ID_TOKENS)
    }
    assert all(
        set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"} for jwk in ring.published_jwks()
    )


def test_signing_keys_next_and_retired_stay_published_but_do_not_sign(database: Database) -> None:
    before = open_ring(database)
    old = before.active_public_jwk(KeyPurpose.TOKENS)["kid"]
    retire(database, KeyPurpose.TOKENS)
    after = open_ring(database)
    new = after.active_public_jwk(KeyPurpose.TOKENS)["kid"]
    assert new != old
    assert {old, new} <= {jwk["kid"] for jwk in after.published_jwks()}
    assert (
        verified(after, after.sign(KeyPurpose.TOKENS, {"iss": "me", "exp": 9, "iat": 1})).header[
            "kid"
        ]
        == new
    )


def retire(database: Database, purpose: KeyPurpose) -> None:
    """Seal the active key again as retired, as a rotation will."""
    (key,) = (key for key in SigningKeyStore(database).all() if key.purpose == purpose)
    cipher = AESGCM(SIGNING_KEK)
    aad = f"{key.key_id}|{key.algorithm}|{key.purpose}|"
    private = cipher.decrypt(key.nonce, key.sealed_private, f"{aad}active".encode())
    sealed = cipher.encrypt(key.nonce, private, f"{aad}retired".encode())
    change(database, purpose, state=KeyState.RETIRED, sealed_private=sealed)


def verified(ring: KeyRing, token: str, purpose: KeyPurpose = KeyPurpose.TOKENS) -> VerifiedJwt:
    result = verify_jwt(
        token,
        keys=ring.verification_keys(purpose),
        algorithms=frozenset({"ES256"}),
        typ="at+jwt",
        issuer="me",
        audience=None,
        now=2,
    )
    assert isinstance(result, VerifiedJwt), result
    return result


def test_signing_keys_sign_what_the_library_verifies_every_time(database: Database) -> None:
    ring = open_ring(database)
    for number in range(50):  # r and s of every length
        claims = {"iss": "me", "exp": 9, "iat": 1, "n": number}
        assert verified(ring, ring.sign(KeyPurpose.TOKENS, claims)).claims == claims


@pytest.mark.requirement("attack-6")
def test_signing_keys_of_another_purpose_do_not_verify(database: Database) -> None:
    ring = open_ring(database)
    token = ring.sign(KeyPurpose.ID_TOKENS, {"iss": "me", "exp": 9, "iat": 1})
    result = verify_jwt(
        token,
        keys=ring.verification_keys(KeyPurpose.TOKENS),
        algorithms=frozenset({"ES256"}),
        typ="JWT",
        issuer="me",
        audience=None,
        now=2,
    )
    assert isinstance(result, Refusal)


def test_signing_keys_sign_one_typ_only(database: Database) -> None:
    signer = open_ring(database).signer(KeyPurpose.ATTESTATION)
    assert signer.sign({"a": 1}, typ="countersign-attestation+jwt")
    with pytest.raises(ValueError, match="another kind"):
        signer.sign({"a": 1}, typ="at+jwt")


@pytest.mark.parametrize(
    ("signing", "vault"),
    [
        (b"x" * 32, VAULT_KEK),
        (SIGNING_KEK, b"x" * 32),
        (b"short", VAULT_KEK),
        (b"s" * 32, b"s" * 32),
    ],
)
@pytest.mark.requirement("keys-at-rest")
def test_signing_keys_with_a_wrong_kek_do_not_open(
    database: Database, signing: bytes, vault: bytes
) -> None:
    open_ring(database)
    with pytest.raises(KeyRingError):
        open_ring(database, signing, vault)


@pytest.mark.parametrize(
    "values",
    [
        {"state": "next"},
        {"algorithm": "none"},
        {"key_id": "another"},
        {"sealed_private": b"\0" * 48},
        {"public_jwk": '{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA","kid":"k"}'},
    ],
)
@pytest.mark.requirement("keys-at-rest")
def test_signing_keys_that_were_altered_do_not_open(
    database: Database, values: dict[str, object]
) -> None:
    open_ring(database)
    change(database, "control", **values)
    with pytest.raises(KeyRingError):
        open_ring(database)


def test_signing_keys_moved_to_another_purpose_do_not_open(database: Database) -> None:
    open_ring(database)
    change(database, "tokens", state="gone")
    change(database, "id_tokens", purpose="tokens")
    with pytest.raises(KeyRingError):
        open_ring(database)


def test_signing_keys_at_rest_hold_no_private_part(database: Database) -> None:
    ring = open_ring(database)
    private = ring.vault_private_jwk(ring.active_public_jwk(KeyPurpose.VAULT)["kid"])
    assert private is not None
    content = everything_in(database)
    assert private["d"].encode() not in content
    assert ring.pairwise_key() not in content


def test_signing_keys_vault_opens_what_was_sealed_to_it(database: Database) -> None:
    ring = open_ring(database)
    public = ring.active_public_jwk(KeyPurpose.VAULT)
    sealed = seal_secret("api", "a secret value", public)
    private = ring.vault_private_jwk(public["kid"])
    assert private is not None
    assert unseal_secret("api", sealed, private) == "a secret value"
    assert ring.vault_private_jwk(ring.active_public_jwk(KeyPurpose.TOKENS)["kid"]) is None
