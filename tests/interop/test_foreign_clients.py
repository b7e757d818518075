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

from compose.demo.stack import Stack
from tests.interop.document_site import DocumentSite, document_site
from tests.interop.foreign_clients import AGENT, CALLBACK, Person, foreign_objects
from tests.stack import await_event, prepare, running_stack

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
    event = await_event(stack, type="call.finished", agent=AGENT, tool="search")
    assert event["client_id"] == client_id
