"""An MCP agent with not one line of authentication: a URL is all it has, and all it needs.

`countersign agent run` starts it and sets that URL (docs/guides/agent-run.md). It lists the tools
of its server and calls one; any MCP client would do.

    countersign agent run --server crm --alone -- python examples/plain_agent.py list_hours
"""

import asyncio
import json
import os
import sys

from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(tool: str, arguments: str = "{}") -> None:
    url = os.environ["COUNTERSIGN_MCP_URL"]
    async with Client(streamable_http_client(url)) as client:
        tools = [each.name for each in (await client.list_tools()).tools]
        result = await client.call_tool(tool, json.loads(arguments))
    text = "\n".join(part.text for part in result.content if part.type == "text")
    print(json.dumps({"tools": tools, "is_error": result.is_error, "text": text}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
