"""A notes service as an MCP server that knows nothing of OAuth: it wants an API key.

The key lives in Countersign's vault; no agent ever holds it.

    NOTES_API_KEY=... python notes_server.py --port 8712 --database notes.db
"""

import argparse
import hmac
import os
import sqlite3
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class ApiKey:
    """Refuses every request without the key in `x-api-key`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"x-api-key", b"")
            if not hmac.compare_digest(given, self._key):
                answer = JSONResponse({"error": "missing or wrong x-api-key"}, status_code=401)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def build(database: Path) -> MCPServer[Any]:
    """The MCP server with its tools."""
    connection = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
    connection.executescript(
        """
        PRAGMA journal_mode=WAL;
        CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text TEXT UNIQUE);
        CREATE TABLE IF NOT EXISTS calls(
            id INTEGER PRIMARY KEY AUTOINCREMENT, tool TEXT, arguments TEXT);
        INSERT OR IGNORE INTO notes(text) VALUES
            ('Q3 numbers are in the shared folder'), ('Renew the domain in May');
        """
    )
    server: MCPServer[Any] = MCPServer("notes", version="1.0.0", log_level="WARNING")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def search(text: str) -> dict[str, Any]:
        """Find notes that contain a text."""
        connection.execute("INSERT INTO calls(tool, arguments) VALUES ('search', ?)", (text,))
        rows = connection.execute(
            "SELECT id, text FROM notes WHERE instr(lower(text), lower(?)) ORDER BY id", (text,)
        )
        return {"notes": [{"id": row[0], "text": row[1]} for row in rows]}

    return server


def main() -> None:
    """Serve on loopback until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", type=Path, required=True)
    arguments = parser.parse_args()
    key = os.environ["NOTES_API_KEY"]  # noqa: TID251 - the demo server's own configuration
    app = ApiKey(build(arguments.database).streamable_http_app(), key)
    uvicorn.run(
        app, host="127.0.0.1", port=arguments.port, log_level="warning", timeout_graceful_shutdown=2
    )


if __name__ == "__main__":
    main()
