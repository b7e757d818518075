"""The keys of the authority: one active key per purpose, encrypted at rest, separate by use.

Opening: every purpose without an active key gets one (of several processes one wins), then all
keys are decrypted into memory once. The private part is AES-256-GCM under a key-encryption key
(KEK); key id, algorithm, purpose and state are authenticated with it, so a row moved to another
purpose or state does not open. The vault's key has a KEK of its own: who can read signing keys
cannot open secrets. Left out: rotation (the states are there) and where KEK bytes come from.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authz_server.issuing.signer import Es256Signer, Signer
from authz_server.store.signing_keys import KeyState, SigningKeyStore, StoredKey
from token_exchange.compact_jws import decode_base64url, encode_base64url
from token_exchange.identifiers import new_id
from token_exchange.keys import VerificationKeys
from token_exchange.token_types import (
    ACCESS_TOKEN_TYP,
    ATTESTATION_TYP,
    ID_TOKEN_TYP,
    SIGNING_ALGORITHM,
    SNAPSHOT_TYP,
)

KEK_BYTES: Final = 32
NONCE_BYTES: Final = 12
SYMMETRIC_KEY_BYTES: Final = 32
KEY_AGREEMENT: Final = "ECDH-ES"
HMAC: Final = "HS256"
AEAD: Final = "A256GCM"


class KeyPurpose(StrEnum):
    """What a key is for; a key never serves two."""

    TOKENS = "tokens"
    ID_TOKENS = "id_tokens"
    ATTESTATION = "attestation"
    CONTROL = "control"
    VAULT = "vault"
    PAIRWISE = "pairwise"
    SESSIONS = "sessions"
    FORMS = "forms"


# The one `typ` each signing purpose signs.
TYP_OF: Final[Mapping[KeyPurpose, str]] = {
    KeyPurpose.TOKENS: ACCESS_TOKEN_TYP,
    KeyPurpose.ID_TOKENS: ID_TOKEN_TYP,
    KeyPurpose.ATTESTATION: ATTESTATION_TYP,
    KeyPurpose.CONTROL: SNAPSHOT_TYP,
}
ALGORITHM_OF: Final[Mapping[KeyPurpose, str]] = {
    **dict.fromkeys(TYP_OF, SIGNING_ALGORITHM),
    KeyPurpose.VAULT: KEY_AGREEMENT,
    KeyPurpose.PAIRWISE: HMAC,
    KeyPurpose.SESSIONS: AEAD,
    KeyPurpose.FORMS: HMAC,
}
SYMMETRIC: Final = {  # key id prefixes
    KeyPurpose.PAIRWISE: "hmac",
    KeyPurpose.SESSIONS: "aead",
    KeyPurpose.FORMS: "hmac",
}
PUBLISHED: Final = (KeyPurpose.TOKENS, KeyPurpose.ID_TOKENS)  # in the JWKS


class KeyRingError(Exception):
    """The keys cannot be used: a wrong KEK, or a row that was altered. The process must not run."""


@dataclass(frozen=True, slots=True)
class _Key:
    """One key in memory. `private` is the raw private number, or the symmetric key."""

    key_id: str
    purpose: KeyPurpose
    state: KeyState
    public_jwk: Mapping[str, Any]
    private: bytes


class KeyRing:
    """Every key of the authority, decrypted. Private parts leave only to sign and to unseal."""

    def __init__(self, keys: tuple[_Key, ...]) -> None:
        """Use `KeyRing.open`."""
        self._keys = keys
        self._signers = {
            key.purpose: Es256Signer(
                _private_key(key.private), key_id=key.key_id, typ=TYP_OF[key.purpose]
            )
            for key in keys
            if key.state is KeyState.ACTIVE and key.purpose in TYP_OF
        }

    @classmethod
    async def open(
        cls,
        store: SigningKeyStore,
        *,
        signing_kek: bytes,
        vault_kek: bytes,
        random: Callable[[int], bytes],
        now_ms: int,
    ) -> "KeyRing":
        """Read every key, first making those that are missing.

        Raises:
            KeyRingError: A KEK has the wrong size or is not the one the keys were sealed with.
        """
        if signing_kek == vault_kek:
            raise KeyRingError("the vault needs a key-encryption key of its own")
        present = {(key.purpose, key.state) for key in store.all()}
        for purpose in KeyPurpose:
            if (purpose.value, KeyState.ACTIVE) not in present:
                kek = vault_kek if purpose is KeyPurpose.VAULT else signing_kek
                await store.add_unless_active(_sealed_new_key(purpose, kek, random, now_ms))
        keys = tuple(
            _opened(key, vault_kek if key.purpose == KeyPurpose.VAULT else signing_kek)
            for key in store.all()
        )
        return cls(keys)

    def signer(self, purpose: KeyPurpose) -> Signer:
        """Signs the one `typ` of this purpose with its active key."""
        return self._signers[purpose]

    def sign(self, purpose: KeyPurpose, claims: object) -> str:
        """`claims` (a mapping or struct) as the one kind of JWT this purpose signs."""
        return self._signers[purpose].sign(claims)

    def published_jwks(self) -> tuple[dict[str, Any], ...]:
        """The keys of the JWK Set document: what verifies access tokens and ID tokens."""
        return tuple(jwk for purpose in PUBLISHED for jwk in self.public_jwks(purpose))

    def public_jwks(self, purpose: KeyPurpose) -> tuple[dict[str, Any], ...]:
        """The public keys of one purpose, next and retired ones too."""
        return tuple(dict(key.public_jwk) for key in self._keys if key.purpose is purpose)

    def active_public_jwk(self, purpose: KeyPurpose) -> dict[str, Any]:
        """The public part of the key that signs or receives now."""
        return dict(self._active(purpose).public_jwk)

    def verification_keys(self, purpose: KeyPurpose) -> VerificationKeys:
        """The keys that may have signed something of this purpose."""
        return self._verification_keys[purpose]

    def vault_private_jwk(self, key_id: str) -> dict[str, Any] | None:
        """The private key secrets are sealed to, for the moment of unsealing; None if not ours."""
        for key in self._keys:
            if key.purpose is KeyPurpose.VAULT and key.key_id == key_id:
                return {**key.public_jwk, "d": encode_base64url(key.private)}
        return None

    def pairwise_key(self) -> bytes:
        """The HMAC key of pairwise subjects."""
        return self._active(KeyPurpose.PAIRWISE).private

    def session_key(self) -> bytes:
        """The AEAD key that seals what belongs to a login session."""
        return self._active(KeyPurpose.SESSIONS).private

    def form_key(self) -> bytes:
        """The HMAC key of the tokens in our pages' forms."""
        return self._active(KeyPurpose.FORMS).private

    @cached_property
    def _verification_keys(self) -> dict[KeyPurpose, VerificationKeys]:
        return {purpose: VerificationKeys.of(self.public_jwks(purpose)) for purpose in TYP_OF}

    def _active(self, purpose: KeyPurpose) -> _Key:
        return next(
            key for key in self._keys if key.purpose is purpose and key.state is KeyState.ACTIVE
        )


