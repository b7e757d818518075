"""The admin socket: uvicorn on a real Unix socket, real child processes as clients."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from idp_connectors.workload.local_operator import local_operator_refusal
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.peer_http import (
    PEER_EXTENSION,
    PEER_REFUSAL_EXTENSION,
    PeerJudge,
    peer_http_protocol,
)
from idp_connectors.workload.unix_socket import bind_unix_socket
from registry.snapshot import AgentRecord, ProviderRecord
from tests.idp_connectors.samples import agent, agents
from token_exchange.claims import Refusal

pytestmark = pytest.mark.processes

GET = """
import http.client, json, socket, sys
class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
local = Local("localhost")
seen = []
for _ in range(2):
    local.request("GET", "/whoami")
    seen.append(json.loads(local.getresponse().read()))
print(json.dumps(seen))
"""
DEMO = {"local": ProviderRecord("local", "unix_process", {"demo": True})}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with what the scope says of the peer."""
    del receive
    peer = scope["extensions"].get(PEER_EXTENSION)
    refusal = scope["extensions"].get(PEER_REFUSAL_EXTENSION)
    seen = {
        "pid": peer.process.pid if isinstance(peer, PeerIdentity) else None,
        "refused": refusal.rule if isinstance(refusal, Refusal) else None,
    }
    body = json.dumps(seen).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


def during(
    judge: PeerJudge,
    asking: Callable[[Path], Awaitable[None]],
    with_script: Callable[[], bool] = lambda: True,
) -> None:
    async def serve() -> None:
        with tempfile.TemporaryDirectory(prefix="admin") as directory:
            os.chmod(directory, 0o755)  # noqa: PTH101, S103 - other users must reach it
            path = Path(directory, "admin.sock")
            bound = bind_unix_socket(path, mode=0o666)
            config = uvicorn.Config(
                app,
                http=peer_http_protocol(judge, with_script),
                lifespan="off",
                log_config=None,
                timeout_graceful_shutdown=5,
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[bound]))
            async with asyncio.timeout(30):
                await asking(path)
            server.should_exit = True
            await serving
            bound.close()

    asyncio.run(serve())


async def get(path: Path, *before: str, code: str = GET) -> tuple[int, list[dict[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        *before, sys.executable, "-c", code, str(path), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    return process.pid, json.loads(output)


def judge_with(*records: AgentRecord) -> PeerJudge:
    return lambda peer: local_operator_refusal(
        peer, server_uid=os.geteuid(), agents=agents(*records), trust_providers=DEMO
    )


BOT = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)
"""


def test_local_operator_reaches_the_application_as_the_peer_on_every_request() -> None:
    async def asking(path: Path) -> None:
        pid, seen = await get(path)
        assert seen == [{"pid": pid, "refused": None}] * 2

    during(judge_with(), asking)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
def test_peer_of_another_user_reaches_the_application_as_nobody() -> None:
    async def asking(path: Path) -> None:
        code = "import os, http.client, json, socket, sys; os.setuid(12345)\n" + GET
        _, seen = await get(path, code=code)
        assert seen == [{"pid": None, "refused": "admin.local_user"}] * 2

    during(judge_with(), asking)


@pytest.mark.requirement("trap-agent-as-admin")
def test_child_of_a_running_agent_reaches_the_application_as_nobody(tmp_path: Path) -> None:
    """The agent runs as the server's own user and starts a program that opens the socket."""
    script = tmp_path / "bot.py"
    script.write_text(BOT)
    digest = "sha-256:" + hashlib.sha256(script.read_bytes()).hexdigest()
    bot = agent(match={"unix.script_digest": digest})

    async def asking(path: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), "-c", GET, str(path), stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert json.loads(output) == [{"pid": None, "refused": "admin.local_agent"}] * 2
        _, seen = await get(path)
        assert seen[0]["refused"] is None

    during(judge_with(bot), asking)


def test_agents_declared_between_two_requests_count_for_the_second() -> None:
    judged: list[PeerIdentity] = []

    def judge(peer: PeerIdentity) -> Refusal | None:
        judged.append(peer)
        return None if len(judged) == 1 else Refusal("access_denied", "", "", "admin.local_agent")

    async def asking(path: Path) -> None:
        _, seen = await get(path)
        assert [answer["refused"] for answer in seen] == [None, "admin.local_agent"]

    during(judge, asking)
    assert judged[0] is judged[1]


def test_connection_over_tcp_is_never_a_peer() -> None:
    accepted: list[PeerIdentity] = []

    def judge(peer: PeerIdentity) -> Refusal | None:
        accepted.append(peer)
        return None

    async def serve() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        protocol = peer_http_protocol(judge, lambda: False)
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert b"admin.local_peer" in answer
        server.should_exit = True
        await serving

    asyncio.run(serve())
    assert accepted == []


@pytest.mark.requirement("trap-agent-as-admin")
def test_agent_connected_before_scripts_mattered_is_known_by_its_script(tmp_path: Path) -> None:
    """Scripts come to matter between the first and the second request of one connection."""
    script = tmp_path / "bot.py"
    script.write_text(GET)
    digest = "sha-256:" + hashlib.sha256(script.read_bytes()).hexdigest()
    answers = iter([False, False, True, True])  # connected, first, second (asked twice at most)

    async def asking(path: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), str(path), stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        first, second = json.loads(output)
        assert first == {"pid": process.pid, "refused": None}
        assert second == {"pid": None, "refused": "admin.local_agent"}

    during(judge_with(agent(match={"unix.script_digest": digest})), asking, lambda: next(answers))
