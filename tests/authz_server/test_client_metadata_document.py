"""What a client id metadata document must say, and what of it is taken."""

from typing import Any

import pytest
from joserfc.jwk import ECKey

from authz_server.clients.metadata_document import (
    ClientDocument,
    host_of,
    is_document_url,
    read_document,
)
from authz_server.clients.self_declared import level_of
from authz_server.redirect_uris import matches
from registry.snapshot import ClientRecord
from registry.unattested import UNATTESTED_AGENT
from token_exchange.claims import Refusal

CLIENT_ID = "https://claude.example/oauth/client.json"
ISSUER = "https://as.example.com"
HTTPS = "https://claude.example/callback"
LOOPBACK = "http://127.0.0.1/callback"
KEY = ECKey.generate_key("P-256")
PUBLIC_KEY = {**KEY.as_dict(private=False), "kid": "k1"}


def document(**members: Any) -> dict[str, Any]:
    said = {"client_id": CLIENT_ID, "client_name": "Claude", "redirect_uris": [HTTPS]} | members
    return {name: value for name, value in said.items() if value is not None}


def accepted(**members: Any) -> ClientRecord:
    found = read_document(CLIENT_ID, document(**members), ISSUER)
    assert isinstance(found, ClientDocument), found
    return found.client


def rule_of(**members: Any) -> str:
    found = read_document(CLIENT_ID, document(**members), ISSUER)
    assert isinstance(found, Refusal), found
    assert found.code == "invalid_request"
    return found.rule


@pytest.mark.requirement("CIMD-3")
@pytest.mark.parametrize(
    "client_id",
    [
        CLIENT_ID,
        "https://a.example:8443/c",
        "https://xn--bcher-kva.example/c.json",
        f"{CLIENT_ID}/",
    ],
)
def test_plain_https_url_may_name_a_document(client_id: str) -> None:
    assert is_document_url(client_id)


@pytest.mark.requirement("CIMD-3")
@pytest.mark.parametrize(
    "client_id",
    [
        "http://claude.example/c",
        "https://claude.example",
        "https://claude.example/",
        "https://claude.example/a/../c",
        "https://claude.example/./c",
        "https://claude.example/%2e%2E/c",
        "https://claude.example/c#x",
        "https://claude.example/c?x=1",
        "https://user@claude.example/c",
        "https://claude.example:0/c",
        "https://CLAUDE.example/c",
        "HTTPS://claude.example/c",
        "https://bücher.example/c",
        "https://[::1]/c",
        "https://claude.example\\@evil.example/c",
        "https://claude.example/a b",
        f"https://claude.example/{'a' * 512}",
    ],
)
def test_url_with_another_spelling_names_no_document(client_id: str) -> None:
    assert not is_document_url(client_id)


@pytest.mark.requirement("attack-21")
def test_document_of_a_public_client_is_taken() -> None:
    client = accepted()
    assert client.client_id == CLIENT_ID
    assert client.agent == UNATTESTED_AGENT
    assert client.redirect_uris == (HTTPS,)
    assert client.authentication == ("none",)
    assert host_of(client.client_id) == "claude.example"


@pytest.mark.requirement("attack-21")
@pytest.mark.parametrize(
    "said", ["https://claude.example/oauth/client.json/", "https://evil.example/c", None, 7]
)
def test_document_that_names_another_client_id_is_refused(said: object) -> None:
    assert rule_of(client_id=said) == "client_document.client_id"


@pytest.mark.requirement("attack-21")
@pytest.mark.parametrize(
    "members",
    [
        {"client_secret": "s"},
        {"client_secret_expires_at": 0},
        {"client_secret": ""},
    ],
)
def test_document_with_a_shared_secret_is_refused(members: dict[str, Any]) -> None:
    assert rule_of(**members) == "client_document.secret"


@pytest.mark.requirement("CIMD-4")
@pytest.mark.parametrize(
    "method",
    ["client_secret_basic", "client_secret_post", "client_secret_jwt", "tls_client_auth", 1],
)
def test_document_with_another_authentication_is_refused(method: object) -> None:
    assert rule_of(token_endpoint_auth_method=method) == "client_document.method"


@pytest.mark.parametrize(
    "name", [None, "", 7, "a" * 65, "a\nb", "Bank\u202egnp", "\u200bBank", " a"]
)
def test_name_nobody_can_read_is_refused(name: object) -> None:
    assert rule_of(client_name=name) == "client_document.name"


@pytest.mark.parametrize("name", ["Claude", "Café für Ελλάδα", "日本語クライアント"])
def test_name_in_any_script_is_taken(name: str) -> None:
    assert accepted(client_name=name).display_name == name


@pytest.mark.requirement("attack-21")
@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/callback",
        "https://claude.example.evil.example/callback",
        "https://claude.example:8443/callback",
        "http://claude.example/callback",
        "cursor://callback",
        "http://192.168.1.1/callback",
    ],
)
def test_redirect_on_another_origin_is_never_used(uri: str) -> None:
    assert rule_of(redirect_uris=[uri]) == "client_document.redirect_origin"
    client = accepted(redirect_uris=[uri, HTTPS])
    assert client.redirect_uris == (HTTPS,)
    assert matches(client, HTTPS)
    assert not matches(client, uri)


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize(
    "uri",
    [
        "https://user@claude.example/cb",
        "https://claude.example/cb#x",
        'https://claude.example/"cb',
        "https://claude.example/c b",
        "https://claude.example/ü",
        "https://[/cb",
        f"https://claude.example/{'a' * 256}",
        7,
        None,
    ],
)
def test_redirect_that_two_readers_read_differently_is_refused(uri: object) -> None:
    assert rule_of(redirect_uris=[uri]) == "client_document.redirect_uris"


