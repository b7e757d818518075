"""The official SDK on both sides of the gateway, over real sockets."""

from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError

from mcp_gateway.upstream.http import HttpUpstream
from mcp_gateway.web_server import new_server
from tests.mcp_gateway.rig import BASE_URL, Rig, tool
from tests.mcp_gateway.test_processes import served

pytestmark = [pytest.mark.anyio, pytest.mark.processes]


class ProofAuth(httpx2.Auth):
    """Signs each request of an HTTP client with the rig's agent key."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.token = rig, rig.token()

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["authorization"] = f"DPoP {self.token}"
        request.headers["dpop"] = self.rig.proof(self.token, htm=request.method)
        # The rig's base URL is another port than the one served: the Host must be the configured.
        request.headers["host"] = BASE_URL.removeprefix("http://")
        yield request


def crm() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("crm")

    @server.tool()
    def get_account(id: int) -> str:  # noqa: A002 - the tool's argument
        return f"account {id}"

    @server.tool()
    async def refund(amount: int, context: Context) -> str:
        await context.report_progress(0.5, 1.0, "half")
        return f"refunded {amount}"

    @server.tool()
    def delete_account(id: int) -> str:  # noqa: A002 - the tool's argument
        return f"deleted {id}"

    return server


@asynccontextmanager
async def connected(rig: Rig, *, json_response: bool) -> AsyncIterator[Client]:
    app = crm().streamable_http_app(json_response=json_response)
    config = uvicorn.Config(app, port=0, log_config=None, ws="none")
    async with served(uvicorn.Server(config)) as port, HttpUpstream() as upstream:
        object.__setattr__(rig.parts, "upstream", upstream)
        integer = {"type": "integer"}
        tools = (
            tool("get_account", {"id": integer}, read_only=True),
            tool("refund", {"amount": integer}),
            tool("delete_account", {"id": integer}),
        )
        rig.with_server(url=f"http://127.0.0.1:{port}/mcp", tools=tools)
        gateway = new_server(rig.app, host="127.0.0.1", port=0, drain_seconds=0.1)
        async with (
            served(gateway) as gateway_port,
            httpx2.AsyncClient(auth=ProofAuth(rig)) as http_client,
            Client(
                streamable_http_client(
                    f"http://127.0.0.1:{gateway_port}/crm/mcp", http_client=http_client
                )
            ) as client,
        ):
            yield client


@pytest.mark.requirement("MCP-2026-07-28")
@pytest.mark.parametrize("json_response", [True, False])
async def test_official_client_lists_calls_and_is_denied_through_the_gateway(
    rig: Rig, json_response: bool
) -> None:
    heard: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert (total, message) == (1.0, "half")
        heard.append(progress)

    async with connected(rig, json_response=json_response) as client:
        assert [each.name for each in (await client.list_tools()).tools] == [
            "get_account",
            "refund",
        ]
        found = await client.call_tool("get_account", {"id": 17})
        assert (found.is_error, found.content[0].text) == (False, "account 17")  # type: ignore[union-attr]
        refunded = await client.call_tool("refund", {"amount": 5}, progress_callback=note)
        assert not refunded.is_error
        refused = await client.call_tool("refund", {"amount": 900})
        assert refused.is_error
        assert refused.meta is not None
        assert refused.meta["category"] == "not_permitted"
        beyond = await client.call_tool("delete_account", {"id": 17})
        assert beyond.is_error
    assert heard == ([] if json_response else [0.5])


@pytest.mark.requirement("MCP-2026-07-28")
async def test_official_client_sees_our_errors_as_errors(rig: Rig) -> None:
    async with connected(rig, json_response=True) as client:
        rig.monotonic.now += 4
        with pytest.raises(MCPError) as raised:
            await client.call_tool("get_account", {"id": 17})
    assert raised.value.error.code == -32003
