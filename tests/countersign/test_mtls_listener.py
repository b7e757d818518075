"""The TLS of the listener for client certificates, handshake by handshake, without a socket."""

import asyncio
import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from countersign.mtls_listener import MtlsContext
from idp_connectors.workload.tls_peer import certificates_of
from tests.idp_connectors.trust_domains import ALWAYS, TrustDomain, authority

pytestmark = pytest.mark.requirement("spiffe-x509-svid")

PROD = TrustDomain("prod.example.com")
LAB = TrustDomain("lab.example.com")


def pem_pair(folder: Path, name: str, chain: list[bytes], key: ec.EllipticCurvePrivateKey) -> Path:
    """A chain and its key in one file."""
    file = folder / f"{name}.pem"
    certificates = "".join(ssl.DER_cert_to_PEM_cert(each) for each in chain)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_text(certificates + private.decode())
    return file


def svid(
    folder: Path, domain: TrustDomain, *, ends: int = ALWAYS[1] - 1, below: bool = False
) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    intermediate = authority(domain.name, domain.authority) if below else None
    chain = domain.x509_svid(key=key, begins=ALWAYS[0], ends=ends, below=intermediate)
    return pem_pair(folder, domain.name, chain, key)


class Listener:
    """A context whose authorities a test may change."""

    def __init__(self, folder: Path, *trusted: TrustDomain) -> None:
        self.folder = folder
        self.trusted = trusted
        own = authority("as.example.com")
        self.file = pem_pair(folder, "own", [own.der], own.key)
        self.context = MtlsContext(self.file, self.file, self.authorities)
        self.entry = self.context.entry()
        self.own = own.der
        self.odd: tuple[bytes, ...] = ()
        self.shown: bytes | None = None

    async def authorities(self) -> frozenset[bytes]:
        return frozenset((*(each.authority.der for each in self.trusted), *self.odd))

    def refresh(self) -> None:
        asyncio.run(self.context.refresh())

    def connect(self, client: Path | None, *, server_name: str | None = None) -> ssl.SSLObject:
        """The server's side of a complete handshake.

        Raises:
            ssl.SSLError: one side refuses.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if client is not None:
            context.load_cert_chain(client)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self.entry.wrap_bio(to_server, to_client, server_side=True)
        peer = context.wrap_bio(to_client, to_server, server_hostname=server_name)
        waiting = [peer, server]
        while waiting:
            for side in tuple(waiting):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                waiting.remove(side)
        self.shown = peer.getpeercert(binary_form=True)
        return server


def test_svid_of_a_trusted_domain_connects_and_its_chain_is_told(tmp_path: Path) -> None:
    listener = Listener(tmp_path, PROD)
    listener.refresh()
    for name in (None, "as.example.com"):  # also for a client that names no server
        connection = listener.connect(svid(tmp_path, PROD), server_name=name)
        (leaf,) = certificates_of(connection)
        assert leaf == connection.getpeercert(binary_form=True)
        assert connection.version() == "TLSv1.3"
    connection = listener.connect(svid(tmp_path, PROD, below=True))
    assert len(certificates_of(connection)) == 2


def test_nothing_is_told_of_a_connection_without_tls() -> None:
    assert certificates_of(None) == ()


@pytest.mark.requirement("attack-5")
def test_peer_without_a_trusted_certificate_does_not_connect(tmp_path: Path) -> None:
    listener = Listener(tmp_path, PROD)
    listener.refresh()
    for client in (None, svid(tmp_path, LAB), svid(tmp_path, PROD, ends=ALWAYS[0] + 1)):
        with pytest.raises(ssl.SSLError):
            listener.connect(client)
    listener.connect(svid(tmp_path, PROD))


def test_authority_that_another_one_signed_is_an_anchor(tmp_path: Path) -> None:
    domain = TrustDomain(PROD.name)
    domain.authority = authority(PROD.name, PROD.authority)
    listener = Listener(tmp_path, domain)
    listener.refresh()
    listener.connect(svid(tmp_path, domain))
    with pytest.raises(ssl.SSLError):
        listener.connect(svid(tmp_path, PROD))


def test_without_any_authority_nobody_connects(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    with pytest.raises(ssl.SSLError):
        listener.connect(svid(tmp_path, PROD))
    listener.refresh()
    with pytest.raises(ssl.SSLError):
        listener.connect(svid(tmp_path, PROD))


def test_new_authority_is_trusted_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    listener = Listener(tmp_path, PROD)
    listener.refresh()
    listener.trusted = (LAB,)
    listener.refresh()
    listener.connect(svid(tmp_path, LAB))
    with pytest.raises(ssl.SSLError):
        listener.connect(svid(tmp_path, PROD))


def test_own_certificate_is_taken_up_when_its_file_changes(tmp_path: Path) -> None:
    listener = Listener(tmp_path, PROD)
    listener.refresh()
    client = svid(tmp_path, PROD)
    listener.file.write_text("half a file")
    os.utime(listener.file, (1, 1))
    listener.refresh()
    listener.connect(client)
    assert listener.shown == listener.own  # the one it had
    other = authority("as.example.com")
    pem_pair(tmp_path, "own", [other.der], other.key)
    os.utime(listener.file, (2, 2))
    listener.refresh()
    listener.connect(client)
    assert listener.shown == other.der


def test_authority_that_cannot_be_used_does_not_stop_the_others(tmp_path: Path) -> None:
    listener = Listener(tmp_path, PROD)
    listener.odd = (b"no certificate",)
    listener.refresh()
    listener.connect(svid(tmp_path, PROD))


def test_certificate_that_cannot_be_used_at_start_is_named(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own, other = (pem_pair(tmp_path, name, [PROD.authority.der], key) for name in ("a", "b"))
    locked = tmp_path / "locked.pem"
    secret = BestAvailableEncryption(b"invented")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    for certificate, private in ((tmp_path / "none.pem", own), (own, other), (own, locked)):
        with pytest.raises(OSError, match=f"cannot use {certificate} with {private}"):
            MtlsContext(certificate, private, Listener(tmp_path).authorities)


def test_tls_before_1_3_is_refused(tmp_path: Path) -> None:
    assert Listener(tmp_path, PROD).entry.minimum_version == ssl.TLSVersion.TLSv1_3
