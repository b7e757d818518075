# mypy: ignore-errors
"""A modern agent on the official SDK of today, as a process that takes commands as lines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
from agent_lines import Command, Seen, Signer, serve
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

VERSION = "2026-07-28"


class Proofs(httpx2.Auth):
    def __init__(self, command: Command) -> None:
        self._signer = Signer(command["key"], command["token"])

    def auth_flow(self, request: Any) -> Iterator[Any]:
        self._signer.sign(request)
        yield request


@contextlib.asynccontextmanager
async def connected(command: Command) -> AsyncIterator[Any]:
    async with (
        httpx2.AsyncClient(auth=Proofs(command), timeout=30, trust_env=False) as http,
        Client(streamable_http_client(command["url"], http_client=http), mode="auto") as client,
    ):
        assert client.protocol_version == VERSION, client.protocol_version
        yield client


async def begin(command: Command) -> Seen:
    async with connected(command) as client:
        return {
            "version": client.protocol_version,
            "tools": client.server_capabilities.tools is not None,
        }


async def listed(command: Command) -> Seen:
    async with connected(command) as client:
        return {"tools": sorted(tool.name for tool in (await client.list_tools()).tools)}


async def call(command: Command) -> Seen:
    heard = []

    async def note(progress: float, _total: float | None, message: str) -> None:
        heard.append([progress, message])

    async with connected(command) as client:
        result = await client.call_tool(command["tool"], {}, progress_callback=note)
        return {
            "is_error": result.is_error,
            "text": result.content[0].text if result.content else "",
            "structured": result.structured_content,
            "heard": heard,
        }


async def give_up(command: Command) -> Seen:
    """Call, and once it has begun leave, as this era cancels; what the server says of it."""
    begun = asyncio.Event()

    async def note(_step: float, _total: float | None, _message: str) -> None:
        begun.set()

    async with connected(command) as client:
        before = await ended(client)
        task = asyncio.create_task(client.call_tool(command["tool"], {}, progress_callback=note))
        async with asyncio.timeout(10):
            await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(10):
            while await ended(client) == before:  # noqa: ASYNC110 - the server's clock
                await asyncio.sleep(0.05)
    return {"cancelled": True}


async def ended(client: Client) -> int:
    """How many slow calls the server has seen cancelled."""
    return int((await client.call_tool("get_cancelled", {})).content[0].text)


serve(
    lambda command, arguments: asyncio.run(command(arguments)),
    {"begin": begin, "list": listed, "call": call, "give_up": give_up},
)
