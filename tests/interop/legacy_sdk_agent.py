# mypy: ignore-errors
"""A legacy agent on the official SDK of its time, run by an interpreter that has only that SDK."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
from agent_lines import Command, Seen, Signer, serve
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError
from mcp.types import CancelledNotification, CancelledNotificationParams, ClientNotification


class Proofs(httpx.Auth):
    def __init__(self, command: Command) -> None:
        self._signer = Signer(command["key"], command["token"])

    def auth_flow(self, request: Any) -> Iterator[Any]:
        self._signer.sign(request)
        yield request


@contextlib.asynccontextmanager
async def connected(command: Command) -> AsyncIterator[Any]:
    async with (
        httpx.AsyncClient(auth=Proofs(command), timeout=30, trust_env=False) as http,
        streamable_http_client(command["url"], http_client=http) as (reading, writing, _),
        ClientSession(reading, writing) as session,
    ):
        yield session, await session.initialize()


async def begin(command: Command) -> Seen:
    async with connected(command) as (session, begun):
        await session.send_ping()
        return {"version": begun.protocolVersion, "tools": begun.capabilities.tools is not None}


async def listed(command: Command) -> Seen:
    async with connected(command) as (session, _):
        return {"tools": sorted(tool.name for tool in (await session.list_tools()).tools)}


async def call(command: Command) -> Seen:
    heard = []

    async def note(progress: float, _total: float | None, message: str) -> None:
        heard.append([progress, message])

    async with connected(command) as (session, _):
        result = await session.call_tool(command["tool"], {}, progress_callback=note)
        text = result.content[0].text if result.content else ""
        return {
            "is_error": result.isError,
            "text": text,
            "structured": result.structuredContent,
            "heard": heard,
        }


async def give_up(command: Command) -> Seen:
    """Call, and once it has begun cancel it as this era does; what the server says of it."""
    begun = anyio.Event()

    async def note(_step: float, _total: float | None, _message: str) -> None:
        begun.set()

    async with connected(command) as (session, _), anyio.create_task_group() as tasks:

        async def wait() -> None:
            with contextlib.suppress(McpError):
                await session.call_tool(command["tool"], {}, progress_callback=note)

        before = await ended(session)
        number = session._request_id  # the SDK has no public word for the next request's id
        tasks.start_soon(wait)
        with anyio.fail_after(10):
            await begun.wait()
        params = CancelledNotificationParams(requestId=number, reason="enough")
        cancelled = CancelledNotification(method="notifications/cancelled", params=params)
        await session.send_notification(ClientNotification(cancelled))
        with anyio.fail_after(10):
            while await ended(session) == before:  # noqa: ASYNC110 - the server's clock
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    return {"cancelled": True}


async def ended(session: ClientSession) -> int:
    """How many slow calls the server has seen cancelled."""
    return int((await session.call_tool("get_cancelled", {})).content[0].text)


serve(anyio.run, {"begin": begin, "list": listed, "call": call, "give_up": give_up})
