"""The table of signing keys: what is stored of a key, and that one purpose has one active key.

The private part arrives here already encrypted (`authz_server.issuing.signing_keys`); this module
could not read it. Several processes may start on an empty table together: the first insert wins,
inside one write transaction, and everybody gets the winner's row. The unique index says the same
to a database whose write transactions overlap.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Connection, Index, LargeBinary, Row, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel, col

from database.engine import Database


class KeyState(StrEnum):
    """Where a key is in its life: published, signing, published for old tokens, forgotten."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One key at rest. `public_jwk` is JSON, empty for a symmetric key; the rest is sealed.

    `kek_id` names the key-encryption key without revealing it. Times are Unix milliseconds.
    """

    key_id: str
    purpose: str
    algorithm: str
    state: KeyState
    public_jwk: str
    nonce: bytes
    sealed_private: bytes
    kek_id: str
    created_at_ms: int


class SigningKeyRow(SQLModel, table=True):
    """One key."""

    __tablename__ = "signing_keys"
    __table_args__ = (
        Index(
            "ix_signing_keys_one_active",
            "purpose",
            unique=True,
            sqlite_where=text("state = 'active'"),
            postgresql_where=text("state = 'active'"),
        ),
    )

    key_id: str = Field(primary_key=True, max_length=64)
    purpose: str = Field(index=True, max_length=32)
    algorithm: str = Field(max_length=16)
    state: str = Field(max_length=16)
    public_jwk: str = Field(max_length=1024)
    nonce: bytes = Field(sa_type=LargeBinary)
    sealed_private: bytes = Field(sa_type=LargeBinary)
    kek_id: str = Field(max_length=64)
    created_at_ms: int = Field(sa_type=BigInteger)


class SigningKeyStore:
    """The repository of signing keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> tuple[StoredKey, ...]:
        """Every key that is not gone, oldest first."""
        statement = (
            select(SigningKeyRow.__table__)  # type: ignore[attr-defined]  # SQLModel's own attribute
            .where(col(SigningKeyRow.state) != KeyState.GONE)
            .order_by(col(SigningKeyRow.created_at_ms), col(SigningKeyRow.key_id))
        )
        return self._database.read(
            lambda connection: tuple(_stored(row) for row in connection.execute(statement))
        )

    async def add_unless_active(self, candidate: StoredKey) -> StoredKey:
        """The active key of the candidate's purpose: the candidate, if there was none.

        INVARIANT: of any number of parallel calls in any number of processes one candidate is
        stored and every call returns that one.
        """
        try:
            return await self._database.write(lambda row: _add_unless_active(row, candidate))
        except IntegrityError:
            # Another process committed between our read and our insert.
            return await self._database.write(lambda row: _add_unless_active(row, candidate))


def _add_unless_active(connection: Connection, candidate: StoredKey) -> StoredKey:
    found = connection.execute(
        select(SigningKeyRow.__table__).where(  # type: ignore[attr-defined]  # as above
            col(SigningKeyRow.purpose) == candidate.purpose,
            col(SigningKeyRow.state) == KeyState.ACTIVE,
        )
    ).one_or_none()
    if found is not None:
        return _stored(found)
    connection.execute(
        insert(SigningKeyRow).values(
            key_id=candidate.key_id,
            purpose=candidate.purpose,
            algorithm=candidate.algorithm,
            state=candidate.state.value,
            public_jwk=candidate.public_jwk,
            nonce=candidate.nonce,
            sealed_private=candidate.sealed_private,
            kek_id=candidate.kek_id,
            created_at_ms=candidate.created_at_ms,
        )
    )
    return candidate


def _stored(row: Row[Any]) -> StoredKey:
    return StoredKey(
        key_id=row.key_id,
        purpose=row.purpose,
        algorithm=row.algorithm,
        state=KeyState(row.state),
        public_jwk=row.public_jwk,
        nonce=row.nonce,
        sealed_private=row.sealed_private,
        kek_id=row.kek_id,
        created_at_ms=row.created_at_ms,
    )
