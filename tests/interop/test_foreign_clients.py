"""Official MCP clients without attestation and without DPoP, through the real processes."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull

from compose.demo.stack import Stack
from countersign.admin_client import AdminClient
from tests.interop.document_site import DocumentSite, document_site
from tests.interop.foreign_clients import AGENT, CALLBACK, Person, foreign_objects
from tests.stack import admin, await_event, mcp_headers, prepare, running_stack, tool_call

pytestmark = [pytest.mark.processes, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentSite]:
    with document_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, site: DocumentSite) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with running_stack(directory, environment=site.settings(), prepared=False) as running:
        prepare(running, foreign_objects(running))
        yield running


@asynccontextmanager
async def connected(
    person: Person, endpoint: str, mode: str, **options: Any
) -> AsyncIterator[Client]:
    auth = person.provider(endpoint, **options)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(endpoint, http_client=http), mode=mode) as client,
    ):
        yield client


def claims_of(person: Person) -> dict[str, Any]:
    assert person.storage.tokens is not None
    part = person.storage.tokens.access_token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_python_client_with_metadata_document_logs_in_and_calls_a_tool(
    stack: Stack, site: DocumentSite, mode: str
) -> None:
    client_id = site.publish(f"/{mode}.json", redirect_uris=[CALLBACK])
    person = Person()
    endpoint = stack.endpoint("notes")
    async with connected(person, endpoint, mode, client_metadata_url=client_id) as client:
        listed = await client.list_tools()
        answer = await client.call_tool("search", {"text": "refund"})
    assert [tool.name for tool in listed.tools] == ["search"]
    assert not answer.is_error, answer
    claims = claims_of(person)
    assert claims["act"] == {
        "iss": stack.issuer, "sub": client_id, "sub_profile": "ai_agent", "agent": AGENT
    }  # fmt: skip
    assert claims["attn"]["level"] == 0
    assert "cnf" not in claims
    assert site.authority in person.consents[0].text
    await_event(stack, type="call.finished", agent=AGENT, tool="search", client_id=client_id)


async def test_python_client_refreshes_by_itself_when_its_token_ends(
    stack: Stack, site: DocumentSite
) -> None:
    client_id = site.publish("/refresh.json", redirect_uris=[CALLBACK])
    person, endpoint = Person(), stack.endpoint("notes")
    auth = person.provider(endpoint, client_metadata_url=client_id)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(endpoint, http_client=http)) as client,
    ):
        await client.call_tool("search", {"text": "refund"})
        before = person.storage.tokens
        auth.context.token_expiry_time = 1.0
        answer = await client.call_tool("search", {"text": "hours"})
    after = person.storage.tokens
    assert not answer.is_error
    assert before is not None
    assert after is not None
    assert before.refresh_token not in {None, after.refresh_token}
    assert before.access_token != after.access_token
    assert len(person.urls) == 1  # nobody was asked again


async def test_declared_public_client_logs_in_and_calls_a_tool(stack: Stack) -> None:
    person = Person()
    person.storage.client = OAuthClientInformationFull(
        client_id="desktop", redirect_uris=[CALLBACK], token_endpoint_auth_method="none"
    )
    async with connected(person, stack.endpoint("notes"), "auto") as client:
        answer = await client.call_tool("search", {"text": "refund"})
    assert not answer.is_error
    assert claims_of(person)["act"]["sub"] == "desktop"
    assert "called Desktop client act for you" in person.consents[0].text


async def test_bearer_is_good_at_its_own_server_alone_and_dies_with_its_client(
    stack: Stack, site: DocumentSite
) -> None:
    client_id = site.publish("/killed.json", redirect_uris=[CALLBACK])
    person = Person()
    async with connected(
        person, stack.endpoint("notes"), "auto", client_metadata_url=client_id
    ) as client:
        await client.list_tools()
    assert person.storage.tokens is not None
    token = person.storage.tokens.access_token

    def call(server: str, tool: str, scheme: str = "Bearer") -> httpx2.Response:
        headers = mcp_headers("tools/call", tool) | {"authorization": f"{scheme} {token}"}
        body = tool_call(tool, {"text": "refund"})
        return stack.http.post(stack.endpoint(server), json=body, headers=headers)

    assert call("notes", "search").status_code == 200
    elsewhere = call("crm", "list_hours")
    assert elsewhere.status_code == 401
    challenge = elsewhere.headers.get_list("www-authenticate")[0]
    assert challenge.startswith('Bearer error="invalid_token"')
    assert "resource_metadata=" in challenge
    assert 'scope="mcp:tools"' in challenge
    assert call("notes", "search", "DPoP").status_code == 401
    with admin(stack) as api:
        cut = {"kind": "client_id", "id": client_id, "reason": "test"}
        event = api.call("POST", "/blocks", json=cut)
        assert event["is_known"] is None
        await_applied(api, event["sequence"])
        assert call("notes", "search").status_code == 401
        detail = f"client_id/{client_id} blocked"
        await_event(stack, type="caller.refused", client_id=client_id, detail=detail)
        api.call("DELETE", f"/blocks/client_id/{client_id}")


def await_applied(api: AdminClient, sequence: int) -> None:
    """Until every worker has it."""
    for _ in range(500):
        acks = api.call("GET", f"/blocks/acks/{sequence}")["acks"]
        if acks and all(ack["applied_at_ms"] is not None for ack in acks):
            return
    raise AssertionError("not applied")


async def test_server_that_requires_bound_tokens_refuses_the_login_of_a_stranger(
    stack: Stack, site: DocumentSite
) -> None:
    client_id = site.publish("/bound.json", redirect_uris=[CALLBACK])
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": CALLBACK,
        "resource": stack.endpoint("crm"),
        "code_challenge": "a" * 43,
        "code_challenge_method": "S256",
    }
    answer = stack.http.get(f"{stack.issuer}/oauth/authorize", params=query)
    assert answer.status_code == 400
    assert f'href="{CALLBACK}?error=invalid_target' in answer.text


def await_refusal(stack: Stack, rule: str) -> None:
    """The audit has a refused login of this rule."""
    wanted: dict[str, Any] = {"type": "authorize.refused", "reasons": [rule]}
    await_event(stack, **wanted)


@pytest.mark.requirement("attack-3")
def test_document_at_an_address_that_is_not_listed_is_not_fetched(
    stack: Stack, site: DocumentSite
) -> None:
    asked = len(site.asked)
    query = {"client_id": f"https://127.0.0.1:{site.port}/auto.json", "redirect_uri": CALLBACK}
    answer = stack.http.get(f"{stack.issuer}/oauth/authorize", params=query)
    assert answer.status_code == 400
    assert len(site.asked) == asked
    await_refusal(stack, "client_document.address_refused")


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize(
    ("manner", "rule"), [("redirect", "redirected"), ("large", "too_large"), ("slow", "timeout")]
)
def test_site_that_redirects_floods_or_stalls_gets_nobody_in(
    stack: Stack, site: DocumentSite, manner: str, rule: str
) -> None:
    client_id = site.publish(f"/{manner}.json", redirect_uris=[CALLBACK])
    site.manners[f"/{manner}.json"] = manner
    query = {"client_id": client_id, "redirect_uri": CALLBACK}
    assert stack.http.get(f"{stack.issuer}/oauth/authorize", params=query).status_code == 400
    await_refusal(stack, f"client_document.{rule}")
    assert "/elsewhere.json" not in site.asked


def test_discovery_says_that_documents_are_read(stack: Stack) -> None:
    metadata = stack.http.get(f"{stack.issuer}/.well-known/oauth-authorization-server").json()
    assert metadata["client_id_metadata_document_supported"] is True
