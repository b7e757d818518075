r"""A notes service as an MCP server that knows nothing of OAuth: it wants an API key.

The key lives in Countersign's vault; no agent ever holds it.

    NOTES_API_KEY=... python notes_server.py --port 8712 --database notes.db
    python notes_server.py --port 8712 --database notes.db --key-file notes-api-key \
        --host 0.0.0.0 --name notes --certificate notes.pem --certificate-key notes.key
"""

import argparse
import hmac
import os
import sqlite3
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--key-file", type=Path, help="else from the environment")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--name", help="what clients call this host; else loopback names")
    parser.add_argument("--certificate", type=Path, help="serve TLS")
    parser.add_argument("--certificate-key", type=Path)
    return parser.parse_args()


def main() -> None:
    """Serve until stopped."""
    given = arguments()
    if given.key_file is None:
        key = os.environ["NOTES_API_KEY"]  # noqa: TID251 - the demo server's own configuration
    else:
        key = given.key_file.read_text().strip()
    hosts = None
    if given.name is not None:
        hosts = TransportSecuritySettings(allowed_hosts=[f"{given.name}:{given.port}"])
    app = build(given.database).streamable_http_app(transport_security=hosts)
    uvicorn.run(
        ApiKey(app, key),
        host=given.host,
        port=given.port,
        log_level="warning",
        timeout_graceful_shutdown=2,
        ssl_certfile=given.certificate,
        ssl_keyfile=given.certificate_key,
    )


if __name__ == "__main__":
    main()
