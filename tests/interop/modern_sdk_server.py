"""A modern server on the official SDK of today, with the tools of `legacy_sdk_server` by its side.

python modern_sdk_server.py PORT (stream | json)
"""

import asyncio
import sys
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

BIG = 12345678901234567890123


def build() -> MCPServer[Any]:
    """The server with the tools of the era matrix."""
    server: MCPServer[Any] = MCPServer("new")
    cancelled: list[str] = []

    @server.tool()
    def get_spoken(context: Context) -> str:
        """The revision this was asked in, and whether in a session."""
        headers = context.headers or {}
        session = "session" if "mcp-session-id" in headers else "no session"
        return f"{headers['mcp-protocol-version']}, {session}"

    @server.tool()
    async def get_progress(context: Context) -> str:
        """Three steps."""
        for step in range(3):
            await context.report_progress(step + 1, 3, f"step {step + 1}")
        return "done"

    @server.tool()
    async def get_slow(context: Context) -> str:
        """Say one thing and never come to an end."""
        try:
            await context.report_progress(1, None, "begun")
            await asyncio.Event().wait()
        finally:
            cancelled.append("one")
        return "never"

    @server.tool()
    def get_cancelled() -> int:
        """How many slow calls were cancelled."""
        return len(cancelled)

    @server.tool()
    def get_exact() -> dict[str, Any]:
        """A number no float holds."""
        return {"number": BIG, "text": "\u00e9"}

    return server


if __name__ == "__main__":
    app = build().streamable_http_app(json_response=sys.argv[2] == "json")
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", ws="none")
