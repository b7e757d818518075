"""Rows of declared objects: the current spec of each, as the operator gave it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import JSON, BigInteger, Connection, Select, delete, insert, select, update
from sqlmodel import Field, SQLModel, col

import database.naming  # noqa: F401 - before the first table: it names the constraints
from registry.declared import ObjectKey


class ObjectRow(SQLModel, table=True):
    """One declared object."""

    __tablename__ = "registry_objects"

    kind: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    spec: dict[str, Any] = Field(sa_type=JSON)
    version: int = Field(sa_type=BigInteger)
    author: str
    changed_at_ms: int = Field(sa_type=BigInteger)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A declared object: `version` is the registry version that last changed it."""

    kind: str
    name: str
    spec: dict[str, Any]
    version: int
    author: str
    changed_at_ms: int


def stored_objects(connection: Connection) -> dict[ObjectKey, StoredObject]:
    """Every object, in order of kind and name."""
    query = _objects().order_by(col(ObjectRow.kind), col(ObjectRow.name))
    return {(row.kind, row.name): StoredObject(*row) for row in connection.execute(query)}


def stored_object(connection: Connection, kind: str, name: str) -> StoredObject | None:
    """One object."""
    query = _objects().where(col(ObjectRow.kind) == kind, col(ObjectRow.name) == name)
    row = connection.execute(query).first()
    return None if row is None else StoredObject(*row)


def create_objects(connection: Connection, created: Sequence[StoredObject]) -> None:
    """Inside a write: add objects that do not exist."""
    if created:
        connection.execute(insert(ObjectRow), [asdict(each) for each in created])


def replace_object(connection: Connection, stored: StoredObject) -> None:
    """Inside a write: put another spec in the place of an object's."""
    connection.execute(
        update(ObjectRow)
        .where(col(ObjectRow.kind) == stored.kind, col(ObjectRow.name) == stored.name)
        .values(**asdict(stored))
    )


def delete_object(connection: Connection, kind: str, name: str) -> None:
    """Inside a write: remove an object."""
    connection.execute(
        delete(ObjectRow).where(col(ObjectRow.kind) == kind, col(ObjectRow.name) == name)
    )


def _objects() -> Select[*tuple[Any, ...]]:
    return select(
        col(ObjectRow.kind),
        col(ObjectRow.name),
        col(ObjectRow.spec),
        col(ObjectRow.version),
        col(ObjectRow.author),
        col(ObjectRow.changed_at_ms),
    )
