"""The official Python client in its legacy mode, and raw HTTP, through the real processes."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import ToolListChangedNotification

from authz_server.issuing.signing_keys import KeyPurpose
from compose.demo.bound_token import BoundToken
from compose.demo.stack import Stack
from tests.forging import part, real_keys
from tests.stack import TestAgent, admin, demo_objects, running_stack
from tests.streams import STREAM_SECONDS
from tests.witness import Witness
from token_exchange.token_types import ACCESS_TOKEN_TYP

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

TOOLS = ["get_account", "refund", "list_hours", "watch_account"]
LATEST, OLDER = "2025-11-25", "2025-06-18"
CHANGED = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def agent_for(stack: Stack, person: str) -> TestAgent:
    agent = TestAgent(stack)
    agent.token_for(person, "crm", TOOLS)
    return agent


@pytest.fixture(scope="module")
def alice(stack: Stack) -> TestAgent:
    return agent_for(stack, "alice")


@pytest.fixture(scope="module")
def bob(stack: Stack) -> TestAgent:
    return agent_for(stack, "bob")


@asynccontextmanager
async def connected(
    agent: TestAgent, token: str | None = None, **options: Any
) -> AsyncIterator[Client]:
    auth = BoundToken(agent.key, token or agent.tokens["crm"])  # type: ignore[arg-type] # as `proof`
    async with (
        httpx2.AsyncClient(auth=auth, timeout=30, trust_env=False) as http,
        Client(
            streamable_http_client(agent.stack.endpoint("crm"), http_client=http),
            mode="legacy",
            **options,
        ) as client,
    ):
        yield client


@dataclass
class RawSession:
    """A legacy session by hand."""

    agent: TestAgent
    version: str = LATEST
    id: str = ""
    token: str | None = None
    initialized: dict[str, Any] = field(default_factory=dict)
    server: str = "crm"

    def __post_init__(self) -> None:
        params = {
            "protocolVersion": self.version,
            "capabilities": {},
            "clientInfo": {"name": "by hand", "version": "1"},
        }
        answer = self.ask("initialize", params)
        self.id = answer.headers["mcp-session-id"]
        self.initialized = answer.json()["result"]

    def headers(self, method: str) -> dict[str, str]:
        token = self.token or self.agent.tokens[self.server]
        headers = self.agent.headers(method, self.url, token)
        headers["accept"] = "application/json, text/event-stream"
        if self.id:
            headers |= {"mcp-session-id": self.id, "mcp-protocol-version": self.version}
        return headers

    @property
    def url(self) -> str:
        return self.agent.stack.endpoint(self.server)

    def ask(self, method: str, params: dict[str, Any] | None = None) -> httpx2.Response:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params is not None:
            message["params"] = params
        http = self.agent.stack.http
        return http.post(self.url, json=message, headers=self.headers("POST"))

    def delete(self) -> httpx2.Response:
        return self.agent.stack.http.delete(self.url, headers=self.headers("DELETE"))

    async def listen(self, lines: "asyncio.Queue[str]") -> int:
        """Follow the listening stream to its end; its status."""
        async with (
            httpx2.AsyncClient(timeout=STREAM_SECONDS, trust_env=False) as http,
            http.stream("GET", self.url, headers=self.headers("GET")) as answer,
        ):
            async for line in answer.aiter_lines():
                lines.put_nowait(line)
        return answer.status_code


async def begun(session: RawSession) -> "tuple[asyncio.Task[int], asyncio.Queue[str]]":
    lines: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(session.listen(lines))
    assert await asyncio.wait_for(lines.get(), 5) == ": listening"
    return task, lines


def first_tick(begun: asyncio.Event) -> ProgressFnT:
    """Marks that the call has begun to stream."""

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del progress, total, message
        begun.set()

    return note


def touch_policy(stack: Stack, text: str) -> None:
    """Declare the notes policy again with another comment: a new policy set, the same rules."""
    policies = [
        each for each in demo_objects(stack) if (each["kind"], each["name"]) == ("Policy", "notes")
    ]
    policies[0]["spec"]["cedar"] += f"\n// {text}\n"
    with admin(stack) as api:
        api.call("POST", "/objects", json={"objects": policies})


@pytest.mark.requirement("MCP-2025-11-25")
async def test_official_client_lists_calls_is_denied_and_leaves(alice: TestAgent) -> None:
    witness = Witness(alice.stack)
    async with connected(alice) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == sorted(TOOLS)
        found = await client.call_tool("get_account", {"id": 17})
        assert not found.is_error
        assert found.structured_content is not None
        assert found.structured_content["account"]["id"] == 17
        assert found.structured_content["seen"]["agent"] == "support-bot"
        denied = await client.call_tool("refund", {"id": 17, "amount": 900.0})
        assert denied.is_error
        assert denied.meta is not None
        assert denied.meta["category"] == "not_permitted"
        with pytest.raises(MCPError) as raised:
            await client.list_prompts()
        assert raised.value.error.code == -32601
        with pytest.warns(MCPDeprecationWarning, match="removed as of 2026-07-28"):
            await client.send_ping()
    event = witness.event("call.finished", tool="get_account")
    assert (event["outcome"], event["agent"]) == ("succeeded", "support-bot")
    assert event["user"]


@pytest.mark.requirement("trap-notifications-lost")
async def test_official_client_hears_progress(alice: TestAgent) -> None:
    heard: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert json.loads(message or "")["id"] == 17
        heard.append((progress, total))

    async with connected(alice) as client:
        result = await client.call_tool(
            "watch_account", {"id": 17, "seconds": 0.5}, progress_callback=note
        )
    assert not result.is_error
    assert heard == [(tick, 5) for tick in range(5)]


@pytest.mark.requirement("cancellation-travels-up")
async def test_call_the_client_gives_up_ends_at_the_server(alice: TestAgent) -> None:
    witness = Witness(alice.stack)
    begun = asyncio.Event()
    async with connected(alice) as client:
        task = asyncio.create_task(
            client.call_tool(
                "watch_account",
                {"id": 17, "seconds": STREAM_SECONDS},
                progress_callback=first_tick(begun),
            )
        )
        await asyncio.wait_for(begun.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        event = await asyncio.to_thread(witness.event, "call.finished", tool="watch_account")
        assert (event["outcome"], event["error_code"]) == ("cancelled", "cancelled")
        assert not (await client.call_tool("list_hours", {})).is_error


async def test_official_client_is_told_that_the_policy_changed(alice: TestAgent) -> None:
    told = asyncio.Event()

    async def handle(message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            told.set()

    witness = Witness(alice.stack)
    async with connected(alice, message_handler=handle) as client:
        await client.list_tools()
        # The listening stream is a request of its own, a moment later than `initialized`.
        for attempt in range(20):
            await asyncio.to_thread(touch_policy, alice.stack, f"attempt {attempt}")
            try:
                await asyncio.wait_for(told.wait(), 1)
                break
            except TimeoutError:
                continue
    assert told.is_set()
    assert not [event for event in witness.news() if event["type"] == "stream.closed"]


@pytest.mark.requirement("MCP-2025-11-25")
@pytest.mark.parametrize("version", [LATEST, OLDER])
def test_both_versions_are_spoken_by_hand(alice: TestAgent, version: str) -> None:
    session = RawSession(alice, version)
    assert session.initialized["protocolVersion"] == version
    assert session.initialized["capabilities"] == {"tools": {"listChanged": True}}
    assert session.ask("ping").json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    listed = session.ask("tools/list").json()["result"]
    assert listed.keys() == {"tools"}
    called = session.ask("tools/call", {"name": "get_account", "arguments": {"id": 17}})
    text = called.text.rpartition("data: ")[2]
    assert "resultType" not in text
    assert json.loads(text)["result"]["structuredContent"]["account"]["id"] == 17
    assert session.ask("resources/list").json()["error"]["code"] == -32601
    assert session.delete().status_code == 204
    assert session.ask("ping").status_code == 404


@pytest.mark.requirement("trap-session-swapped")
def test_sessions_swapped_between_two_people_are_not_found(
    stack: Stack, alice: TestAgent, bob: TestAgent
) -> None:
    mine, his = RawSession(alice), RawSession(bob)
    witness = Witness(stack)
    mine.id, his.id = his.id, mine.id
    for session in (mine, his):
        assert session.ask("ping").status_code == 404
        called = session.ask("tools/call", {"name": "list_hours", "arguments": {}})
        assert called.status_code == 404
        assert stack.http.get(session.url, headers=session.headers("GET")).status_code == 404
        assert session.delete().status_code == 404
    refused = [each for each in witness.settled() if each["type"] == "call.refused"]
    assert [each["detail"] for each in refused] == ["the session is another principal's"] * 8
    assert len({each["user"] for each in refused}) == 2
    mine.id, his.id = his.id, mine.id
    for session in (mine, his):
        called = session.ask("tools/call", {"name": "list_hours", "arguments": {}})
        assert called.status_code == 200


def test_session_id_without_a_token_is_challenged(alice: TestAgent) -> None:
    session = RawSession(alice)
    headers = session.headers("POST")
    del headers["authorization"], headers["dpop"]
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    answer = alice.stack.http.post(session.url, json=message, headers=headers)
    assert answer.status_code == 401
    assert "resource_metadata=" in answer.headers["www-authenticate"]


async def test_token_that_expires_ends_the_stream_and_is_challenged(
    stack: Stack, alice: TestAgent
) -> None:
    """The token is the authority's own but for its end: nobody waits a quarter of an hour."""
    keys = await asyncio.to_thread(real_keys, stack)
    claims = part(alice.tokens["crm"], 1) | {"exp": int(time.time()) + 8}  # noqa: TID251
    short = keys[KeyPurpose.TOKENS].sign({"typ": ACCESS_TOKEN_TYP}, claims)
    session = RawSession(alice, token=short)
    task, _lines = await begun(session)
    assert session.ask("ping").status_code == 200
    assert await asyncio.wait_for(task, 20) == 200
    answer = session.ask("ping")
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    session.token = None  # the same principal with a fresh token: the session goes on
    assert session.ask("ping").status_code == 200


