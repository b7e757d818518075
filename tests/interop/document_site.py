"""A web site on loopback that serves client id metadata documents, over TLS of its own authority.

For tests with foreign MCP clients: `document_site(directory)` is the site; `settings(site)` what an
authorization server must be told to read from it (a private host with a CA bundle). Documents are
set and changed by the test, and every request is kept.
"""

import contextlib
import datetime as dt
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.stack import held_port

HOST = "localhost"


@dataclass
class DocumentSite:
    """The site. `documents` by path; what is not there is a 404.

    `manners` by path: `redirect`, `large` (more than anybody reads), `slow` (never ends).
    """

    port: int
    ca_bundle: Path
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)
    manners: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    def publish(self, path: str, **members: Any) -> str:
        """Put a document there, for a public native client unless told otherwise; its client id."""
        client_id = f"https://{self.authority}{path}"
        document = {
            "client_id": client_id,
            "client_name": "Foreign client",
            "redirect_uris": ["http://127.0.0.1/callback"],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
        }
        self.documents[path] = {k: v for k, v in (document | members).items() if v is not None}
        return client_id

    def settings(self) -> dict[str, str]:
        """What an authorization server is told, as environment variables."""
        return {
            "COUNTERSIGN_CLIENT_METADATA_PRIVATE_HOSTS": json.dumps([self.authority]),
            "COUNTERSIGN_CLIENT_METADATA_CA_BUNDLE": str(self.ca_bundle),
        }


@contextlib.contextmanager
def document_site(directory: Path) -> Iterator[DocumentSite]:
    """The site, running until the block ends."""
    certificate, key = _certificate(directory)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with contextlib.ExitStack() as holding:
        port = held_port(holding)
    site = DocumentSite(port, certificate)
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(site))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def _handler(site: DocumentSite) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            document = site.documents.get(self.path)
            manner = site.manners.get(self.path)
            body = json.dumps(document).encode() + b" " * (100_000 if manner == "large" else 0)
            self.send_response(302 if manner == "redirect" else 404 if document is None else 200)
            self.send_header("Location", "/elsewhere.json")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in site.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if manner == "slow":
                site.closing.wait(30)
            with contextlib.suppress(OSError):  # who asked may have left
                self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Nothing on the terminal."""

    return Handler


def _certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    bundle, private = directory / "site.pem", directory / "site-key.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return bundle, private
