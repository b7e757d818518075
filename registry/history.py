"""Every version of every declared object, with author and time; append-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Connection, UniqueConstraint, insert, select
from sqlmodel import Field, SQLModel, col

import database.naming  # noqa: F401 - before the first table: it names the constraints
from registry.declared import ObjectKey

HISTORY_AT_ONCE: Final = 200


class ChangeAction(StrEnum):
    """What a change does to an object."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    UNCHANGED = "unchanged"


class HistoryRow(SQLModel, table=True):
    """One version of one object; `spec` is NULL when it was deleted."""

    __tablename__ = "registry_history"
    __table_args__ = (UniqueConstraint("kind", "name", "registry_version"),)

    id: int | None = Field(default=None, primary_key=True)
    kind: str
    name: str
    registry_version: int = Field(sa_type=BigInteger)
    action: str
    spec: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    author: str
    at_ms: int = Field(sa_type=BigInteger)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One version of an object. `version` is the registry's, `at_ms` Unix milliseconds."""

    version: int
    action: ChangeAction
    spec: dict[str, Any] | None
    author: str
    at_ms: int


def append_history(
    connection: Connection, entries: Sequence[tuple[ObjectKey, HistoryEntry]]
) -> None:
    """Inside a write: remember one version of each of these objects."""
    rows = [
        {
            "kind": kind,
            "name": name,
            "registry_version": entry.version,
            "action": entry.action.value,
            "spec": entry.spec,
            "author": entry.author,
            "at_ms": entry.at_ms,
        }
        for (kind, name), entry in entries
    ]
    if rows:
        connection.execute(insert(HistoryRow), rows)


def moved_servers(connection: Connection) -> dict[str, int]:
    """By server that is not at its first url, when it came to its present one (Unix ms).

    One that was deleted and declared again came then, whatever its url.
    """
    query = (
        select(col(HistoryRow.name), col(HistoryRow.at_ms), col(HistoryRow.spec)["url"].as_string())
        .where(col(HistoryRow.kind) == "McpServer")
        .order_by(col(HistoryRow.registry_version))
    )
    at: dict[str, str | None] = {}
    since: dict[str, int] = {}
    for name, at_ms, url in connection.execute(query):
        if name in at and at[name] != url:
            since[name] = at_ms
        at[name] = url
    return since


def history_of(
    connection: Connection, kind: str, name: str, limit: int = HISTORY_AT_ONCE
) -> tuple[HistoryEntry, ...]:
    """The versions of one object, newest first, at most `limit`."""
    query = (
        select(
            col(HistoryRow.registry_version),
            col(HistoryRow.action),
            col(HistoryRow.spec),
            col(HistoryRow.author),
            col(HistoryRow.at_ms),
        )
        .where(col(HistoryRow.kind) == kind, col(HistoryRow.name) == name)
        .order_by(col(HistoryRow.registry_version).desc())
        .limit(limit)
    )
    return tuple(
        HistoryEntry(version, ChangeAction(action), spec, author, at_ms)
        for version, action, spec, author, at_ms in connection.execute(query)
    )
