"""Whether a certificate chain is an X.509-SVID of one trust domain. Pure.

Order: at most a leaf and a few intermediates → the leaf by X509-SVID's own rules (exactly one URI
name, and it is a SPIFFE ID of this trust domain; no CA; made for signatures, not for signing
certificates) → a path to an authority of this trust domain's bundle (RFC 5280 §6, as a client's
certificate), valid now. The system's trust store is never asked. Left out: that the peer has the
key, which TLS has proved, and revocation lists, which SPIFFE does not have: lives are short.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    DuplicateExtension,
    ExtensionNotFound,
    InvalidVersion,
    KeyUsage,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    UnsupportedGeneralNameType,
    load_der_x509_certificate,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from idp_connectors.workload.spiffe_id import SpiffeId, parse_spiffe_id
from token_exchange.claims import Refusal

# What reading a certificate and its extensions can raise, whatever bytes made it.
_UNREADABLE: Final = (ValueError, DuplicateExtension, InvalidVersion, UnsupportedGeneralNameType)

MAXIMUM_CERTIFICATES: Final = 5
MAXIMUM_CERTIFICATE_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class X509Svid:
    """A verified X.509-SVID. Times are NumericDate seconds."""

    spiffe_id: SpiffeId
    issued_at: int
    expires_at: int


def verify_x509_svid(
    unverified_chain: Sequence[bytes],
    *,
    trust_domain: str,
    authorities: Sequence[Certificate],
    now: int,
) -> X509Svid | Refusal:
    """The SVID of a chain in DER, the leaf first; `now` is NumericDate."""
    chain = _parsed(unverified_chain)
    if isinstance(chain, Refusal):
        return chain
    leaf, *intermediates = chain
    spiffe_id = _checked_leaf(leaf, trust_domain)
    if isinstance(spiffe_id, Refusal):
        return spiffe_id
    if not authorities:
        return _refused("spiffe.bundle", "the bundle has no X.509 authority")
    builder = PolicyBuilder().store(Store(list(authorities)))
    moment = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
    try:
        builder.time(moment).build_client_verifier().verify(leaf, intermediates)
    except (VerificationError, *_UNREADABLE) as error:
        return _refused("spiffe.chain", str(error)[:200])
    return X509Svid(
        spiffe_id,
        issued_at=int(leaf.not_valid_before_utc.timestamp()),
        expires_at=int(leaf.not_valid_after_utc.timestamp()),
    )


def unverified_trust_domain(unverified_chain: Sequence[bytes]) -> str | Refusal:
    """The trust domain a chain claims, to choose the one verifier that will check it again."""
    chain = _parsed(unverified_chain)
    if isinstance(chain, Refusal):
        return chain
    spiffe_id = _spiffe_id_of(chain[0])
    return spiffe_id if isinstance(spiffe_id, Refusal) else spiffe_id.trust_domain


def _parsed(unverified_chain: Sequence[bytes]) -> list[Certificate] | Refusal:
    if not 1 <= len(unverified_chain) <= MAXIMUM_CERTIFICATES:
        return _refused("spiffe.certificate", "no certificate, or too many")
    if any(len(each) > MAXIMUM_CERTIFICATE_BYTES for each in unverified_chain):
        return _refused("spiffe.certificate", "a certificate is too large")
    try:
        return [load_der_x509_certificate(each) for each in unverified_chain]
    except _UNREADABLE:
        return _refused("spiffe.certificate", "a certificate cannot be read")


def _spiffe_id_of(leaf: Certificate) -> SpiffeId | Refusal:
    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
        uris = names.get_values_for_type(UniformResourceIdentifier)
    except (ExtensionNotFound, *_UNREADABLE):
        uris = []
    # X509-SVID §2: exactly one URI, whatever other names there are.
    spiffe_id = parse_spiffe_id(uris[0]) if len(uris) == 1 else None
    if spiffe_id is None:
        return _refused("spiffe.subject", "not exactly one URI name that is a SPIFFE ID")
    return spiffe_id


def _checked_leaf(leaf: Certificate, trust_domain: str) -> SpiffeId | Refusal:
    spiffe_id = _spiffe_id_of(leaf)
    if isinstance(spiffe_id, Refusal):
        return spiffe_id
    # INVARIANT: a trust domain's authorities speak for that trust domain alone.
    if spiffe_id.trust_domain != trust_domain:
        return _refused("spiffe.subject", "the SPIFFE ID is of another trust domain")
    if not _is_leaf(leaf):
        return _refused("spiffe.leaf", "the certificate is no leaf by X509-SVID §4 and §5")
    return spiffe_id


def _is_leaf(leaf: Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(KeyUsage)
        constraints = leaf.extensions.get_extension_for_class(BasicConstraints).value.ca
    except ExtensionNotFound as missing:
        if missing.oid != BasicConstraints.oid:
            return False  # X509-SVID §4.3: key usage must be there
        constraints = False
    except _UNREADABLE:
        return False
    value = usage.value
    may_sign_others = value.key_cert_sign or value.crl_sign
    return bool(
        usage.critical and value.digital_signature and not may_sign_others and not constraints
    )


def _refused(rule: str, detail: str) -> Refusal:
    return Refusal("invalid_client", "The SVID is not acceptable.", detail, rule)
