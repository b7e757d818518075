"""Agents on the SDKs of the legacy era, at servers of both eras: every cell does the same.

The gateway is the rig's on a real socket; its server takes bearer tokens, for these clients know
no proofs. `test_python_client_legacy` shows bound tokens, expiry and kill with real processes.
"""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from joserfc.jwk import ECKey
from mcp.server.mcpserver import Context, MCPServer

from audit_log.event import Outcome
from mcp_gateway.upstream.either_era import EitherEraUpstream
from mcp_gateway.upstream.http import HttpUpstream
from mcp_gateway.web_server import new_server
from registry.snapshot import GatewayEntry
from tests.mcp_gateway.rig import Rig, enforcement_view, tool
from tests.mcp_gateway.test_processes import served
from tests.services.common import service, started
from tests.services.mcp_clients import install_python_legacy, install_typescript_legacy
from tests.services.published_servers import is_listening
from tests.stack import held_port

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

HERE = Path(__file__).parent
NUMBER = 12345678901234567890123
TOOLS = ("get_progress", "get_exact", "get_slow")
SEEN = {
    "version": "2025-11-25",
    "tools": sorted(TOOLS),
    "progress": [[1, "step 1"], [2, "step 2"], [3, "step 3"]],
    "text": "done",
    "exact": str(NUMBER),
    "hidden": True,
    "unknown": -32601,
    "gave_up": True,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def python_sdk() -> list[str]:
    with service("the legacy Python SDK"):
        interpreter = install_python_legacy()
    return [str(interpreter), str(HERE / "drive_python.py")]


def typescript_sdk() -> list[str]:
    with service("the legacy TypeScript SDK"):
        folder = install_typescript_legacy()
    driver = folder / "drive_typescript.mjs"  # modules are found from where the program is
    driver.write_text((HERE / "drive_typescript.mjs").read_text())
    return ["node", str(driver)]


def modern() -> MCPServer[Any]:
    """The tools of `legacy_sdk_server` that this story uses, on the SDK of today."""
    server: MCPServer[Any] = MCPServer("new")

    @server.tool()
    async def get_progress(context: Context) -> str:
        for step in range(3):
            await context.report_progress(step + 1, 3, f"step {step + 1}")
        return "done"

    @server.tool()
    def get_exact() -> dict[str, Any]:
        return {"number": NUMBER}

    @server.tool()
    async def get_slow(context: Context) -> str:
        await context.report_progress(1, None, "begun")
        await asyncio.Event().wait()
        return "never"

    return server


@asynccontextmanager
async def modern_server(_directory: Path) -> AsyncIterator[str]:
    config = uvicorn.Config(modern().streamable_http_app(), port=0, log_config=None, ws="none")
    async with served(uvicorn.Server(config)) as port:
        yield f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def legacy_server(directory: Path) -> AsyncIterator[str]:
    interpreter = python_sdk()[0]
    with ExitStack() as holding:
        port = held_port(holding)
    command: list[str | Path] = [interpreter, HERE / "legacy_sdk_server.py", str(port), "stream"]
    with started("legacy-sdk", command, directory) as server:
        await asyncio.to_thread(server.await_ready, lambda: is_listening(port))
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture
def port() -> int:
    with ExitStack() as holding:
        return held_port(holding)


@pytest.fixture
def rig(tmp_path: Path, port: int) -> Iterator[Rig]:
    key = ECKey.generate_key("P-256")
    gateway = GatewayEntry("demo", f"http://127.0.0.1:{port}", "gateway:demo", ("crm",), ())
    rig = Rig(tmp_path, enforcement_view(key, gateway=gateway), key)
    yield rig
    rig.spool.close()


def bearer_token(rig: Rig, endpoint: str) -> str:
    return rig.token(rig.claims(aud=endpoint, cnf=None))


@pytest.mark.requirement("MCP-2025-11-25")
@pytest.mark.parametrize("server", [modern_server, legacy_server])
@pytest.mark.parametrize("client", [python_sdk, typescript_sdk])
async def test_legacy_client_uses_a_server_of_either_era(
    rig: Rig,
    port: int,
    tmp_path: Path,
    client: Callable[[], list[str]],
    server: Callable[[Path], Any],
) -> None:
    command = await asyncio.to_thread(client)
    endpoint = f"http://127.0.0.1:{port}/crm/mcp"
    async with server(tmp_path) as url, HttpUpstream() as connections:
        upstream = EitherEraUpstream(connections, rig.monotonic)
        object.__setattr__(rig.parts, "upstream", upstream)
        tools = tuple(tool(name, {}, read_only=True) for name in TOOLS)
        rig.with_server(url=url, tools=tools, timeout_seconds=20.0, require_bound=False)
        gateway = new_server(rig.app, host="127.0.0.1", port=port, drain_seconds=0.1)
        try:
            async with served(gateway):
                process = await asyncio.create_subprocess_exec(
                    *command,
                    endpoint,
                    bearer_token(rig, endpoint),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                async with asyncio.timeout(60):
                    written, complaints = await process.communicate()
        finally:
            await upstream.aclose()
    assert process.returncode == 0, complaints.decode()
    assert json.loads(written) == SEEN
    outcomes = {event.tool: event.outcome for event in rig.events("call.finished")}
    assert outcomes == {
        "get_progress": Outcome.SUCCEEDED,
        "get_exact": Outcome.SUCCEEDED,
        "get_slow": Outcome.CANCELLED,
    }
    assert len(rig.parts.sessions) == 0  # both end their session when they leave
