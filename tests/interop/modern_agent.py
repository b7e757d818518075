"""A modern agent on the official SDK: the attested `TestAgent` signs its requests."""

from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.stack import TestAgent


class AgentAuth(httpx2.Auth):
    """The agent's token for one server, with a proof for each request."""

    def __init__(self, agent: TestAgent, token: str) -> None:
        self._agent, self._token = agent, token

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers |= self._agent.headers(request.method, str(request.url), self._token)
        yield request


@asynccontextmanager
async def modern_client(agent: TestAgent, server: str) -> AsyncIterator[Client]:
    """The SDK's client at a server's endpoint; `agent` has a token for it."""
    auth = AgentAuth(agent, agent.tokens[server])
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60, trust_env=False) as http_client,
        Client(
            streamable_http_client(agent.stack.endpoint(server), http_client=http_client)
        ) as client,
    ):
        yield client
