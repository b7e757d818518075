"""Servers nobody here wrote, behind the real gateway, used by a modern agent."""

import asyncio
from collections.abc import Iterator

import pytest
from mcp.shared.exceptions import MCPError

from compose.demo.stack import Stack
from tests.interop.modern_agent import modern_client
from tests.interop.published_stack import with_servers
from tests.services.common import Server, service
from tests.services.published_servers import everything, install_everything
from tests.stack import TestAgent, await_event, free_ports, running_stack

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

TOOLS = [
    "echo",
    "get-annotated-message",
    "get-structured-content",
    "get-sum",
    "get-tiny-image",
    "trigger-long-running-operation",
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Server]]:
    directory = tmp_path_factory.mktemp("published")
    with service("server-everything"):
        entry = install_everything()
    port = free_ports().crm
    with (
        everything(entry, port, directory) as server,
        running_stack(directory / "stack", prepared=False) as stack,
    ):
        with_servers(stack, {"everything": f"http://127.0.0.1:{port}/mcp"})
        yield stack, server


@pytest.fixture(scope="module")
def agent(published: tuple[Stack, Server]) -> TestAgent:
    agent = TestAgent(published[0])
    agent.token_for("alice", "everything", TOOLS)
    return agent


@pytest.mark.requirement("legacy-upstream")
async def test_server_everything_is_listed_and_called_through_the_gateway(
    agent: TestAgent,
) -> None:
    async with modern_client(agent, "everything") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == set(TOOLS)
        summed = await client.call_tool("get-sum", {"a": 17, "b": 25})
        assert "42" in summed.content[0].text  # type: ignore[union-attr]
        image = await client.call_tool("get-tiny-image", {})
        assert "image" in {block.type for block in image.content}
        weather = await client.call_tool("get-structured-content", {"location": "Chicago"})
        assert weather.structured_content is not None
        noted = await client.call_tool(
            "get-annotated-message", {"messageType": "error", "includeImage": False}
        )
        assert noted.content[0].annotations is not None


@pytest.mark.requirement("trap-notifications-lost")
async def test_progress_of_server_everything_arrives_in_order(agent: TestAgent) -> None:
    heard: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert (total, message) == (3, None)
        heard.append(progress)

    async with modern_client(agent, "everything") as client:
        done = await client.call_tool(
            "trigger-long-running-operation",
            {"duration": 0.3, "steps": 3},
            progress_callback=note,
        )
    assert not done.is_error
    assert heard == [1, 2, 3]


async def test_calls_of_one_agent_run_side_by_side(agent: TestAgent) -> None:
    async with modern_client(agent, "everything") as client:
        loop = asyncio.get_running_loop()
        started = loop.time()
        arguments = {"duration": 1, "steps": 1}
        await asyncio.gather(
            *[client.call_tool("trigger-long-running-operation", arguments) for _ in range(4)]
        )
        assert loop.time() - started < 3


async def test_arguments_the_server_does_not_like_are_its_error(agent: TestAgent) -> None:
    async with modern_client(agent, "everything") as client:
        try:
            refused = await client.call_tool("get-sum", {"a": 17})
            assert refused.is_error
        except MCPError as error:
            assert error.error.code == -32602  # noqa: PT017 - either is its to choose


@pytest.mark.requirement("legacy-session-per-principal")
async def test_two_people_have_sessions_of_their_own_at_server_everything(
    published: tuple[Stack, Server], agent: TestAgent
) -> None:
    stack, server = published
    bobs = TestAgent(stack)
    bobs.token_for("bob", "everything", ["echo"])
    before = begun_sessions(server)
    for each in (agent, bobs, agent, bobs):
        async with modern_client(each, "everything") as client:
            echoed = await client.call_tool("echo", {"message": "hello"})
            assert not echoed.is_error
    sessions = begun_sessions(server)
    assert len(sessions) - len(before) <= 2
    assert len(sessions) >= 3  # discovery's, alice's, bob's
    event = await_event(stack, type="call.finished", outcome="succeeded", tool="echo")
    assert event["target_service"] == "everything"


def begun_sessions(server: Server) -> list[str]:
    lines = server.log.read_text().splitlines()
    return [line for line in lines if line.startswith("Session initialized")]
