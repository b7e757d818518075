"""An MCP agent on the official client with not one line of authentication: a URL is all it has.

python plain_agent.py TOOL ARGUMENTS
"""

import asyncio
import json
import os
import sys

from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(tool: str, arguments: str) -> None:
    url = os.environ["COUNTERSIGN_MCP_URL"]  # noqa: TID251 - all this agent knows
    async with Client(streamable_http_client(url)) as client:
        tools = [each.name for each in (await client.list_tools()).tools]
        result = await client.call_tool(tool, json.loads(arguments))
    text = "\n".join(part.text for part in result.content if part.type == "text")
    sys.stdout.write(json.dumps({"tools": tools, "is_error": result.is_error, "text": text}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
