# mypy: ignore-errors
"""A legacy agent on the official Python SDK of its time, run by an interpreter that has only that.

python drive_python.py URL TOKEN   writes what it saw as one JSON object
"""

import asyncio
import json
import sys
from datetime import timedelta

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError


async def main(url: str, token: str) -> None:
    seen = {"progress": []}

    async def note(progress: float, _total: float | None, message: str | None) -> None:
        seen["progress"].append([progress, message])

    headers = {"authorization": f"Bearer {token}"}
    async with (
        streamablehttp_client(url, headers=headers) as (reading, writing, _),
        ClientSession(reading, writing) as session,
    ):
        begun = await session.initialize()
        seen["version"] = begun.protocolVersion
        seen["tools"] = sorted(tool.name for tool in (await session.list_tools()).tools)
        steps = await session.call_tool("get_progress", {}, progress_callback=note)
        seen["text"] = steps.content[0].text
        exact = await session.call_tool("get_exact", {})
        seen["exact"] = str(exact.structuredContent["number"])
        seen["hidden"] = (await session.call_tool("delete_account", {})).isError
        try:
            await session.list_resources()
        except McpError as error:
            seen["unknown"] = error.error.code
        try:
            await session.call_tool("get_slow", {}, read_timeout_seconds=timedelta(seconds=1))
        except McpError:
            seen["gave_up"] = True
        await session.send_ping()
    sys.stdout.write(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
