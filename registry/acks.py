"""Which gateway worker has applied which revocation and snapshot: what `kill` prints.

One row per worker and pair of numbers it confirmed, bounded per worker. Times come from two clocks:
`applied_at_ms` is the worker's own, `received_at_ms` ours.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, Connection, delete, func, select, text
from sqlmodel import Field, SQLModel, col

from database.engine import Database

MAXIMUM_ACKS_PER_WORKER: Final = 200
MAXIMUM_WORKERS_PER_GATEWAY: Final = 64  # a gateway that lies can invent as many names as it likes
FORGET_WORKER_AFTER_MS: Final = 86_400_000  # a worker that never came back

_INSERT: Final = text(
    "INSERT INTO gateway_acks (worker, gateway, sequence, version, applied_at_ms, received_at_ms) "
    "VALUES (:worker, :gateway, :sequence, :version, :applied_at_ms, :received_at_ms) "
    "ON CONFLICT DO NOTHING"
)


class AckRow(SQLModel, table=True):
    """One confirmation."""

    __tablename__ = "gateway_acks"

    gateway: str = Field(primary_key=True)
    worker: str = Field(primary_key=True)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    version: int = Field(primary_key=True, sa_type=BigInteger)
    applied_at_ms: int = Field(sa_type=BigInteger)
    received_at_ms: int = Field(sa_type=BigInteger, index=True)


@dataclass(frozen=True, slots=True)
class Ack:
    """A worker of a Gateway has applied everything up to `sequence` and snapshot `version`."""

    gateway: str
    worker: str
    sequence: int
    version: int
    applied_at_ms: int
    received_at_ms: int


class AckStore:
    """What the gateways' workers confirmed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record_ack(self, ack: Ack) -> None:
        """Keep a confirmation; the same one again changes nothing."""
        await self._database.write(lambda connection: _record(connection, ack))

    def acks_for(self, sequence: int) -> tuple[Ack, ...]:
        """Of every worker, its first confirmation that contains `sequence`."""
        rows = self._database.read(lambda connection: _acks(connection, sequence))
        first: dict[tuple[str, str], Ack] = {}
        for ack in rows:
            first.setdefault((ack.gateway, ack.worker), ack)
        return tuple(first.values())

    def workers(self) -> tuple[Ack, ...]:
        """Of every worker, its latest confirmation."""
        latest = {
            (ack.gateway, ack.worker): ack
            for ack in self._database.read(lambda connection: _acks(connection, 0))
        }
        return tuple(latest.values())


def _acks(connection: Connection, sequence: int) -> tuple[Ack, ...]:
    query = (
        select(
            col(AckRow.gateway),
            col(AckRow.worker),
            col(AckRow.sequence),
            col(AckRow.version),
            col(AckRow.applied_at_ms),
            col(AckRow.received_at_ms),
        )
        .where(col(AckRow.sequence) >= sequence)
        .order_by(
            col(AckRow.gateway),
            col(AckRow.worker),
            col(AckRow.received_at_ms),
            col(AckRow.sequence),
            col(AckRow.version),
        )
    )
    return tuple(Ack(*row) for row in connection.execute(query))


def _record(connection: Connection, ack: Ack) -> None:
    connection.execute(
        _INSERT,
        {
            "worker": ack.worker,
            "gateway": ack.gateway,
            "sequence": ack.sequence,
            "version": ack.version,
            "applied_at_ms": ack.applied_at_ms,
            "received_at_ms": ack.received_at_ms,
        },
    )
    old = ack.received_at_ms - FORGET_WORKER_AFTER_MS
    connection.execute(delete(AckRow).where(col(AckRow.received_at_ms) < old))
    _forget_oldest(connection, ack)
    _forget_oldest_workers(connection, ack.gateway)


def _forget_oldest_workers(connection: Connection, gateway: str) -> None:
    latest = func.max(col(AckRow.received_at_ms))
    beyond = (
        select(col(AckRow.worker))
        .where(col(AckRow.gateway) == gateway)
        .group_by(col(AckRow.worker))
        .order_by(latest.desc(), col(AckRow.worker))
        .offset(MAXIMUM_WORKERS_PER_GATEWAY)
    )
    workers = tuple(connection.scalars(beyond))
    if workers:
        connection.execute(
            delete(AckRow).where(col(AckRow.gateway) == gateway, col(AckRow.worker).in_(workers))
        )


def _forget_oldest(connection: Connection, ack: Ack) -> None:
    of_worker = (col(AckRow.gateway) == ack.gateway, col(AckRow.worker) == ack.worker)
    oldest_kept = (
        select(col(AckRow.received_at_ms))
        .where(*of_worker)
        .order_by(col(AckRow.received_at_ms).desc())
        .offset(MAXIMUM_ACKS_PER_WORKER - 1)
        .limit(1)
        .scalar_subquery()
    )
    connection.execute(
        delete(AckRow).where(*of_worker, col(AckRow.received_at_ms) < func.coalesce(oldest_kept, 0))
    )
