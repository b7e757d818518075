"""How the command line reaches the admin API."""

import ssl
from pathlib import Path

import httpx2
import pytest

from countersign.admin_client import AdminClient


@pytest.mark.parametrize(
    ("issuer", "asked"),
    [
        ("https://as.example.com:8443", "http://as.example.com:8443/admin/v1/whoami"),
        ("http://127.0.0.1:8700", "http://127.0.0.1:8700/admin/v1/whoami"),
    ],
)
def test_socket_of_a_server_is_spoken_to_without_tls_whatever_its_issuer(
    monkeypatch: pytest.MonkeyPatch, issuer: str, asked: str
) -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={})

    monkeypatch.setattr(httpx2, "HTTPTransport", lambda **_: httpx2.MockTransport(answer))
    with AdminClient(issuer, timeout_seconds=1, socket=Path("admin.sock")) as admin:
        admin.call("GET", "/whoami")
    assert seen == [asked]


@pytest.mark.parametrize("socket", [None, Path("admin.sock")])
def test_plain_http_needs_no_authorities_and_would_believe_nobody(
    monkeypatch: pytest.MonkeyPatch, socket: Path | None
) -> None:
    given: list[object] = []

    class Client(httpx2.Client):
        def __init__(self, **options: object) -> None:
            given.append(options["verify"])

    monkeypatch.setattr(httpx2, "Client", Client)
    AdminClient("http://127.0.0.1:8700", timeout_seconds=1, socket=socket)
    (context,) = given
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.get_ca_certs() == []


def test_https_is_verified_by_the_authorities_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[object] = []

    class Client(httpx2.Client):
        def __init__(self, **options: object) -> None:
            given.append(options["verify"])

    monkeypatch.setattr(httpx2, "Client", Client)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    AdminClient("https://as.example.com", timeout_seconds=1)
    (context,) = given
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.get_ca_certs() == ssl.create_default_context().get_ca_certs()
