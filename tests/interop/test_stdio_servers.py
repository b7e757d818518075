"""Published stdio servers under `countersign stdio-host`, behind the real gateway."""

import contextlib
import json
import os
import pwd
import subprocess
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from compose.demo.stack import COUNTERSIGN, Stack
from tests.interop.modern_agent import modern_client
from tests.interop.published_stack import with_servers
from tests.services.common import service
from tests.services.published_servers import install_filesystem, install_git, install_time
from tests.stack import TestAgent, running_stack

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def repository(directory: Path) -> Path:
    """A git repository with one commit."""
    directory.mkdir()
    author = ["-c", "user.name=Tester", "-c", "user.email=tester@example.com"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "First"]):
        subprocess.run(["git", *command], cwd=directory, check=True)  # noqa: S603, S607 - ours
    return directory


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with service("the stdio servers"):
        clock, git = install_time(), install_git()
        node, filesystem = install_filesystem()
    directory = tmp_path_factory.mktemp("stdio")
    declared: dict[str, dict[str, Any]] = {
        "time": {"command": str(clock), "args": ["--local-timezone", "UTC"], "user": ME},
        "git": {
            "command": str(git),
            "args": ["--repository", str(repository(directory / "repository"))],
            "user": ME,
            "environment": ["PATH"],
            "per_principal": True,
            "credential": {"variable": "COUNTERSIGN_TOKEN"},
        },
    }
    shelf = directory / "shelf"
    shelf.mkdir()
    shelf.joinpath("note.txt").write_text("kept on the shelf")
    declared["files"] = {"command": node, "args": [str(filesystem), str(shelf)], "user": ME}
    servers = directory / "stdio.yaml"
    servers.write_text(yaml.safe_dump({"servers": declared}))
    servers.chmod(0o600)
    socket = directory / "run" / "stdio.sock"
    environment = {
        "COUNTERSIGN_STDIO_SOCKET": str(socket),
        "COUNTERSIGN_STDIO_SERVERS": str(servers),
        # Everything here is one user's.
        "COUNTERSIGN_STDIO_SERVERS_MAY_OPERATE": "true",
    }
    with running_stack(directory / "stack", environment=environment, prepared=False) as stack:
        stack.start("stdio-host", [*COUNTERSIGN, "stdio-host"])
        with_servers(stack, {name: f"stdio://{name}" for name in declared})
        yield stack


def agent_for(stack: Stack, person: str, server: str, tools: list[str]) -> TestAgent:
    agent = TestAgent(stack)
    agent.token_for(person, server, tools)
    return agent


def children(stack: Stack) -> list[dict[str, Any]]:
    """The host's processes: their commands and environments."""
    (host,) = [each for each in stack.processes if each.name == "stdio-host"]
    found = []
    for entry in Path(f"/proc/{host.popen.pid}/task/{host.popen.pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(facts_of(int(entry)))
    return found


def facts_of(pid: int) -> dict[str, Any]:
    process = Path(f"/proc/{pid}")
    variables = process.joinpath("environ").read_bytes().decode().split("\0")
    return {
        "pid": pid,
        "command": process.joinpath("cmdline").read_bytes().decode(),
        "environment": dict(each.split("=", 1) for each in variables if each),
    }


@pytest.mark.requirement("stdio-host")
async def test_time_server_is_listed_and_called_through_the_gateway(stack: Stack) -> None:
    agent = agent_for(stack, "alice", "time", ["get_current_time", "convert_time"])
    async with modern_client(agent, "time") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"get_current_time", "convert_time"}
        arguments = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        converted = await client.call_tool("convert_time", arguments)
        said = json.loads(converted.content[0].text)  # type: ignore[union-attr]
        assert "T21:00" in said["target"]["datetime"]


