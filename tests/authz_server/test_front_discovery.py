"""The documents clients discover us by: metadata and the key set."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from authz_server.app import create_app
from authz_server.authorize_checks import PROMPTS
from authz_server.endpoints.metadata import server_metadata
from authz_server.grants.catalog import GRANTS
from tests.authz_server.back_half import ISSUER, Authority
from tests.authz_server.front_half import (
    HTTPS_ISSUER,
    FrontHalf,
    is_login,
    request_parameters,
)
from tests.databases import new_database

NAMES = ("openid-configuration", "oauth-authorization-server")
PATH_ISSUER = "https://id.example.com/tenants/a1"


@pytest.fixture
def under_a_path(tmp_path: Path) -> Iterator[FrontHalf]:
    database = new_database(tmp_path)
    yield FrontHalf(database, PATH_ISSUER)
    database.close()


def documents(half: FrontHalf, *places: str) -> list[bytes]:
    http = TestClient(half.app, base_url="https://somewhere.else")
    answers = [http.get(place) for place in places]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.content for answer in answers]


@pytest.mark.requirement("attack-25")
@pytest.mark.requirement("attack-11")
def test_metadata_has_the_configured_issuer_byte_for_byte_under_both_names(
    half: FrontHalf,
) -> None:
    one, other = documents(half, *(f"/.well-known/{name}" for name in NAMES))
    assert one == other
    assert f'"issuer":"{HTTPS_ISSUER}"'.encode() in one
    assert b"somewhere.else" not in one


def test_metadata_of_an_issuer_with_a_path_is_at_all_four_places(under_a_path: FrontHalf) -> None:
    path = "/tenants/a1"
    places = [f"{path}/.well-known/{name}" for name in NAMES]  # OpenID Discovery §4
    places += [f"/.well-known/{name}{path}" for name in NAMES]  # RFC 8414 §3.1
    (document,) = set(documents(under_a_path, *places))
    said = json.loads(document)
    assert said["issuer"] == PATH_ISSUER
    assert said["authorization_endpoint"] == f"{PATH_ISSUER}/oauth/authorize"
    http = TestClient(under_a_path.app, base_url="https://id.example.com")
    assert [http.get(f"/.well-known/{name}").status_code for name in NAMES] == [404, 404]


@pytest.mark.requirement("attack-10")
def test_metadata_says_what_is_served_and_nothing_else() -> None:
    said = server_metadata(HTTPS_ISSUER)
    assert set(said["grant_types_supported"]) == set(GRANTS)
    assert said["response_types_supported"] == ["code"]
    assert said["response_modes_supported"] == ["query"]
    assert said["code_challenge_methods_supported"] == ["S256"]
    assert set(said["prompt_values_supported"]) == PROMPTS
    assert said["authorization_response_iss_parameter_supported"] is True
    assert said["request_parameter_supported"] is False
    assert said["request_uri_parameter_supported"] is False
    assert said["claims_parameter_supported"] is False
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        assert said[name].startswith(f"{HTTPS_ISSUER}/oauth/")
    for unsupported in ("registration_endpoint", "introspection_endpoint", "userinfo_endpoint"):
        assert unsupported not in said
    algorithms = [values for name, values in said.items() if "signing_alg" in name]
    assert algorithms
    assert all(values == ["ES256"] for values in algorithms)


def test_metadata_endpoints_exist(half: FrontHalf) -> None:
    (document,) = documents(half, "/.well-known/openid-configuration")
    said: dict[str, Any] = json.loads(document)
    browser = half.browser()
    answer = browser.http.get(said["authorization_endpoint"], params=request_parameters())
    assert is_login(browser.follow(answer))
    assert browser.http.get(said["jwks_uri"]).status_code == 200


@pytest.mark.anyio
@pytest.mark.requirement("attack-8")
@pytest.mark.requirement("attack-25")
@pytest.mark.parametrize("issuer", [ISSUER, f"{ISSUER}/tenants/a1"])
@pytest.mark.parametrize(
    "place",
    ["/oauth/authorize", "/oauth/token", "/oauth/jwks", "/.well-known/openid-configuration"],
)
async def test_path_with_a_slash_too_many_is_never_a_redirect_to_the_requests_host(
    authority: Authority, place: str, issuer: str
) -> None:
    app = create_app(replace(authority.parts, issuer=issuer))
    prefix = issuer.removeprefix(ISSUER)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://evil.example") as http:
        for path in (f"{place}/", f"{prefix}{place}/"):
            answer = await http.get(path)
            assert (answer.status_code, answer.headers.get("location")) == (404, None)
        assert (await http.get(f"{prefix}{place}")).status_code != 404


@pytest.mark.parametrize("place", ["/.well-known/openid-configuration", "/oauth/jwks"])
def test_public_document_is_cacheable_and_known_by_its_tag(half: FrontHalf, place: str) -> None:
    http = half.browser().http
    first = http.get(place)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "public, max-age=300"
    assert first.headers["access-control-allow-origin"] == "*"
    assert first.headers["content-type"] == "application/json"
    assert "set-cookie" not in first.headers
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = http.get(place, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for unknown in ('"other"', tag.strip('"'), "", tag[:-2] + '"'):
        assert http.get(place, headers={"if-none-match": unknown}).status_code == 200


@pytest.mark.requirement("attack-27")
def test_jwks_tag_changes_with_the_keys(half: FrontHalf) -> None:
    http = half.browser().http
    before = http.get("/oauth/jwks").headers["etag"]
    keys: Any = half.parts.keys
    keys.jwks = (*keys.jwks, {"kty": "EC", "crv": "P-256", "kid": "k2"})
    after = http.get("/oauth/jwks", headers={"if-none-match": before})
    assert after.status_code == 200
    assert [key["kid"] for key in after.json()["keys"]] == ["k1", "k2"]
    assert after.headers["etag"] != before


@pytest.mark.anyio
@pytest.mark.requirement("keys-at-rest")
async def test_jwks_publishes_the_token_keys_without_private_members(authority: Authority) -> None:
    async with authority.http() as http:
        answer = await http.get("/oauth/jwks")
        metadata = await http.get("/.well-known/oauth-authorization-server")
    keys = answer.json()["keys"]
    assert len({key["kid"] for key in keys}) == 2  # access tokens and ID tokens
    for key in keys:
        assert {"d", "p", "q", "dp", "dq", "qi", "k", "oth"} & set(key) == set()
        assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")
    assert metadata.json()["issuer"] == ISSUER
    always = server_metadata(ISSUER)
    said = msgspec.json.decode(metadata.content)
    assert said == always | {"client_id_metadata_document_supported": False}
