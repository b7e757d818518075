"""Rows of the tool catalogue: every definition ever observed, and what is approved of each tool.

The definitions are kept apart from the status, so that what an operator approved can still be
shown after the server changed it. Bounded: per tool only the newest definitions stay, beside the
approved one, and a tool that is gone without ever being approved leaves nothing, so that neither a
server nor a gateway that lies can fill the database by changing its mind.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Connection, delete, insert, select, update
from sqlmodel import Field, SQLModel, col

import database.naming  # noqa: F401 - before the first table: it names the constraints

MAXIMUM_DEFINITIONS_PER_TOOL: Final = 5


class ToolDefinitionRow(SQLModel, table=True):
    """One definition of one tool, verbatim."""

    __tablename__ = "tool_definitions"

    server: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    definition: dict[str, Any] = Field(sa_type=JSON)
    first_seen_ms: int = Field(sa_type=BigInteger)


class ToolStatusRow(SQLModel, table=True):
    """What a server says of a tool now, and what is approved."""

    __tablename__ = "tool_status"

    server: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    first_digest: str
    observed_digest: str | None = None
    approved_digest: str | None = None
    approved_by: str | None = None
    approved_at_ms: int | None = Field(default=None, sa_type=BigInteger)


@dataclass(frozen=True, slots=True)
class ToolStatus:
    """The status of one tool. `observed_digest` is None when the server no longer offers it."""

    server: str
    name: str
    first_digest: str
    observed_digest: str | None
    approved_digest: str | None
    approved_by: str | None
    approved_at_ms: int | None


@dataclass(frozen=True, slots=True)
class ApprovedTool:
    """A tool as approved."""

    name: str
    digest: str
    definition: dict[str, Any]


def statuses_of(connection: Connection, server: str) -> dict[str, ToolStatus]:
    """Every tool known of a server, by name."""
    query = (
        select(
            col(ToolStatusRow.server),
            col(ToolStatusRow.name),
            col(ToolStatusRow.first_digest),
            col(ToolStatusRow.observed_digest),
            col(ToolStatusRow.approved_digest),
            col(ToolStatusRow.approved_by),
            col(ToolStatusRow.approved_at_ms),
        )
        .where(col(ToolStatusRow.server) == server)
        .order_by(col(ToolStatusRow.name))
    )
    return {row.name: ToolStatus(*row) for row in connection.execute(query)}


def definitions_of(connection: Connection, server: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Every definition kept of a server, by tool name and digest."""
    query = select(
        col(ToolDefinitionRow.name),
        col(ToolDefinitionRow.digest),
        col(ToolDefinitionRow.definition),
    ).where(col(ToolDefinitionRow.server) == server)
    return {(name, digest): found for name, digest, found in connection.execute(query)}


def approved_tools(connection: Connection) -> dict[str, tuple[ApprovedTool, ...]]:
    """What is approved, by server; tools in order of their names."""
    query = (
        select(
            col(ToolStatusRow.server),
            col(ToolStatusRow.name),
            col(ToolDefinitionRow.digest),
            col(ToolDefinitionRow.definition),
        )
        .join(
            ToolDefinitionRow,
            (col(ToolDefinitionRow.server) == col(ToolStatusRow.server))
            & (col(ToolDefinitionRow.name) == col(ToolStatusRow.name))
            & (col(ToolDefinitionRow.digest) == col(ToolStatusRow.approved_digest)),
        )
        .order_by(col(ToolStatusRow.server), col(ToolStatusRow.name))
    )
    tools: dict[str, tuple[ApprovedTool, ...]] = {}
    for server, name, digest, definition in connection.execute(query):
        tools[server] = (*tools.get(server, ()), ApprovedTool(name, digest, definition))
    return tools


def store_observed(
    connection: Connection,
    before: ToolStatus | None,
    *,
    server: str,
    name: str,
    digest: str,
    definition: Mapping[str, Any],
    at_ms: int,
) -> None:
    """Inside a write: the server now offers this definition."""
    if before is None:
        connection.execute(
            insert(ToolStatusRow).values(
                server=server, name=name, first_digest=digest, observed_digest=digest
            )
        )
    elif before.observed_digest == digest:
        return
    else:
        update_status(connection, server, name, observed_digest=digest)
        if _is_kept(connection, server, name, digest):
            return
    connection.execute(
        insert(ToolDefinitionRow).values(
            server=server,
            name=name,
            digest=digest,
            definition=dict(definition),
            first_seen_ms=at_ms,
        )
    )
    if before is not None:
        in_use = {digest, before.approved_digest, before.first_digest}
        _forget_old(connection, server, name, in_use)


def update_status(connection: Connection, server: str, name: str, **values: object) -> None:
    """Inside a write: change the status of one tool."""
    connection.execute(
        update(ToolStatusRow)
        .where(col(ToolStatusRow.server) == server, col(ToolStatusRow.name) == name)
        .values(**values)
    )


def forget_tool(connection: Connection, server: str, name: str) -> None:
    """Inside a write: a tool that nobody approved and nobody offers leaves nothing behind."""
    for row in (ToolStatusRow, ToolDefinitionRow):
        connection.execute(delete(row).where(col(row.server) == server, col(row.name) == name))


def forget_server(connection: Connection, server: str) -> None:
    """Inside a write: a server with the same name, later, is another server."""
    connection.execute(delete(ToolStatusRow).where(col(ToolStatusRow.server) == server))
    connection.execute(delete(ToolDefinitionRow).where(col(ToolDefinitionRow.server) == server))


def _is_kept(connection: Connection, server: str, name: str, digest: str) -> bool:
    query = select(col(ToolDefinitionRow.digest)).where(
        col(ToolDefinitionRow.server) == server,
        col(ToolDefinitionRow.name) == name,
        col(ToolDefinitionRow.digest) == digest,
    )
    return connection.execute(query).first() is not None


def _forget_old(
    connection: Connection, server: str, name: str, in_use: Collection[str | None]
) -> None:
    query = (
        select(col(ToolDefinitionRow.digest))
        .where(col(ToolDefinitionRow.server) == server, col(ToolDefinitionRow.name) == name)
        .order_by(col(ToolDefinitionRow.first_seen_ms).desc(), col(ToolDefinitionRow.digest))
        .offset(MAXIMUM_DEFINITIONS_PER_TOOL)
    )
    old = [digest for (digest,) in connection.execute(query) if digest not in in_use]
    connection.execute(
        delete(ToolDefinitionRow).where(
            col(ToolDefinitionRow.server) == server,
            col(ToolDefinitionRow.name) == name,
            col(ToolDefinitionRow.digest).in_(old),
        )
    )