def kill_gateway(stack: Stack) -> None:
    """`kill -9` of the gateway process; its supervisor starts another on the same state."""
    supervisor = next(each for each in stack.processes if each.name == "serve")
    children = Path(f"/proc/{supervisor.popen.pid}/task/{supervisor.popen.pid}/children")
    for child in map(int, children.read_text().split()):
        if b"mcp-gateway" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            os.kill(child, signal.SIGKILL)
            return
    message = "the supervisor has no gateway"
    raise AssertionError(message)


def test_session_outlives_the_gateway_process_and_still_serves_its_own_principal_alone(
    stack: Stack, alice: TestAgent, bob: TestAgent
) -> None:
    mine, his = RawSession(alice), RawSession(bob)
    kill_gateway(stack)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.HTTPError):
            if mine.ask("ping").status_code == 200:
                break
        time.sleep(0.1)
    assert mine.ask("ping").status_code == 200
    mine.id, his.id = his.id, mine.id
    assert mine.ask("ping").status_code == 404
    assert his.ask("ping").status_code == 404


@pytest.mark.requirement("attack-28")
async def test_kill_ends_call_and_listening_stream_and_spares_the_other_person(
    stack: Stack, alice: TestAgent, bob: TestAgent
) -> None:
    """The last test: alice's token does not come back."""
    mine, his = RawSession(alice), RawSession(bob)
    witness = Witness(stack)
    my_stream, _ = await begun(mine)
    his_stream, his_lines = await begun(his)
    subject = part(alice.tokens["crm"], 1)["sub"]
    ticking = asyncio.Event()
    async with connected(alice) as client:
        arguments = {"id": 17, "seconds": STREAM_SECONDS}
        call = asyncio.create_task(
            client.call_tool("watch_account", arguments, progress_callback=first_tick(ticking))
        )
        await asyncio.wait_for(ticking.wait(), 10)
        await asyncio.to_thread(
            stack.command, "kill", f"user/{subject}", "--reason", "a test", socket=True
        )
        with pytest.raises(MCPError) as raised:
            await asyncio.wait_for(call, 5)
        assert raised.value.error.data["category"] == "revoked"
        assert await asyncio.wait_for(my_stream, 5) == 200
    assert mine.ask("ping").status_code == 401
    closed = await asyncio.to_thread(witness.event, "stream.closed")
    assert (closed["outcome"], closed["user"]) == ("revoked", subject)
    assert not his_stream.done()
    assert his.ask("ping").status_code == 200
    await asyncio.to_thread(touch_policy, stack, "after the kill")
    while f"data: {CHANGED}" != await asyncio.wait_for(his_lines.get(), 10):
        pass
    his_stream.cancel()
    await asyncio.gather(his_stream, return_exceptions=True)
