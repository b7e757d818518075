"""TLS to PostgreSQL: a server that cannot prove its name is refused, whatever it answers.

The server under test has no TLS of its own; a front that speaks PostgreSQL's TLS negotiation
(SSLRequest, `S`, handshake) stands before it.
"""

import contextlib
import datetime as dt
import socket
import ssl
import struct
import threading
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

pytestmark = pytest.mark.processes

SSL_REQUEST = struct.pack("!II", 8, 80877103)  # PostgreSQL protocol, "SSLRequest"


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


class TlsFront:
    """Speaks TLS to clients and plainly to the server behind it."""

    def __init__(self, target: int, certificate: Certificate) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.certificate, certificate.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if client.recv(8, socket.MSG_WAITALL) != SSL_REQUEST:
                return
            client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secured,
                socket.create_connection(("127.0.0.1", self._target)) as server,
            ):
                back = threading.Thread(target=_copy, args=(server, secured), daemon=True)
                back.start()
                _copy(secured, server)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def plain_url(postgresql_server: Postgresql) -> Iterator[str]:
    with postgresql_server.database() as url:
        yield url


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate.of("127.0.0.1", tmp_path / "right")


def secured(plain_url: str, front: TlsFront, **options: str) -> str:
    url = make_url(plain_url).set(port=front.port).update_query_dict(options)
    return url.render_as_string(hide_password=False)


def test_server_that_proves_its_name_is_served_from(
    postgresql_server: Postgresql, plain_url: str, certificate: Certificate
) -> None:
    with contextlib.closing(TlsFront(postgresql_server.port, certificate)) as front:
        options = {"sslmode": "verify-full", "sslrootcert": str(certificate.certificate)}
        database = Database.open(secured(plain_url, front, **options))
        one = text("SELECT 1")
        assert database.read(lambda connection: connection.execute(one).scalar()) == 1
        database.close()


def test_server_that_proves_another_name_or_by_another_authority_is_refused(
    postgresql_server: Postgresql, plain_url: str, certificate: Certificate, tmp_path: Path
) -> None:
    elsewhere = Certificate.of("10.9.8.7", tmp_path / "elsewhere")
    stranger = Certificate.of("127.0.0.1", tmp_path / "stranger")
    for presented, trusted in ((elsewhere, elsewhere), (stranger, certificate)):
        with contextlib.closing(TlsFront(postgresql_server.port, presented)) as front:
            options = {"sslmode": "verify-full", "sslrootcert": str(trusted.certificate)}
            with pytest.raises(DatabaseUnavailableError):
                Database.open(secured(plain_url, front, **options))


def test_server_without_tls_is_refused_where_tls_was_asked_for(
    plain_url: str, certificate: Certificate
) -> None:
    for mode in ("require", "verify-ca", "verify-full"):
        with pytest.raises(DatabaseUnavailableError):
            Database.open(f"{plain_url}?sslmode={mode}&sslrootcert={certificate.certificate}")
    Database.open(f"{plain_url}?sslmode=disable").close()
