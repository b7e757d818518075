"""Which policy set is live, and which one waits. A set activates whole or not at all.

A *candidate* is the shipped documents and every declared Policy. It becomes live when it compiles
against the approved tools; one that names tools not yet approved is stored `waiting`, and the set
before it stays live (at first version 0 without documents: deny all). Only the newest candidate
can still become live.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Connection, insert, select, update
from sqlmodel import Field, SQLModel, col

import database.naming  # noqa: F401 - before the first table: it names the constraints
from registry.counters import POLICY_SET_VERSION, next_value
from registry.snapshot import PolicyDocument, PolicySetEntry

DENY_ALL = PolicySetEntry(0)


class PolicySetState(StrEnum):
    """Where a stored set stands."""

    LIVE = "live"
    WAITING = "waiting"
    SUPERSEDED = "superseded"


class PolicySetRow(SQLModel, table=True):
    """One immutable set of documents and what became of it."""

    __tablename__ = "policy_sets"

    version: int = Field(
        primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False}
    )
    documents: list[dict[str, str]] = Field(sa_type=JSON)
    state: str
    waiting_for: list[str] = Field(sa_type=JSON)
    author: str
    created_at_ms: int = Field(sa_type=BigInteger)
    activated_at_ms: int | None = Field(default=None, sa_type=BigInteger)


@dataclass(frozen=True, slots=True)
class StoredPolicySet:
    """A stored set; `waiting_for` are tools as `server/tool`."""

    entry: PolicySetEntry
    state: PolicySetState
    waiting_for: tuple[str, ...]
    author: str


def live_set(connection: Connection) -> PolicySetEntry:
    """The set that decides."""
    found = _newest(connection, PolicySetState.LIVE)
    return DENY_ALL if found is None else found.entry


def waiting_set(connection: Connection) -> StoredPolicySet | None:
    """The set that would be live if its tools were approved."""
    return _newest(connection, PolicySetState.WAITING)


def newest_documents(connection: Connection) -> tuple[PolicyDocument, ...]:
    """The documents of the newest candidate, whatever its state."""
    found = _newest(connection, None)
    return () if found is None else found.entry.documents


def store_candidate(
    connection: Connection,
    documents: tuple[PolicyDocument, ...],
    waiting_for: tuple[str, ...],
    *,
    author: str,
    at_ms: int,
) -> PolicySetEntry:
    """Inside a write: keep a new set, live at once when it waits for nothing."""
    version = next_value(connection, POLICY_SET_VERSION)
    state = PolicySetState.WAITING if waiting_for else PolicySetState.LIVE
    _supersede(connection, PolicySetState.WAITING)
    if state is PolicySetState.LIVE:
        _supersede(connection, PolicySetState.LIVE)
    connection.execute(
        insert(PolicySetRow).values(
            version=version,
            documents=[{"name": each.name, "cedar": each.cedar} for each in documents],
            state=state.value,
            waiting_for=list(waiting_for),
            author=author,
            created_at_ms=at_ms,
            activated_at_ms=at_ms if state is PolicySetState.LIVE else None,
        )
    )
    return PolicySetEntry(version, documents)


def keep_waiting(connection: Connection, version: int, waiting_for: tuple[str, ...]) -> None:
    """Inside a write: the waiting set now waits for something else."""
    _update(connection, version, waiting_for=list(waiting_for))


def make_live(connection: Connection, version: int, at_ms: int) -> None:
    """Inside a write: the waiting set compiles now."""
    _supersede(connection, PolicySetState.LIVE)
    _update(
        connection,
        version,
        state=PolicySetState.LIVE.value,
        waiting_for=[],
        activated_at_ms=at_ms,
    )


def _update(connection: Connection, version: int, **values: Any) -> None:  # noqa: ANN401 - columns
    connection.execute(
        update(PolicySetRow).where(col(PolicySetRow.version) == version).values(**values)
    )


def _supersede(connection: Connection, state: PolicySetState) -> None:
    connection.execute(
        update(PolicySetRow)
        .where(col(PolicySetRow.state) == state.value)
        .values(state=PolicySetState.SUPERSEDED.value)
    )


def _newest(connection: Connection, state: PolicySetState | None) -> StoredPolicySet | None:
    query = select(
        col(PolicySetRow.version),
        col(PolicySetRow.documents),
        col(PolicySetRow.state),
        col(PolicySetRow.waiting_for),
        col(PolicySetRow.author),
    )
    if state is not None:
        query = query.where(col(PolicySetRow.state) == state.value)
    row = connection.execute(query.order_by(col(PolicySetRow.version).desc()).limit(1)).first()
    if row is None:
        return None
    version, documents, found_state, waiting_for, author = row
    entry = PolicySetEntry(
        version, tuple(PolicyDocument(each["name"], each["cedar"]) for each in documents)
    )
    return StoredPolicySet(entry, PolicySetState(found_state), tuple(waiting_for), author)