def _sealed_new_key(
    purpose: KeyPurpose, kek: bytes, random: Callable[[int], bytes], now_ms: int
) -> StoredKey:
    algorithm = ALGORITHM_OF[purpose]
    if purpose in SYMMETRIC:
        # RFC 7638 §7: the thumbprint of a symmetric key would be a digest of the secret.
        key_id, public_jwk = new_id(SYMMETRIC[purpose], random), b""
        private = random(SYMMETRIC_KEY_BYTES)
    else:
        key_id, public_jwk, private = _new_p256(purpose, algorithm)
    nonce = random(NONCE_BYTES)
    aad = _authenticated(key_id, algorithm, purpose.value, KeyState.ACTIVE)
    return StoredKey(
        key_id=key_id,
        purpose=purpose.value,
        algorithm=algorithm,
        state=KeyState.ACTIVE,
        public_jwk=public_jwk.decode(),
        nonce=nonce,
        sealed_private=_cipher(kek).encrypt(nonce, private, aad),
        kek_id=_kek_id(kek),
        created_at_ms=now_ms,
    )


def _new_p256(purpose: KeyPurpose, algorithm: str) -> tuple[str, bytes, bytes]:
    private_key = ec.generate_private_key(ec.SECP256R1())
    numbers = private_key.private_numbers()
    point = numbers.public_numbers
    x, y = (encode_base64url(value.to_bytes(32, "big")) for value in (point.x, point.y))
    # RFC 7638 §3.2: the required members, in lexicographic order, without whitespace.
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    key_id = encode_base64url(hashlib.sha256(canonical.encode()).digest())
    public_jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": x,
        "y": y,
        "kid": key_id,
        "alg": algorithm,
        "use": "enc" if purpose is KeyPurpose.VAULT else "sig",
    }
    return key_id, msgspec.json.encode(public_jwk), numbers.private_value.to_bytes(32, "big")


def _opened(stored: StoredKey, kek: bytes) -> _Key:
    aad = _authenticated(stored.key_id, stored.algorithm, stored.purpose, stored.state)
    try:
        private = _cipher(kek).decrypt(stored.nonce, stored.sealed_private, aad)
    except InvalidTag:
        reason = "was altered" if stored.kek_id == _kek_id(kek) else "is sealed with another KEK"
        raise KeyRingError(f"the {stored.purpose} key {stored.key_id} {reason}") from None
    purpose = KeyPurpose(stored.purpose)
    public_jwk = msgspec.json.decode(stored.public_jwk) if stored.public_jwk else {}
    key = _Key(stored.key_id, purpose, stored.state, public_jwk, private)
    if public_jwk:
        _require_pair(key)
    return key


def _require_pair(key: _Key) -> None:
    """INVARIANT: the public key we publish is the private key's; the row's is not authenticated."""
    point = _private_key(key.private).public_key().public_numbers()
    claimed = (decode_base64url(key.public_jwk["x"]), decode_base64url(key.public_jwk["y"]))
    if claimed != (point.x.to_bytes(32, "big"), point.y.to_bytes(32, "big")):
        raise KeyRingError(f"the {key.purpose} key {key.key_id} was altered")


def _private_key(private: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())


def _authenticated(key_id: str, algorithm: str, purpose: str, state: KeyState) -> bytes:
    return f"{key_id}|{algorithm}|{purpose}|{state.value}".encode()


def _cipher(kek: bytes) -> AESGCM:
    if len(kek) != KEK_BYTES:
        raise KeyRingError(f"a key-encryption key has exactly {KEK_BYTES} bytes")
    return AESGCM(kek)


def _kek_id(kek: bytes) -> str:
    # A domain-separated digest: names the KEK, and 256 random bits cannot be found from it.
    return hashlib.sha256(b"countersign kek id\0" + kek).hexdigest()[:16]
