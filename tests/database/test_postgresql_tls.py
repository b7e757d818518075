"""TLS to PostgreSQL: a server that cannot prove its name is refused, whatever it answers.

The server under test has no TLS of its own; a front that speaks PostgreSQL's TLS negotiation
(SSLRequest, `S`, handshake) stands before it.
"""

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import make_url, text

from database.engine import Database
from database.errors import DatabaseUnavailableError
from tests.services.postgresql import Postgresql
from tests.tls_front import TlsFront

pytestmark = pytest.mark.processes


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for `address`, as PEM files."""

    certificate: Path
    key: Path

    @classmethod
    def of(cls, address: str, folder: Path) -> "Certificate":
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
        today = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(today)
            .not_valid_after(today + dt.timedelta(days=36_500))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), True)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        found = cls(folder / "certificate.pem", folder / "key.pem")
        found.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        found.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return found


@pytest.fixture
def plain_url(postgresql_server: Postgresql) -> Iterator[str]:
    with postgresql_server.database() as url:
        yield url


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate.of("127.0.0.1", tmp_path / "right")


def front(server: Postgresql, presented: Certificate) -> TlsFront:
    return TlsFront(server.port, presented.certificate, presented.key)


def secured(plain_url: str, before: TlsFront, **options: str) -> str:
    url = make_url(plain_url).set(port=before.port).update_query_dict(options)
    return url.render_as_string(hide_password=False)


def test_server_that_proves_its_name_is_served_from(
    postgresql_server: Postgresql, plain_url: str, certificate: Certificate
) -> None:
    with contextlib.closing(front(postgresql_server, certificate)) as before:
        options = {"sslmode": "verify-full", "sslrootcert": str(certificate.certificate)}
        database = Database.open(secured(plain_url, before, **options))
        one = text("SELECT 1")
        assert database.read(lambda connection: connection.execute(one).scalar()) == 1
        database.close()


def test_server_that_proves_another_name_or_by_another_authority_is_refused(
    postgresql_server: Postgresql, plain_url: str, certificate: Certificate, tmp_path: Path
) -> None:
    elsewhere = Certificate.of("10.9.8.7", tmp_path / "elsewhere")
    stranger = Certificate.of("127.0.0.1", tmp_path / "stranger")
    for presented, trusted in ((elsewhere, elsewhere), (stranger, certificate)):
        with contextlib.closing(front(postgresql_server, presented)) as before:
            options = {"sslmode": "verify-full", "sslrootcert": str(trusted.certificate)}
            with pytest.raises(DatabaseUnavailableError):
                Database.open(secured(plain_url, before, **options))


def test_server_without_tls_is_refused_where_tls_was_asked_for(
    plain_url: str, certificate: Certificate
) -> None:
    for mode in ("require", "verify-ca", "verify-full"):
        with pytest.raises(DatabaseUnavailableError):
            Database.open(f"{plain_url}?sslmode={mode}&sslrootcert={certificate.certificate}")
    Database.open(f"{plain_url}?sslmode=disable").close()
