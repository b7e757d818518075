"""Agents and servers of either era, each a process on the SDK of its era, through the real gateway.

`tests/interop/eras.py` says which cells there are, and docs/eras.md shows them.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from compose.demo.stack import Stack
from tests.interop.eras import LEGACY, MODERN, Cell, cells_of
from tests.interop.published_stack import with_servers
from tests.interop.test_python_client_legacy import RawSession
from tests.services.common import service, started
from tests.services.mcp_clients import install_python_legacy
from tests.services.published_servers import is_listening
from tests.stack import TestAgent, held_port, running_stack
from tests.witness import Witness

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent
TOOLS = ["get_cancelled", "get_exact", "get_progress", "get_slow", "get_spoken"]
VERSIONS = {MODERN: "2026-07-28", LEGACY: "2025-11-25"}
STEPS = [[1, "step 1"], [2, "step 2"], [3, "step 3"]]
SERVERS = {f"{era}-{form}": (era, form) for era in (MODERN, LEGACY) for form in ("stream", "json")}


def interpreters() -> dict[str, str]:
    with service("the legacy Python SDK"):
        return {
            MODERN: sys.executable,
            LEGACY: str(install_python_legacy()),
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("eras")
    python = interpreters()
    with ExitStack() as running:
        with ExitStack() as holding:
            ports = {name: held_port(holding) for name in SERVERS}
        servers = []
        for name, (era, form) in SERVERS.items():
            program = HERE / f"{era}_sdk_server.py"
            command: list[str | Path] = [python[era], program, str(ports[name]), form]
            servers.append(running.enter_context(started(name, command, directory)))
        stack = running.enter_context(running_stack(directory / "stack", prepared=False))
        for server in servers:
            server.await_ready(lambda port=ports[server.name]: is_listening(port))  # type: ignore[misc] # a default
        urls = {name: f"http://127.0.0.1:{port}/mcp" for name, port in ports.items()}
        with_servers(stack, urls)
        yield stack


def person_agent(stack: Stack, person: str, *servers: str) -> TestAgent:
    agent = TestAgent(stack)
    for server in servers:
        agent.token_for(person, server, TOOLS)
    return agent


@pytest.fixture(scope="module")
def alice(stack: Stack) -> TestAgent:
    return person_agent(stack, "alice", *SERVERS)


@pytest.fixture(scope="module")
def bob(stack: Stack) -> TestAgent:
    return person_agent(stack, "bob", "legacy-stream")


@dataclass
class Agent:
    """A process on one SDK; it acts with the key and the tokens of a `TestAgent`."""

    test_agent: TestAgent
    process: "subprocess.Popen[str]"
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def do(self, do: str, cell: Cell, **more: str) -> dict[str, Any]:
        """Let it do something at the cell's server; what it saw."""
        name = f"{cell.server}-{cell.form}"
        key = self.test_agent.key.key.as_dict(private=True)
        command = {
            "do": do,
            "url": self.test_agent.stack.endpoint(name),
            "token": self.test_agent.tokens[name],
            "key": {member: key[member] for member in ("kty", "crv", "x", "y", "d")},
        }
        writing, reading = self.process.stdin, self.process.stdout
        assert writing is not None
        assert reading is not None
        writing.write(json.dumps(command | more) + "\n")
        writing.flush()
        line = self.reader.submit(reading.readline).result(60)
        answer = dict(json.loads(line or '{"error": "it ended"}'))
        assert "error" not in answer, answer["error"]
        return answer