@pytest.mark.parametrize("listed", [None, [], "https://claude.example/cb", [HTTPS] * 17])
def test_redirects_that_are_no_short_list_are_refused(listed: object) -> None:
    assert rule_of(redirect_uris=listed) == "client_document.redirect_uris"


@pytest.mark.requirement("attack-21")
def test_redirect_on_our_own_host_is_refused() -> None:
    client_id = "https://as.example.com/client.json"
    said = document(client_id=client_id, redirect_uris=["https://as.example.com/cb"])
    found = read_document(client_id, said, ISSUER)
    assert isinstance(found, Refusal)
    assert found.rule == "client_document.redirect_host"


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize(
    "registered", [LOOPBACK, "http://[::1]/callback", "http://localhost/callback"]
)
def test_native_client_listens_on_any_port(registered: str) -> None:
    client = accepted(redirect_uris=[registered])
    host = registered.removesuffix("/callback")
    assert matches(client, f"{host}:53682/callback")
    assert not matches(client, f"{host}:53682/other")
    assert not matches(client, f"{host}:99999/callback")


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize("kind", ["web", "Native", 1])
def test_client_that_is_not_native_gets_its_exact_redirects_only(kind: object) -> None:
    client = accepted(redirect_uris=[LOOPBACK], application_type=kind)
    assert matches(client, LOOPBACK)
    assert not matches(client, "http://127.0.0.1:53682/callback")


@pytest.mark.requirement("attack-7")
def test_client_with_a_web_redirect_is_native_only_if_it_says_so() -> None:
    redirects = [LOOPBACK, HTTPS]
    any_port = "http://127.0.0.1:53682/callback"
    assert matches(accepted(redirect_uris=redirects, application_type="native"), any_port)
    assert not matches(accepted(redirect_uris=redirects), any_port)


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize(
    ("members", "asked"),
    [
        # shaped like those of a command line, of an editor with a web site, and of a web site
        (
            {"redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"]},
            "http://localhost:54545/callback",
        ),
        (
            {
                "application_type": "native",
                "redirect_uris": ["http://127.0.0.1:33418/", "https://claude.example/redirect"],
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
                "client_uri": "https://claude.example/product",
            },
            "http://127.0.0.1:40000/",
        ),
        (
            {
                "redirect_uris": ["https://claude.example/api/mcp/auth_callback"],
                "logo_uri": "https://claude.example/logo.png",
                "scope": "anything",
                "contacts": ["security@claude.example"],
            },
            "https://claude.example/api/mcp/auth_callback",
        ),
    ],
)
def test_documents_as_clients_publish_them_are_taken(members: dict[str, Any], asked: str) -> None:
    assert matches(accepted(**members), asked)


def test_level_is_one_for_who_alone_gets_the_answer_or_can_use_it() -> None:
    jwks = {"keys": [PUBLIC_KEY]}
    with_key = {"token_endpoint_auth_method": "private_key_jwt", "jwks": jwks}
    assert level_of(accepted()) == 1
    assert level_of(accepted(redirect_uris=[LOOPBACK], **with_key)) == 1
    assert level_of(accepted(redirect_uris=[LOOPBACK])) == 0
    assert level_of(accepted(redirect_uris=[HTTPS, LOOPBACK])) == 0


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [KEY.as_dict(private=True) | {"kid": "k1"}]}},
        {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]}},
        {"jwks": [PUBLIC_KEY]},
        {"jwks": {"keys": [PUBLIC_KEY] * 9}},
        {"jwks_uri": "https://keys.example/jwks"},
        {"jwks_uri": "http://claude.example/jwks"},
        {"jwks_uri": "https://claude.example/jwks", "jwks": {"keys": [PUBLIC_KEY]}},
    ],
)
def test_keys_that_are_not_the_clients_own_are_refused(members: dict[str, Any]) -> None:
    said = members | {"token_endpoint_auth_method": "private_key_jwt"}
    assert rule_of(**said) == "client_document.keys"


def test_keys_at_its_own_origin_are_taken() -> None:
    uri = "https://claude.example/jwks.json"
    client = accepted(token_endpoint_auth_method="private_key_jwt", jwks_uri=uri)
    assert client.jwks_uri == uri
    assert client.authentication == ("private_key_jwt",)


@pytest.mark.requirement("attack-21")
def test_digest_changes_with_the_document_and_not_with_its_order() -> None:
    once = accepted()
    again = read_document(CLIENT_ID, dict(reversed(document().items())), ISSUER)
    assert isinstance(again, ClientDocument)
    assert again.client.document_digest == once.document_digest
    assert accepted(logo_uri="https://claude.example/x").document_digest != once.document_digest


@pytest.mark.parametrize(
    ("listed", "is_asked"),
    [
        (["authorization_code", "refresh_token"], True),
        (["authorization_code"], False),
        (None, False),
        ("refresh_token", False),
        ({"refresh_token": True}, False),
        ([["refresh_token"], 7], False),
    ],
)
def test_refresh_token_is_asked_for_by_the_grant_types_of_a_document(
    listed: Any, is_asked: bool
) -> None:
    assert accepted(grant_types=listed).wants_refresh == is_asked
