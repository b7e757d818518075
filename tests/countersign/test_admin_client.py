"""How the command line reaches the admin API."""

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
