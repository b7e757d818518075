# mypy: ignore-errors
"""A legacy server on the official SDK of its time, run by an interpreter that has only that SDK.

python legacy_sdk_server.py PORT (stream | json)
"""

import sys
from typing import Any

import anyio
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.exceptions import McpError
from mcp.types import SamplingMessage, TextContent

BIG = 12345678901234567890123


class Events(EventStore):
    """Keeps every event, to replay what came after one on its own stream."""

    def __init__(self) -> None:
        self.events = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.events.append((stream_id, message))
        return f"event-{len(self.events)}"

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str:
        last = int(last_event_id.rpartition("-")[2])
        stream = self.events[last - 1][0]
        for number, (stream_id, message) in enumerate(self.events[last:], start=last + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, f"event-{number}"))
        return stream


def get_spoken(context: Context) -> str:
    """The revision this was asked in, and whether in a session."""
    headers = context.request_context.request.headers
    session = "session" if "mcp-session-id" in headers else "no session"
    return f"{headers['mcp-protocol-version']}, {session}"


def build(port: int, form: str) -> FastMCP:
    """The server with tools that show what a gateway makes of each peculiarity."""
    server = FastMCP(
        "old",
        port=port,
        json_response=form == "json",
        event_store=Events() if form == "stream" else None,
        retry_interval=50,
        log_level="WARNING",
    )
    cancelled = []
    server.tool()(get_spoken)

    @server.tool()
    def get_who(context: Context) -> str:
        """The session and the credential this came with."""
        headers = context.request_context.request.headers
        return f"{headers['mcp-session-id']} {headers['authorization'][-16:]}"

    @server.tool()
    async def get_sampled(context: Context) -> str:
        """Ask the client for its model, and say what came of it."""
        message = SamplingMessage(role="user", content=TextContent(type="text", text="Hello?"))
        try:
            await context.session.create_message(
                [message], max_tokens=10, related_request_id=context.request_id
            )
        except McpError as error:
            return f"refused: {error.error.code}"
        return "answered"

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
            await anyio.sleep_forever()
        finally:
            cancelled.append(context.request_id)

    @server.tool()
    def get_cancelled() -> int:
        """How many slow calls were cancelled."""
        return len(cancelled)

    @server.tool()
    async def get_polled(context: Context) -> str:
        """Close the connection and answer on the next one."""
        await context.report_progress(1, 2, "before")
        await context.close_sse_stream()
        await anyio.sleep(0.1)
        await context.report_progress(2, 2, "after")
        return "resumed"

    @server.tool()
    def get_exact() -> dict[str, Any]:
        """A number no float holds."""
        return {"number": BIG, "text": "\u00e9"}

    return server


if __name__ == "__main__":
    build(int(sys.argv[1]), sys.argv[2]).run(transport="streamable-http")
