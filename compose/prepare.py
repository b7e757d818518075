"""Makes what `compose.yaml` mounts: certificates, passwords, settings with passwords, directories.

Everything is written once into `state/` beside this file (or `--state`), for the user the
containers run as: you, or 10001 if you are root. What is there already is kept, so it may be run
again at any time. Nothing secret is printed, and nothing secret goes into an environment.

    .venv/bin/python -m compose.prepare
"""

import argparse
import datetime as dt
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = Path(__file__).parent
REALM = HERE / "keycloak" / "realm.json"
IMAGE_USER = 10001  # of compose/Dockerfile; root's containers run as it
DOMAIN = "countersign.localhost"  # browsers take it for this machine, whatever DNS says
PORT = 8443
AUTHORITY = f"https://as.{DOMAIN}:{PORT}"
LOGIN = f"https://login.{DOMAIN}:{PORT}"
# One certificate per listener, for exactly the names it is called by.
CERTIFICATES = {
    "front": tuple(f"{name}.{DOMAIN}" for name in ("as", "login", "one", "two")),
    "notes": ("notes",),
    "postgres": ("postgres",),
    "valkey": ("valkey",),
}
DIRECTORIES = (
    *("keys", "authz-server", "run", "join", "gateway-one", "gateway-two"),
    *("postgres", "notes", "agent"),
)
# What remembering proofs needs (docs/guides/scaling.md), and nothing that forgets one.
VALKEY_RIGHTS = (
    "resetkeys ~countersign:* resetchannels -@all +evalsha +script|load +get +set +info +time +ping"
    " +hello +auth +select +client|setinfo"
)
LIFETIME_DAYS = 397  # the longest that browsers accept


@dataclass(frozen=True)
class State:
    """The directory, and who must be able to read it."""

    directory: Path
    owner: int
    group: int

    @property
    def secrets(self) -> Path:
        return self.directory / "secrets"

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(path, self.owner, self.group)

    def keep(self, path: Path, make: Callable[[], str], mode: int = 0o600) -> str:
        """The text of a file of its owner's, made if it is not there."""
        if not path.exists():
            # Whole or not at all: an interrupted run must not leave an empty password behind.
            text, begun = make(), path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(text)
                    os.fchown(descriptor, self.owner, self.group)
                begun.rename(path)
            finally:
                begun.unlink(missing_ok=True)
        return path.read_text()

    def public(self, name: str, make: Callable[[], str]) -> str:
        """As `secret`, for what every container may read."""
        return self.keep(self.secrets / name, make, 0o644)

    def secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        return self.keep(self.secrets / name, make)


def prepare(state: State) -> None:
    """Make whatever is missing."""
    state.make_directory(state.directory)
    for name in ("secrets", *DIRECTORIES):
        state.make_directory(state.directory / name)
    (state.directory / "run").chmod(0o755)  # agents of other users reach the attestation socket
    make_certificates(state)
    make_database_secrets(state)
    make_keycloak_secrets(state)
    state.secret("notes-api-key")
    password = state.secret("valkey-password")
    state.secret(
        "valkey.acl",
        lambda: f"user default off\nuser countersign on >{password} {VALKEY_RIGHTS}\n",
    )
    values = {"UID": state.owner, "GID": state.group, "STATE": state.directory}
    made = "".join(f"COUNTERSIGN_{name}={value}\n" for name, value in values.items())
    state.keep(state.directory.parent / ".env", lambda: made)


def make_database_secrets(state: State) -> None:
    state.secret("postgres-password")
    password = state.secret("database-password")
    keycloak = state.secret("keycloak-database-password")
    state.secret("pgpass", lambda: f"postgres:5432:countersign:countersign:{password}\n")
    databases = {"countersign": password, "keycloak": keycloak}
    state.secret(
        "databases.sql",
        lambda: "".join(
            f"CREATE ROLE {name} LOGIN PASSWORD '{word}';\n"
            f"CREATE DATABASE {name} OWNER {name} ENCODING 'UTF8' TEMPLATE template0;\n"
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;\n"
            for name, word in databases.items()
        ),
    )


def make_keycloak_secrets(state: State) -> None:
    values = {
        "client_secret": state.secret("keycloak-client"),
        "watch_secret": state.secret("keycloak-watch"),
        "other_secret": secrets.token_urlsafe(32),
        "redirect_uri": f"{AUTHORITY}/oauth/callback/keycloak",
        "backchannel_logout_uri": f"{AUTHORITY}/oauth/backchannel-logout/keycloak",
    }
    state.secret("corp-realm.json", lambda: Template(REALM.read_text()).substitute(values))
    administrator = state.secret("keycloak-admin-password")
    database = state.secret("keycloak-database-password")
    state.secret(
        "keycloak.conf",
        lambda: (
            "bootstrap-admin-username=admin\n"
            f"bootstrap-admin-password={administrator}\n"
            "db-username=keycloak\n"
            f"db-password={database}\n"
        ),
    )


def make_certificates(state: State) -> None:
    """An authority for these names alone, and a certificate for each listener."""
    signer = _key(state.keep(state.directory / "ca.key", _new_key))
    authority = _certificate_of(state.public("ca.pem", lambda: _authority(signer)))
    for name, hosts in CERTIFICATES.items():
        own = _key(state.secret(f"{name}.key", _new_key))
        make = partial(_certificate, own.public_key(), hosts, authority, signer)
        state.public(f"{name}.pem", make)


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("a key in the state directory is not one of ours")
    return key


def _certificate_of(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _authority(key: ec.EllipticCurvePrivateKey) -> str:
    """It can sign for these names and no others: whoever trusts it trusts it for no more."""
    subject = _named("Countersign compose")
    names = {DOMAIN, *(host for hosts in CERTIFICATES.values() for host in hosts)}
    permitted = [x509.DNSName(name) for name in sorted(names)]
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        _begun(subject, subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def _certificate(
    key: ec.EllipticCurvePublicKey,
    hosts: tuple[str, ...],
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
) -> str:
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = (
        _begun(_named(hosts[0]), authority.subject, key)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - certificates are of the wall clock
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - dt.timedelta(hours=1),
        not_valid_after=now + dt.timedelta(days=LIFETIME_DAYS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=HERE / "state", help="where it is kept")
    directory = parser.parse_args().state.absolute()
    is_root = os.getuid() == 0
    state = State(
        directory,
        owner=IMAGE_USER if is_root else os.getuid(),
        group=IMAGE_USER if is_root else os.getgid(),
    )
    prepare(state)
    print(f"Ready in {directory}. Keep {directory / 'keys'} out of the backups of the rest.")


if __name__ == "__main__":
    main()
