"""Sealing a secret to the authority's public key, and opening it. Pure: keys are arguments.

A sealed secret is a compact JWE (RFC 7516) by ECDH-ES with A256GCM to an EC P-256 key. Its name
is in the protected header, so it is authenticated with the ciphertext: a row copied under another
name does not open. Anyone who has the public key can seal, which is the intent: the CLI seals on
the operator's machine and the admin API stores only ciphertext. Left out: who may store (the
admin API) and which version is current (`credential_providers.vault.store`).
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwe import CompactEncryption, JWERegistry, decrypt_compact, encrypt_compact
from joserfc.jwk import ECKey
from joserfc.registry import HeaderParameter

from token_exchange.claims import Refusal
from token_exchange.compact_jws import decode_base64url, parse_json_object

SECRET_TYP: Final = "countersign-secret+jwe"  # noqa: S105 - a type's name
CREDENTIAL_TYP: Final = "countersign-credential+jwe"
KEY_AGREEMENT: Final = "ECDH-ES"
CONTENT_ENCRYPTION: Final = "A256GCM"
MAXIMUM_SECRET_BYTES: Final = 8192  # header values beyond this are refused by common servers
MAXIMUM_SEALED_BYTES: Final = 16_384  # size gate before any parsing

_ALGORITHMS: Final = (KEY_AGREEMENT, CONTENT_ENCRYPTION)  # no `zip`: compression leaks lengths
_SECRET_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PUBLIC_MEMBERS: Final = ("kty", "crv", "x", "y")


class UnusableKeyError(ValueError):
    """The given JWK is no EC P-256 key."""


def seal_secret(name: str, value: str, jwk: Mapping[str, Any]) -> str:
    """Seal `value` under `name` to the public `jwk`.

    Raises:
        UnusableKeyError: The key is no EC P-256 key.
        ValueError: The name is no DNS label, or the value is empty or over 8 KiB.
    """
    if _SECRET_NAME.fullmatch(name) is None:
        raise ValueError("a secret's name must be a DNS label")
    plaintext = value.encode()
    if not 0 < len(plaintext) <= MAXIMUM_SECRET_BYTES:
        raise ValueError(f"a secret must have 1 to {MAXIMUM_SECRET_BYTES} bytes")
    return _seal({"typ": SECRET_TYP, "secret": name}, plaintext, jwk)


def unseal_secret(name: str, sealed: str, private_jwk: Mapping[str, Any]) -> str | Refusal:
    """Open a secret that was sealed under exactly this `name`."""
    opened = _unseal(sealed, private_jwk, SECRET_TYP)
    if isinstance(opened, Refusal):
        return opened
    # INVARIANT: the name is authenticated, so a moved or renamed row never opens.
    if opened.protected.get("secret") != name:
        return _unopened(f"secret {name}: sealed under another name")
    return _text(opened)


def sealed_header(sealed: str) -> Mapping[str, Any] | Refusal:
    """The protected header of a sealed secret, checked for shape only: nothing is decrypted."""
    if len(sealed) > MAXIMUM_SEALED_BYTES or sealed.count(".") != 4:  # noqa: PLR2004 - RFC 7516 §7.1
        return _unopened("not a compact JWE of an acceptable size")
    encoded = decode_base64url(sealed.partition(".")[0])
    header = None if encoded is None else parse_json_object(encoded)
    if header is None:
        return _unopened("the protected header cannot be read")
    wanted = {"alg": KEY_AGREEMENT, "enc": CONTENT_ENCRYPTION}
    if any(header.get(member) != value for member, value in wanted.items()):
        return _unopened("another algorithm than ECDH-ES with A256GCM")
    return header


def seal_credential(header: str, value: str, jwk: Mapping[str, Any]) -> str:
    """Seal a credential for one gateway: the payload is `{"header", "value"}`."""
    payload = json.dumps({"header": header, "value": value}).encode()
    return _seal({"typ": CREDENTIAL_TYP}, payload, jwk)


def unseal_credential(sealed: str, private_jwk: Mapping[str, Any]) -> tuple[str, str] | Refusal:
    """Open what `seal_credential` made: the header's name and its value."""
    opened = _unseal(sealed, private_jwk, CREDENTIAL_TYP)
    if isinstance(opened, Refusal):
        return opened
    try:
        payload = json.loads(opened.plaintext or b"")
        return str(payload["header"]), str(payload["value"])
    except (ValueError, KeyError, TypeError):
        return _unopened("the sealed credential has another shape")


def _seal(protected: dict[str, Any], plaintext: bytes, jwk: Mapping[str, Any]) -> str:
    key = _key({member: jwk.get(member) for member in _PUBLIC_MEMBERS})
    header = {
        "alg": KEY_AGREEMENT,
        "enc": CONTENT_ENCRYPTION,
        "kid": key.thumbprint(),
        **protected,
    }
    return encrypt_compact(header, plaintext, key, registry=_registry())


def _unseal(sealed: str, private_jwk: Mapping[str, Any], typ: str) -> CompactEncryption | Refusal:
    header = sealed_header(sealed)
    if isinstance(header, Refusal):
        return header
    if header.get("typ") != typ:
        return _unopened("another kind of sealed value")
    try:
        key = _key({member: private_jwk.get(member) for member in (*_PUBLIC_MEMBERS, "d")})
        return decrypt_compact(sealed, key, registry=_registry())
    except (JoseError, ValueError):
        # The cause could describe key material: the refusal says only that it did not open.
        return _unopened("not sealed to this key, or altered")


def _key(members: dict[str, Any]) -> ECKey:
    """An EC P-256 key. `use` and `key_ops` are dropped: a gateway's key also signs."""
    if members.get("kty") != "EC" or members.get("crv") != "P-256":
        raise UnusableKeyError("the key must be an EC P-256 key")
    try:
        return ECKey.import_key(members)
    except (JoseError, ValueError, TypeError) as cause:
        raise UnusableKeyError("the key must be an EC P-256 key") from cause


def _registry() -> JWERegistry:
    name = HeaderParameter("The name the secret is sealed under", "str")
    return JWERegistry(header_registry={"secret": name}, algorithms=_ALGORITHMS)


def _text(opened: CompactEncryption) -> str | Refusal:
    try:
        return (opened.plaintext or b"").decode()
    except UnicodeDecodeError:
        return _unopened("the sealed value is no text")


def _unopened(detail: str) -> Refusal:
    return Refusal(
        code="invalid_target",
        description="The secret for this target cannot be opened.",
        detail=detail,
        rule="vault.unseal",
    )
