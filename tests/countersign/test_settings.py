"""Settings: strict by default, every problem at once, contradictions refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from countersign.settings import (
    AuthzServerSettings,
    McpGatewaySettings,
    ServeSettings,
    ValkeyUrl,
    parse_valkey_url,
)


@pytest.mark.parametrize(
    "issuer", ["https://as.example.com", "https://as.example.com/tenant", "http://127.0.0.1:8700"]
)
def test_issuer_is_kept_as_the_string_that_was_configured(issuer: str) -> None:
    assert AuthzServerSettings(issuer=issuer).issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "http://as.example.com",
        "http://localhost:8700",
        "https://as.example.com/",
        "https://as.example.com?x=1",
        "https://as.example.com#x",
        "https://user@as.example.com",
        "ftp://as.example.com",
        "as.example.com",
    ],
)
def test_issuer_that_clients_could_not_compare_or_trust_is_refused(issuer: str) -> None:
    with pytest.raises(ValidationError):
        AuthzServerSettings(issuer=issuer)


def test_settings_report_every_problem_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERSIGN_ISSUER", "http://as.example.com")
    monkeypatch.setenv("COUNTERSIGN_LISTEN_PORT", "70000")
    monkeypatch.setenv("COUNTERSIGN_LEASE_SECONDS", "never")
    with pytest.raises(ValidationError) as refused:
        ServeSettings()
    assert {error["loc"][0] for error in refused.value.errors()} == {
        "issuer",
        "listen_port",
        "lease_seconds",
    }


def test_keys_inside_the_data_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="outside data_dir"):
        AuthzServerSettings(data_dir=tmp_path, keys_dir=tmp_path / "keys")
    apart = AuthzServerSettings(data_dir=tmp_path / "data", keys_dir=tmp_path / "keys")
    assert apart.keys_dir == tmp_path / "keys"


MTLS = {
    "mtls_base_url": "https://as.example.com:8443",
    "mtls_listen_port": 8443,
    "mtls_certificate_file": Path("/tls.pem"),
    "mtls_key_file": Path("/tls.key"),
}


@pytest.mark.requirement("spiffe-x509-svid")
@pytest.mark.parametrize("missing", MTLS)
def test_listener_for_client_certificates_is_configured_whole_or_not_at_all(missing: str) -> None:
    partly = {name: value for name, value in MTLS.items() if name != missing}
    with pytest.raises(ValidationError, match="go together"):
        AuthzServerSettings.model_validate(partly)
    assert AuthzServerSettings.model_validate(MTLS).mtls_listen_port == 8443
    assert AuthzServerSettings().mtls_listen_port is None


@pytest.mark.requirement("spiffe-x509-svid")
def test_listener_for_client_certificates_is_https_even_on_loopback() -> None:
    with pytest.raises(ValidationError, match="must be https"):
        AuthzServerSettings.model_validate(MTLS | {"mtls_base_url": "http://127.0.0.1:8443"})


def test_database_url_with_a_password_is_not_in_the_text_of_the_settings() -> None:
    settings = AuthzServerSettings(database_url="postgresql+psycopg://u:hunter2@db/countersign")
    assert "hunter2" not in repr(settings)
    assert settings.database.endswith("hunter2@db/countersign")


@pytest.mark.parametrize(
    ("given", "port"),
    [
        ({}, 8700),
        ({"issuer": "http://127.0.0.1:9000"}, 9000),
        ({"issuer": "http://127.0.0.1:9000", "listen_port": "9001"}, 9001),
        ({"issuer": "https://as.example.com"}, 8700),
    ],
)
def test_listen_port_follows_a_loopback_issuer_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], port: int
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"COUNTERSIGN_{name.upper()}", value)
    assert AuthzServerSettings().listen_port == port
    assert ServeSettings().listen_port == port


@pytest.mark.parametrize(
    "hosts", [["*"], ["claude.ai", "*.example.com"], ["claude.ai:8443"], ["127.0.0.1:9000"], []]
)
def test_hosts_of_client_documents_are_names_or_patterns(hosts: list[str]) -> None:
    assert AuthzServerSettings(client_metadata_hosts=hosts).client_metadata_hosts == set(hosts)


@pytest.mark.parametrize(
    "host", ["https://claude.ai", "Claude.ai", "claude.*", "*claude.ai", "claude.ai/", "a.b:0", ""]
)
def test_host_that_could_never_match_is_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        AuthzServerSettings(client_metadata_hosts=[host])
    with pytest.raises(ValidationError):
        AuthzServerSettings(client_metadata_blocked_hosts=[host])


@pytest.mark.parametrize("host", ["*", "*.intra.example"])
def test_private_host_of_client_documents_must_be_exact(host: str) -> None:
    with pytest.raises(ValidationError, match="exact hosts"):
        AuthzServerSettings(client_metadata_private_hosts=[host])
    exact = AuthzServerSettings(client_metadata_private_hosts=["clients.intra.example"])
    assert exact.client_metadata_private_hosts == {"clients.intra.example"}


@pytest.mark.parametrize(
    "url",
    [
        "valkeys://valkey.example.com",
        "valkeys://countersign@valkey.example.com:6380/3",
        "rediss://valkey.example.com:6380",
        "valkey://127.0.0.1:6379",
        "redis://[::1]",
        "unix:///run/valkey.sock",
    ],
)
def test_valkey_is_spoken_to_over_tls_or_on_this_machine(url: str) -> None:
    assert McpGatewaySettings(valkey_url=url, gateway_workers=4).valkey_url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("valkey://valkey.example.com", "must be valkeys"),
        ("valkey://localhost", "must be valkeys"),
        ("valkeys://user:secret@valkey.example.com", "password"),
        ("valkeys://valkey.example.com?ssl_cert_reqs=none", "no query"),
        ("valkeys://valkey.example.com/x", "number"),
        ("https://valkey.example.com", "must be valkeys"),
        ("valkeys://", "must be valkeys"),
        ("unix://relative", "must be valkeys"),
        ("valkey.example.com", "must be valkeys"),
    ],
)
def test_valkey_url_that_would_be_unsafe_is_refused(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        McpGatewaySettings(valkey_url=url)


def test_plain_valkey_beyond_loopback_is_an_explicit_choice() -> None:
    url = "valkey://valkey:6379"
    with pytest.raises(ValidationError, match="must be valkeys"):
        McpGatewaySettings(valkey_url=url)
    assert McpGatewaySettings(valkey_url=url, valkey_allow_plaintext=True).valkey_url == url
    parsed = parse_valkey_url("valkeys://me@v.example.com:1/2", allow_plaintext=False)
    assert parsed == ValkeyUrl("v.example.com", 1, None, 2, "me", is_tls=True)


@pytest.mark.requirement("one-worker-per-gateway")
def test_several_workers_need_valkey() -> None:
    for settings in (McpGatewaySettings, ServeSettings):
        with pytest.raises(ValidationError, match="COUNTERSIGN_VALKEY_URL"):
            settings(gateway_workers=2)
        assert settings(gateway_workers=2, valkey_url="valkey://127.0.0.1").gateway_workers == 2
        assert settings().gateway_workers == 1
