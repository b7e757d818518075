"""Whom the commands believe: the system's authorities, or those they are given, and never all."""

import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, UnixStreamServer

import pytest

from countersign.login_file import LoginDirectory, SavedLogin
from countersign.settings import ClientSettings
from countersign.trusted_authorities import tls_context
from tests.private_authority import issued

ROOT = Path(__file__).parents[2]
NOT_BELIEVED = "certificate verify failed"


def test_file_takes_the_place_of_the_systems_authorities(tmp_path: Path) -> None:
    authority, _ = issued(tmp_path)
    private = tls_context(authority, "https://as.example.com")
    assert [each["subject"] for each in private.get_ca_certs()] == [
        ((("commonName", "test authority"),),)
    ]
    for context in (private, tls_context(None, "https://as.example.com")):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    believes_nobody = tls_context(authority, "http://127.0.0.1:8700")
    assert believes_nobody.get_ca_certs() == []
    assert believes_nobody.verify_mode is ssl.CERT_REQUIRED


def test_file_that_holds_no_certificates_is_refused_at_the_start(tmp_path: Path) -> None:
    authority, _ = issued(tmp_path)
    assert ClientSettings(ca_file=authority).ca_file == authority
    other = tmp_path / "other"
    other.write_text("nothing")
    for path, reason in ((other, "holds no certificates"), (tmp_path / "gone", "No such file")):
        with pytest.raises(ValueError, match=reason):
            ClientSettings(ca_file=path)


class Site(BaseHTTPRequestHandler):
    """Refuses everything, politely."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"error": "seen", "error_description": "over TLS"}).encode()
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Attester(StreamRequestHandler):
    """Believes whoever asks."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b'{"attestation": "a.b.c"}\n')


@contextlib.contextmanager
def served(server: HTTPServer | UnixStreamServer) -> Iterator[None]:
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


@pytest.mark.processes
@pytest.mark.parametrize(
    "words",
    [
        ("whoami",),
        ("login", "--no-browser"),
        ("doctor",),
        (*("agent", "token", "--resource", "https://x/crm/mcp"), "--key-file", "key"),
        (*("agent", "run", "--alone", "--server", "crm"), "--token-file", "token", "--", "true"),
    ],
    ids=["whoami", "login", "doctor", "agent token", "agent run"],
)
def test_every_command_believes_a_private_authority_it_is_given_and_no_other(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    authority, both = issued(tmp_path)
    (tmp_path / "token").write_text("a.b.c")
    (tmp_path / "countersign-run").mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    site = HTTPServer(("127.0.0.1", 0), Site)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    issuer = f"https://127.0.0.1:{site.server_port}"
    logins = LoginDirectory(tmp_path / "operator", time.time)  # noqa: TID251 - of a real process
    logins.key()
    logins.save(SavedLogin(issuer, "a.b.c", int(time.time()) + 900))  # noqa: TID251

    def said(*options: str, **variables: str) -> str:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "countersign", "--issuer", issuer, *options, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={
                "PYTHONPATH": str(ROOT),
                "PATH": os.environ["PATH"],  # noqa: TID251 - passed to the child
                "COUNTERSIGN_CONFIG_DIR": str(tmp_path / "operator"),
                **variables,
            },
        )
        assert done.returncode in (1, 2), done
        return (done.stdout + done.stderr).lower()

    attester = UnixStreamServer(str(tmp_path / "countersign-run" / "attest.sock"), Attester)
    with served(site), served(attester):
        believed = said("--ca-file", str(authority))
        assert "400" in believed or "seen: over tls" in believed
        assert NOT_BELIEVED not in believed
        assert NOT_BELIEVED in said()
        assert NOT_BELIEVED not in said(COUNTERSIGN_CA_FILE=str(authority))
