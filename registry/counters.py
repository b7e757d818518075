"""Numbers that only grow, each by one: the registry version, the revocation sequence.

INVARIANT: a number is taken in the transaction that uses it, so a rolled back change leaves no
gap, and two processes never take the same one (the row is locked until commit).
"""

from typing import Final

from sqlalchemy import BigInteger, Connection, select, text
from sqlmodel import Field, SQLModel, col

import database.naming  # noqa: F401 - before the first table: it names the constraints

REGISTRY_VERSION: Final = "registry_version"
REVOCATION_SEQUENCE: Final = "revocation_sequence"
POLICY_SET_VERSION: Final = "policy_set_version"

# The same words on SQLite >= 3.35 and PostgreSQL; SQLAlchemy has no portable upsert.
_NEXT: Final = text(
    "INSERT INTO registry_counters (name, value) VALUES (:name, 1) "
    "ON CONFLICT (name) DO UPDATE SET value = registry_counters.value + 1 RETURNING value"
)


class CounterRow(SQLModel, table=True):
    """One named number."""

    __tablename__ = "registry_counters"

    name: str = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)


def next_value(connection: Connection, name: str) -> int:
    """Take the next number of `name`; the first is 1."""
    value: int = connection.execute(_NEXT, {"name": name}).scalar_one()
    return value


def values(connection: Connection) -> dict[str, int]:
    """The last number taken of every name."""
    rows = connection.execute(select(col(CounterRow.name), col(CounterRow.value)))
    return {name: value for name, value in rows}  # noqa: C416 - rows are no tuples for mypy


def value_of(connection: Connection, name: str) -> int:
    """The last number taken of `name`, 0 if none."""
    query = select(col(CounterRow.value)).where(col(CounterRow.name) == name)
    value: int | None = connection.execute(query).scalar_one_or_none()
    return value or 0
