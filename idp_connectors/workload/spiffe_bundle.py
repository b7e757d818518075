"""The keys of one trust domain: a SPIFFE bundle, as its document says it. Pure.

SPIFFE Trust Domain and Bundle §4: a JWK Set whose `use` says what each key is for. Keys of an
unknown use or kind are ignored, as the specification wants; a document that breaks its own rules
otherwise is not used at all. A bundle is always that of the trust domain it was configured for:
nothing in the document names one.
"""

import binascii
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.x509 import Certificate, load_der_x509_certificate

from outbound.public_keys import MAXIMUM_KEYS, ForeignKeys
from token_exchange.compact_jws import parse_json_object

JWT_SVID_USE: Final = "jwt-svid"
X509_SVID_USE: Final = "x509-svid"
MAXIMUM_BUNDLE_BYTES: Final = 262_144


class BundleError(Exception):
    """There is no usable bundle; the text says why and holds nothing secret."""


@dataclass(frozen=True, slots=True)
class SpiffeBundle:
    """What may sign the SVIDs of one trust domain.

    `refresh_hint_seconds` is how often its publisher says to look again.
    """

    jwt_keys: ForeignKeys
    x509_authorities: tuple[Certificate, ...]
    refresh_hint_seconds: int | None = None


def parse_bundle(document: bytes) -> SpiffeBundle:
    """The bundle of a SPIFFE bundle document.

    Raises:
        BundleError: not a bundle, or one that contradicts itself.
    """
    if len(document) > MAXIMUM_BUNDLE_BYTES:
        raise BundleError("the bundle is too large")
    members = parse_json_object(document)
    if members is None:
        raise BundleError("the bundle is not a JSON object")
    listed = members.get("keys")
    if not isinstance(listed, list) or len(listed) > MAXIMUM_KEYS:
        raise BundleError("the bundle has no list of keys, or too many")
    keys = [key for key in listed if isinstance(key, dict)]
    return SpiffeBundle(
        jwt_keys=jwt_keys(key for key in keys if key.get("use") == JWT_SVID_USE),
        x509_authorities=tuple(_authority(key) for key in keys if key.get("use") == X509_SVID_USE),
        refresh_hint_seconds=_refresh_hint(members),
    )


def jwt_keys(jwks: Iterable[Mapping[str, Any]]) -> ForeignKeys:
    """JWT authorities; INVARIANT: only keys that say they are for JWT-SVIDs come in here."""
    return ForeignKeys.of(jwks, uses=frozenset({JWT_SVID_USE}))


def _authority(jwk: Mapping[str, Any]) -> Certificate:
    """SPIFFE Trust Domain and Bundle §4.2.2: exactly one certificate, in `x5c`."""
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise BundleError("an X.509 authority is not exactly one certificate")
    try:
        return load_der_x509_certificate(b64decode(chain[0], validate=True))
    except (binascii.Error, ValueError) as error:
        raise BundleError("an X.509 authority is not a certificate") from error


def _refresh_hint(members: Mapping[str, Any]) -> int | None:
    hint = members.get("spiffe_refresh_hint")
    return hint if type(hint) is int and hint > 0 else None
