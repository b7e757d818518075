"""A customer database as an MCP server: what its author writes when Countersign guards it.

Everything about authorization is `TokenVerifier`: it checks an RFC 9068 token by the issuer's
public keys, as any resource server would. The tools answer with whom they saw, and each call is
written to the server's own `calls` table, which the tests compare with Countersign's audit.

    python crm_server.py --port 8711 --issuer http://127.0.0.1:8700 --database crm.db
"""

import argparse
import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

READ_ONLY = ToolAnnotations(read_only_hint=True)


class IssuerTokens:
    """Accepts access tokens that the issuer signed for exactly this server (RFC 9068 §4)."""

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = jwt.PyJWKClient(f"{issuer}/oauth/jwks", cache_keys=True, timeout=5)

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            if jwt.get_unverified_header(token).get("typ") != "at+jwt":
                return None
            key = await asyncio.to_thread(self._keys.get_signing_key_from_jwt, token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["ES256"],
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "iat", "sub", "client_id"]},
            )
        except jwt.PyJWTError:
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims.get("scope", "").split(),
            expires_at=claims["exp"],
            resource=claims["aud"],
            subject=claims["sub"],
            claims=claims,
        )


class Customers:
    """The SQLite database behind the tools."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.executescript(
            """
            PRAGMA journal_mode=WAL;
            CREATE TABLE IF NOT EXISTS accounts(id INTEGER PRIMARY KEY, name TEXT, balance REAL);
            CREATE TABLE IF NOT EXISTS hours(day TEXT PRIMARY KEY, open TEXT);
            CREATE TABLE IF NOT EXISTS calls(
                id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT, tool TEXT, arguments TEXT,
                subject TEXT, agent TEXT, transaction_id TEXT, token_id TEXT);
            INSERT OR IGNORE INTO accounts VALUES (17, 'Ada Lovelace', 1250.0),
                                                  (18, 'Alan Turing', 90.5);
            INSERT OR IGNORE INTO hours VALUES ('monday', '09:00-17:00'), ('friday', '09:00-15:00');
            """
        )

    def record(self, tool: str, arguments: dict[str, Any], seen: dict[str, Any]) -> None:
        """Write one call to the server's own log, before it takes effect."""
        self._connection.execute(
            "INSERT INTO calls(at, tool, arguments, subject, agent, transaction_id, token_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                datetime.now(UTC).isoformat(),  # noqa: TID251 - the demo's own wall clock
                tool,
                json.dumps(arguments, sort_keys=True),
                seen["subject"],
                seen["agent"],
                seen["transaction"],
                seen["token_id"],
            ),
        )

    def account(self, account_id: int) -> dict[str, Any] | None:
        row = self._connection.execute(
            "SELECT id, name, balance FROM accounts WHERE id = ?", (account_id,)
        ).fetchone()
        return None if row is None else {"id": row[0], "name": row[1], "balance": row[2]}

    def refund(self, account_id: int, amount: float) -> float | None:
        row = self._connection.execute(
            "UPDATE accounts SET balance = balance + ? WHERE id = ? RETURNING balance",
            (amount, account_id),
        ).fetchone()
        return None if row is None else float(row[0])

    def delete(self, account_id: int) -> int:
        return self._connection.execute("DELETE FROM accounts WHERE id = ?", (account_id,)).rowcount

    def hours(self) -> dict[str, str]:
        return dict(self._connection.execute("SELECT day, open FROM hours ORDER BY day"))


def seen_caller() -> dict[str, Any]:
    """Whom this server sees behind the call: the person, the agent acting, the token."""
    token = get_access_token()
    if token is None or token.claims is None or "mcp:tools" not in token.scopes:
        message = "this token does not permit tool calls"
        raise PermissionError(message)
    agent, actor = token.claims.get("agent"), token.claims.get("act")
    while isinstance(actor, dict) and agent is None:
        agent, actor = actor.get("agent"), actor.get("act")
    return {
        "subject": token.claims["sub"],
        "name": token.claims.get("uctx", {}).get("name"),
        "agent": agent,
        "transaction": token.claims.get("txn"),
        "token_id": token.claims["jti"],
        "token_seconds": token.claims["exp"] - token.claims["iat"],
    }


def build(url: str, issuer: str, customers: Customers) -> MCPServer[Any]:
    """The MCP server with its tools."""
    server: MCPServer[Any] = MCPServer(
        "crm",
        version="1.0.0",
        log_level="WARNING",
        token_verifier=IssuerTokens(issuer, audience=url),
        auth=AuthSettings.model_validate(
            {"issuer_url": issuer, "resource_server_url": url, "validate_token_resource": True}
        ),
    )

    @server.tool(annotations=READ_ONLY)
    def get_account(id: int) -> dict[str, Any]:  # noqa: A002 - the tool's argument name
        """Read one customer account."""
        seen = seen_caller()
        customers.record("get_account", {"id": id}, seen)
        return {"account": customers.account(id), "seen": seen}

    @server.tool()
    def refund(id: int, amount: float) -> dict[str, Any]:  # noqa: A002
        """Pay an amount back to a customer."""
        seen = seen_caller()
        customers.record("refund", {"id": id, "amount": amount}, seen)
        return {"balance": customers.refund(id, amount), "seen": seen}

    @server.tool()
    def delete_account(id: int) -> dict[str, Any]:  # noqa: A002
        """Delete a customer account."""
        seen = seen_caller()
        customers.record("delete_account", {"id": id}, seen)
        return {"deleted": customers.delete(id), "seen": seen}

    @server.tool(annotations=READ_ONLY)
    def list_hours() -> dict[str, Any]:
        """When the shop is open."""
        seen = seen_caller()
        customers.record("list_hours", {}, seen)
        return {"hours": customers.hours(), "seen": seen}

    @server.tool(annotations=READ_ONLY)
    async def watch_account(id: int, seconds: float, ctx: Context) -> dict[str, Any]:  # noqa: A002
        """Report an account's balance while it is open: a call that streams."""
        seen = seen_caller()
        customers.record("watch_account", {"id": id, "seconds": seconds}, seen)
        ticks = max(1, int(seconds / 0.1))
        for tick in range(ticks):
            await ctx.report_progress(tick, ticks, json.dumps(customers.account(id)))
            await asyncio.sleep(0.1)
        return {"account": customers.account(id), "seen": seen}

    return server


def main() -> None:
    """Serve on loopback until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--database", type=Path, required=True)
    arguments = parser.parse_args()
    url = f"http://127.0.0.1:{arguments.port}/mcp"
    server = build(url, arguments.issuer, Customers(arguments.database))
    uvicorn.run(
        server.streamable_http_app(),
        host="127.0.0.1",
        port=arguments.port,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
