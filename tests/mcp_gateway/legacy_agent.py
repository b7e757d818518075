"""An agent of the legacy era at the rig's gateway, spoken by hand."""

import asyncio
from collections.abc import Mapping
from typing import Any

from mcp_gateway.inbound import RequestId
from tests.mcp_gateway.rig import Exchange, HttpCall, Rig

LATEST = "2025-11-25"
OLDER = "2025-06-18"


class LegacyAgent:
    """One client: its token, its session, what it asks."""

    def __init__(self, rig: Rig, *, version: str = LATEST, token: str | None = None) -> None:
        self.rig, self.version = rig, version
        self.token = token or rig.token()
        self.session: str | None = None

    async def initialize(self, **changes: object) -> Exchange:
        params = {
            "protocolVersion": self.version,
            "capabilities": {},
            "clientInfo": {"name": "old-agent", "version": "7"},
        } | changes
        exchange = await self.rig.send(
            self.http({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        )
        self.session = next(iter(exchange.header("mcp-session-id")), None)
        return exchange

    async def post(
        self, message: object, headers: Mapping[str, str | None] | None = None
    ) -> Exchange:
        return await self.rig.send(self.http(message, headers))

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Exchange:
        return await self.post(request(method, params))

    async def tell(self, method: str, params: Mapping[str, Any] | None = None) -> Exchange:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        return await self.post(message if params is None else message | {"params": params})

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Exchange:
        return await self.post(call(name, arguments))

    async def delete(self) -> Exchange:
        return await self.rig.send(self.bodiless("DELETE"))

    def listen(self) -> tuple[Exchange, asyncio.Task[None]]:
        exchange = Exchange()
        return exchange, self.rig.start(exchange, self.bodiless("GET"))

    def start(self, message: object) -> tuple[Exchange, asyncio.Task[None]]:
        exchange = Exchange()
        return exchange, self.rig.start(exchange, self.http(message))

    def http(self, message: object, headers: Mapping[str, str | None] | None = None) -> HttpCall:
        is_first = isinstance(message, dict) and message.get("method") == "initialize"
        own: dict[str, str | None] = {
            "mcp-protocol-version": None if is_first else self.version,
            "mcp-session-id": self.session,
            "mcp-method": None,
            "mcp-name": None,
        }
        return self.rig.http(message, token=self.token, headers=own | dict(headers or {}))

    def bodiless(self, method: str, **headers: str | None) -> HttpCall:
        lines: dict[str, str | None] = {
            "accept": "text/event-stream",
            "content-type": None,
            "content-length": None,
            "dpop": self.rig.proof(self.token, htm=method),
        }
        dashed = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http({}, lines | dashed).changed(method=method, body=(b"",))


def request(
    method: str, params: Mapping[str, Any] | None = None, *, request_id: RequestId = 1
) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return message if params is None else message | {"params": dict(params)}


def call(name: str, arguments: Mapping[str, Any], *, request_id: RequestId = 1) -> dict[str, Any]:
    return request("tools/call", {"name": name, "arguments": arguments}, request_id=request_id)


async def agent_of(rig: Rig, **claims: object) -> LegacyAgent:
    """An agent with a session; `claims` change whose it is."""
    agent = LegacyAgent(rig, token=rig.token(rig.claims(**claims)))
    await agent.initialize()
    return agent


async def bob(rig: Rig) -> LegacyAgent:
    return await agent_of(rig, sub="usr_bob", jti="tok_2", sid="ses_2", gid="grt_2", inv="inv_2")
