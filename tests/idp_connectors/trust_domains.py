"""Trust domains to test with: authorities, bundles and SVIDs, right or wrong."""

import datetime as dt
import hmac
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from tests.token_exchange.signing import base64url

NOW: Final = 1_800_000_000
ALWAYS: Final = (1_500_000_000, 4_000_000_000)  # also for OpenSSL, which knows the real time only
AS_ISSUER: Final = "http://127.0.0.1:8700"
RSA: Final = RSAKey.generate_key(2048)

Key = ECKey | RSAKey


def sign_as(algorithm: str, header: dict[str, Any], claims: dict[str, Any], key: Key) -> str:
    """A compact JWS made by `algorithm`, whatever the header says."""
    head, body = (base64url(json.dumps(part).encode()) for part in (header, claims))
    model = JWSRegistry(algorithms=[algorithm]).get_alg(algorithm)
    return f"{head}.{body}.{base64url(model.sign(f'{head}.{body}'.encode(), key))}"


def sign_by_secret(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """A compact JWS by HMAC: what key confusion hopes for."""
    head, body = (base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{head}.{body}.{base64url(hmac.digest(secret, f'{head}.{body}'.encode(), 'sha256'))}"


def present(members: dict[str, Any]) -> dict[str, Any]:
    """What is not None."""
    return {name: value for name, value in members.items() if value is not None}


@dataclass
class Authority:
    """An X.509 authority of a trust domain, or one below it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


@dataclass
class TrustDomain:
    """One trust domain with an EC and an RSA key for JWT-SVIDs and one X.509 authority."""

    name: str
    jwt_key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))

    def __post_init__(self) -> None:
        self.authority = authority(self.name)

    def jwk(self, **changes: Any) -> dict[str, Any]:
        public = self.jwt_key.as_dict(private=False)
        return present({**public, "kid": "ec", "use": "jwt-svid", **changes})

    def rsa_jwk(self, **changes: Any) -> dict[str, Any]:
        return present({**RSA.as_dict(private=False), "kid": "rsa", "use": "jwt-svid", **changes})

    def x509_jwk(self, **changes: Any) -> dict[str, Any]:
        key = {"kty": "EC", "crv": "P-256", "x": "A", "y": "A", "use": "x509-svid"}
        return present({**key, "x5c": [b64encode(self.authority.der).decode()], **changes})

    def bundle(self, *keys: dict[str, Any], **members: Any) -> bytes:
        """Its bundle document; with other keys if any are given."""
        listed = list(keys) or [self.jwk(), self.rsa_jwk(), self.x509_jwk()]
        return json.dumps({"keys": listed, "spiffe_sequence": 1, **members}).encode()

    def claims(self, path: str = "/bot", **changes: Any) -> dict[str, Any]:
        said = {
            "sub": f"spiffe://{self.name}{path}",
            "aud": [AS_ISSUER],
            "iat": NOW,
            "exp": NOW + 300,
        }
        return present({**said, **changes})

    def jwt_svid(
        self, path: str = "/bot", *, header: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """A JWT-SVID by the EC key; None leaves a claim or header out."""
        head = present({"alg": "ES256", "kid": "ec", "typ": "JWT", **(header or {})})
        return sign_as("ES256", head, self.claims(path, **changes), self.jwt_key)

    def rsa_svid(self, algorithm: str = "RS256", **header: Any) -> str:
        head = {"alg": algorithm, "kid": "rsa", "typ": "JWT", **header}
        return sign_as(algorithm, head, self.claims(), RSA)

    def x509_svid(self, path: str = "/bot", **changes: Any) -> list[bytes]:
        """The chain of an X.509-SVID in DER."""
        uris = changes.pop("uris", [f"spiffe://{self.name}{path}"])
        return x509_chain(self.authority, uris, **changes)


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def authority(trust_domain: str, parent: Authority | None = None) -> Authority:
    """A self-signed authority, or one below `parent`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{trust_domain} {id(key)}")])
    signer, issuer = (key, name) if parent is None else (parent.key, parent.certificate.subject)
    certificate = (
        x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(moment(ALWAYS[0]))
        .not_valid_after(moment(ALWAYS[1]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
            ),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return Authority(key, certificate)


def usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


def x509_chain(
    issuer: Authority,
    uris: Sequence[str],
    *,
    below: Authority | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    key_usage: x509.KeyUsage | None = None,
    usage_is_critical: bool = True,
    extended: Sequence[x509.ObjectIdentifier] = (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ),
    ca: bool = False,
    begins: int = NOW - 10,
    ends: int = NOW + 3600,
    names: Sequence[x509.GeneralName] = (),
) -> list[bytes]:
    """A leaf by `issuer`, or by the authority `below` it."""
    signer = below or issuer
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE")])
    builder = (
        x509.CertificateBuilder(
            signer.certificate.subject, subject, key.public_key(), x509.random_serial_number()
        )
        .not_valid_before(moment(begins))
        .not_valid_after(moment(ends))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
        .add_extension(
            key_usage or usage(digital_signature=True, key_encipherment=True),
            critical=usage_is_critical,
        )
    )
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    general = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *names]
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    leaf = builder.sign(signer.key, hashes.SHA256())
    chain = [leaf.public_bytes(Encoding.DER)]
    return chain if below is None else [*chain, below.der]