@pytest.mark.requirement("stdio-host")
async def test_filesystem_server_reads_its_shelf_and_nothing_else(stack: Stack) -> None:
    agent = agent_for(stack, "alice", "files", ["read_text_file", "list_directory"])
    shelf = stack.directory.parent / "shelf"
    async with modern_client(agent, "files") as client:
        note = await client.call_tool("read_text_file", {"path": str(shelf / "note.txt")})
        assert "kept on the shelf" in note.content[0].text  # type: ignore[union-attr]
        beyond = await client.call_tool("read_text_file", {"path": "/etc/hostname"})
        assert beyond.is_error


@pytest.mark.requirement("stdio-host")
async def test_git_server_works_for_each_person_in_a_process_of_its_own(stack: Stack) -> None:
    tools = ["git_log", "git_status"]
    before = {each["pid"] for each in children(stack)}
    path = str(stack.directory.parent / "repository")
    for person in ("alice", "bob"):
        agent = agent_for(stack, person, "git", tools)
        async with modern_client(agent, "git") as client:
            log = await client.call_tool("git_log", {"repo_path": path})
            assert "First" in log.content[0].text  # type: ignore[union-attr]
    own = [each for each in children(stack) if each["pid"] not in before]
    assert len(own) == 2
    tokens = {each["environment"]["COUNTERSIGN_TOKEN"] for each in own}
    assert len(tokens) == 2
    for each in own:
        assert set(each["environment"]) <= {"PATH", "COUNTERSIGN_TOKEN", "LC_CTYPE"}


async def test_people_share_the_process_of_a_server_that_is_nobodys_own(stack: Stack) -> None:
    for person in ("alice", "bob"):
        agent = agent_for(stack, person, "time", ["get_current_time"])
        assert not agent.call("time", "get_current_time", {"timezone": "UTC"}).json().get("error")
    shared = [each for each in children(stack) if "mcp-server-time" in each["command"]]
    assert len(shared) == 1
    assert "COUNTERSIGN_TOKEN" not in shared[0]["environment"]


async def test_server_that_dies_is_started_again(stack: Stack) -> None:
    agent = agent_for(stack, "alice", "time", ["get_current_time"])
    arguments = {"timezone": "UTC"}
    agent.call("time", "get_current_time", arguments)
    (shared,) = [each for each in children(stack) if "mcp-server-time" in each["command"]]
    os.kill(shared["pid"], 9)
    deadline = time.monotonic() + 20
    while "result" not in agent.call("time", "get_current_time", arguments).json():
        assert time.monotonic() < deadline
        await anyio.sleep(0.1)
    (again,) = [each for each in children(stack) if "mcp-server-time" in each["command"]]
    assert again["pid"] != shared["pid"]


@pytest.mark.requirement("stdio-own-process")
async def test_kill_ends_the_process_that_worked_for_the_one_who_was_cut_off(stack: Stack) -> None:
    before = {each["pid"] for each in children(stack)}
    agent = agent_for(stack, "bob", "git", ["git_log"])
    path = str(stack.directory.parent / "repository")
    assert "result" in agent.call("git", "git_log", {"repo_path": path}).json()
    (own,) = [each for each in children(stack) if each["pid"] not in before]
    session = claims_of(agent.tokens["git"])["sid"]
    stack.command("kill", f"session/{session}", "--reason", "test", socket=True)
    assert agent.call("git", "git_log", {"repo_path": path}).status_code == 401
    deadline = time.monotonic() + 10
    while own["pid"] in {each["pid"] for each in children(stack)}:
        assert time.monotonic() < deadline
        await anyio.sleep(0.05)


def test_servers_die_with_their_host(stack: Stack) -> None:
    agent = agent_for(stack, "alice", "time", ["get_current_time"])
    agent.call("time", "get_current_time", {"timezone": "UTC"})
    orphans = [each["pid"] for each in children(stack)]
    assert orphans
    (host,) = [each for each in stack.processes if each.name == "stdio-host"]
    host.popen.kill()
    host.popen.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert agent.call("time", "get_current_time", {"timezone": "UTC"}).status_code == 502


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims
