"""A server on the official SDK of the legacy era, behind the gateway, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from audit_log.event import Outcome
from mcp_gateway.upstream.either_era import EitherEraUpstream
from mcp_gateway.upstream.http import HttpUpstream
from mcp_gateway.web_server import new_server
from registry.blocks import BlockKind
from registry.snapshot import ToolEntry
from tests.mcp_gateway.rig import Exchange, Rig, enforcement_view, tool, tool_call
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_processes import served
from tests.mcp_gateway.test_sdk_processes import ProofAuth
from tests.services.common import service, started
from tests.services.mcp_clients import install_python_legacy
from tests.services.published_servers import is_listening
from tests.stack import held_port

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

SERVER = Path(__file__).with_name("legacy_sdk_server.py")
TOOLS = ["who", "sampled", "progress", "slow", "cancelled", "polled", "exact"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["stream", "json"])
def old_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Its URL and the form it answers in."""
    form = request.param
    with service("the legacy SDK"):
        interpreter = install_python_legacy()
    with ExitStack() as holding:
        port = held_port(holding)
    directory = tmp_path_factory.mktemp(f"legacy-{form}")
    with started("legacy-sdk", [interpreter, SERVER, str(port), form], directory) as server:
        server.await_ready(lambda: is_listening(port))
        yield f"http://127.0.0.1:{port}/mcp", form


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    key = ECKey.generate_key("P-256")
    rig = Rig(tmp_path, enforcement_view(key), key)
    yield rig
    rig.spool.close()


def tools() -> tuple[ToolEntry, ...]:
    return tuple(tool(f"get_{name}", {}, read_only=True) for name in TOOLS)


@asynccontextmanager
async def gateway(rig: Rig, url: str) -> AsyncIterator[str]:
    """The rig's gateway on a socket, with that server behind it; its endpoint."""
    async with HttpUpstream() as connections:
        upstream = EitherEraUpstream(connections, rig.monotonic)
        object.__setattr__(rig.parts, "upstream", upstream)
        rig.with_server(url=url, tools=tools(), timeout_seconds=20.0)
        server = new_server(rig.app, host="127.0.0.1", port=0, drain_seconds=0.1)
        try:
            async with served(server) as port:
                yield f"http://127.0.0.1:{port}/crm/mcp"
        finally:
            await upstream.aclose()


@asynccontextmanager
async def connected(rig: Rig, url: str) -> AsyncIterator[Client]:
    async with (
        gateway(rig, url) as endpoint,
        httpx2.AsyncClient(auth=ProofAuth(rig)) as http_client,
        Client(streamable_http_client(endpoint, http_client=http_client)) as client,
    ):
        yield client


async def text_of(client: Client, name: str, **options: Any) -> str:
    result = await client.call_tool(f"get_{name}", {}, **options)
    assert not result.is_error, result
    return str(result.content[0].text)  # type: ignore[union-attr]


@pytest.mark.requirement("legacy-upstream")
async def test_modern_client_uses_a_legacy_server(rig: Rig, old_server: tuple[str, str]) -> None:
    url, form = old_server
    heard: list[tuple[float, str | None]] = []

    async def note(progress: float, _total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async with connected(rig, url) as client:
        assert len((await client.list_tools()).tools) == len(TOOLS)
        assert await text_of(client, "progress", progress_callback=note) == "done"
        first, second = await text_of(client, "who"), await text_of(client, "who")
        assert first == second
    steps = [(1, "step 1"), (2, "step 2"), (3, "step 3")]
    assert heard == ([] if form == "json" else steps)


@pytest.mark.requirement("trap-reply-rewritten")
async def test_number_that_no_float_holds_arrives(rig: Rig, old_server: tuple[str, str]) -> None:
    async with connected(rig, old_server[0]) as client:
        result = await client.call_tool("get_exact", {})
    assert result.structured_content == {"number": 12345678901234567890123, "text": "é"}


# One that answers in JSON has nowhere to ask.
@pytest.mark.requirement("legacy-server-requests")
@pytest.mark.parametrize("old_server", ["stream"], indirect=True)
async def test_server_that_samples_is_refused_and_goes_on(
    rig: Rig, old_server: tuple[str, str]
) -> None:
    async with connected(rig, old_server[0]) as client:
        assert await text_of(client, "sampled") == "refused: -32601"


@pytest.mark.requirement("legacy-stream-resumed")
@pytest.mark.parametrize("old_server", ["stream"], indirect=True)
async def test_stream_the_server_closed_is_taken_up_again(
    rig: Rig, old_server: tuple[str, str]
) -> None:
    heard: list[str | None] = []

    async def note(_progress: float, _total: float | None, message: str | None) -> None:
        heard.append(message)

    async with connected(rig, old_server[0]) as client:
        assert await text_of(client, "polled", progress_callback=note) == "resumed"
    assert heard == ["before", "after"]


@pytest.mark.requirement("legacy-session-renewed-once")
async def test_session_ended_behind_our_back_is_begun_again(
    rig: Rig, old_server: tuple[str, str]
) -> None:
    url, _ = old_server
    async with connected(rig, url) as client, httpx2.AsyncClient() as http:
        first = (await text_of(client, "who")).partition(" ")[0]
        headers = {"mcp-session-id": first, "mcp-protocol-version": "2025-11-25"}
        assert (await http.delete(url, headers=headers)).status_code == 200
        second = (await text_of(client, "who")).partition(" ")[0]
    assert first != second


@pytest.mark.requirement("legacy-session-per-principal")
async def test_two_people_with_one_credential_have_two_sessions(
    rig: Rig, old_server: tuple[str, str]
) -> None:
    async with gateway(rig, old_server[0]):
        seen: dict[str, set[bytes]] = {}
        for person in ("usr_alice", "usr_bob", "usr_alice"):
            token = rig.token(rig.claims(sub=person))
            answer = await rig.call("get_who", {}, token=token)
            payload = answer.body.partition(b"data: ")[2] or answer.body
            session, credential = payload.partition(b'"text":"')[2].split(b'"')[0].split()
            seen.setdefault(person, set()).add(session)
            assert credential == rig.authority.answer["access_token"][-16:].encode()
    assert len(seen["usr_alice"]) == len(seen["usr_bob"]) == 1
    assert seen["usr_alice"].isdisjoint(seen["usr_bob"])


@pytest.mark.requirement("cancellation-travels-up")
@pytest.mark.parametrize("ending", ["leaves", "killed"])
async def test_call_that_nobody_waits_for_is_cancelled_in_the_server(
    rig: Rig, old_server: tuple[str, str], ending: str
) -> None:
    url, _ = old_server
    async with connected(rig, url) as client:
        before = int(await text_of(client, "cancelled"))
        token = rig.token(rig.claims(sub="usr_bob"))
        exchange = Exchange()
        call = rig.http(tool_call("get_slow", {}), token=token)
        task = rig.start(exchange, call)
        while not len(rig.parts.open_calls):  # noqa: ASYNC110 - real sockets
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # until the server is at work on it
        if ending == "leaves":
            exchange.gone.set()
        else:
            event = revocation(BlockKind.SUBJECT, "usr_bob")
            rig.parts.enforcement.apply(event)
            rig.parts.upstream.forget(event)
            rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
        await task
        async with asyncio.timeout(5):
            while int(await text_of(client, "cancelled")) == before:  # noqa: ASYNC110 - its clock
                await asyncio.sleep(0.05)
    outcomes = {event.outcome for event in rig.events("call.finished")}
    assert (Outcome.CANCELLED if ending == "leaves" else Outcome.REVOKED) in outcomes