@pytest.fixture(scope="module")
def agents(
    alice: TestAgent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Agent]]:
    directory = tmp_path_factory.mktemp("agents")
    with ExitStack() as running:
        agents = {}
        for era, interpreter in interpreters().items():
            log: IO[str] = running.enter_context((directory / f"{era}.log").open("w"))
            process = subprocess.Popen(  # noqa: S603 - our own words
                [interpreter, str(HERE / f"{era}_sdk_agent.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            running.enter_context(process)
            running.callback(process.kill)
            agents[era] = Agent(alice, process)
            running.callback(agents[era].reader.shutdown, wait=False)
        yield agents


def in_cells(test: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cell", cells_of(test), ids=str)


@pytest.mark.requirement("era-matrix")
@in_cells("test_agent_begins_in_its_own_era")
def test_agent_begins_in_its_own_era(agents: dict[str, Agent], cell: Cell) -> None:
    begun = agents[cell.agent].do("begin", cell)
    assert begun == {"version": VERSIONS[cell.agent], "tools": True}


@pytest.mark.requirement("era-matrix")
@in_cells("test_agent_lists_the_tools")
def test_agent_lists_the_tools(agents: dict[str, Agent], cell: Cell) -> None:
    assert agents[cell.agent].do("list", cell) == {"tools": TOOLS}


@pytest.mark.requirement("era-matrix")
@in_cells("test_agent_calls_a_tool")
def test_agent_calls_a_tool(agents: dict[str, Agent], cell: Cell) -> None:
    """The server says itself in which era it was asked."""
    spoken = agents[cell.agent].do("call", cell, tool="get_spoken")
    session = "no session" if cell.server == MODERN else "session"
    assert spoken["text"] == f"{VERSIONS[cell.server]}, {session}"
    exact = agents[cell.agent].do("call", cell, tool="get_exact")
    assert not exact["is_error"]
    assert exact["structured"] == {"number": 12345678901234567890123, "text": "é"}


@pytest.mark.requirement("era-matrix")
@in_cells("test_agent_hears_progress")
def test_agent_hears_progress(agents: dict[str, Agent], cell: Cell) -> None:
    answer = agents[cell.agent].do("call", cell, tool="get_progress")
    assert (answer["heard"], answer["text"]) == (STEPS, "done")


@pytest.mark.requirement("era-matrix")
@in_cells("test_agent_cancels_a_call")
def test_agent_cancels_a_call(agents: dict[str, Agent], cell: Cell) -> None:
    """The server itself says that its tool was cancelled, while the agent is still there."""
    witness = Witness(agents[cell.agent].test_agent.stack)
    assert agents[cell.agent].do("give_up", cell, tool="get_slow") == {"cancelled": True}
    event = witness.event("call.finished", tool="get_slow")
    told = "cancelled" if cell.agent == LEGACY else "disconnected"
    assert (event["outcome"], event["error_code"]) == ("cancelled", told)


@pytest.mark.requirement("trap-session-swapped")
def test_two_people_on_one_legacy_server_cannot_swap_sessions(
    stack: Stack, alice: TestAgent, bob: TestAgent
) -> None:
    """Neither the sessions of the agents nor, behind the gateway, those at the server."""
    name = "legacy-stream"
    hers, his = RawSession(alice, server=name), RawSession(bob, server=name)
    call = {"name": "get_spoken", "arguments": {}}
    for session in (hers, his):
        assert session.ask("tools/call", call).status_code == 200
    witness = Witness(stack)
    hers.id, his.id = his.id, hers.id
    for session in (hers, his):
        assert session.ask("tools/call", call).status_code == 404
    hers.id, his.id = his.id, hers.id
    refused = [each for each in witness.settled() if each["type"] == "call.refused"]
    assert [each["detail"] for each in refused] == ["the session is another principal's"] * 2


@pytest.mark.requirement("trap-session-swapped")
def test_second_persons_token_is_refused_on_the_first_persons_session(
    stack: Stack, alice: TestAgent, bob: TestAgent
) -> None:
    """Everything is alice's, key and session, but for the token; and everything but the session."""
    name = "legacy-stream"
    hers = RawSession(alice, server=name)
    witness = Witness(stack)
    hers.token = bob.tokens[name]
    assert hers.ask("tools/list").status_code == 401  # the token is bound to another key
    witness.event("caller.refused")
    intruder = RawSession(bob, server=name)
    intruder.id = hers.id
    assert intruder.ask("tools/list").status_code == 404
    witness.event("call.refused", says="the session is another principal's")
    hers.token = None
    assert hers.ask("tools/list").status_code == 200
