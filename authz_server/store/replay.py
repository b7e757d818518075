"""What may be used once: DPoP proofs, client assertions, attestations, decision ids.

One row per thing used, kept until the thing would be refused for its age anyway. Using is one
insert-if-absent: of any number of parallel uses in any number of processes one wins. Everything a
request has to use goes into one write, and writes are group-committed by the database. Ids are
stored as digests: they are attacker-chosen text of any length.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import BigInteger, Connection, bindparam, delete, select, text
from sqlmodel import Field, SQLModel, col

from database.engine import Database

CLEAN_EVERY_SECONDS: Final = 30
# Another request may have read its clock a little earlier than the one that cleans.
KEPT_LONGER_SECONDS: Final = 60
# Keeps the write transaction short, and is far more than the few rows one use adds: while anything
# is overdue each use cleans, so that no load can add rows faster than they are forgotten.
CLEANED_AT_ONCE: Final = 500

# The same words on SQLite and PostgreSQL; SQLAlchemy has no portable insert-if-absent.
_INSERT: Final = text(
    "INSERT INTO used_once (digest, expires_at) VALUES (:digest, :expires_at) "
    "ON CONFLICT (digest) DO NOTHING RETURNING digest"
).bindparams(bindparam("digest"), bindparam("expires_at"))


class OnceKind(StrEnum):
    """What kind of thing is used; one kind's ids never meet another's."""

    DPOP_PROOF = "dpop"
    CLIENT_ASSERTION = "client_assertion"
    ATTESTATION = "attestation"
    DECISION = "decision"
    LOGOUT = "logout"
    PERSON_CHANGE = "person_change"


@dataclass(frozen=True, slots=True)
class UsedOnce:
    """One thing to be used. `scope` is who chose the id (issuer, client), `id` what they chose.

    `expires_at` is NumericDate: the first second at which it is refused without this memory.
    """

    kind: OnceKind
    scope: str
    id: str
    expires_at: int

    @property
    def digest(self) -> str:
        """The row's key; lengths keep ("ab", "c") and ("a", "bc") apart."""
        parts = (self.kind.value, self.scope, self.id)
        joined = "".join(f"{len(part)}:{part}" for part in parts)
        return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


class UsedOnceRow(SQLModel, table=True):
    """One used thing."""

    __tablename__ = "used_once"

    digest: str = Field(primary_key=True, max_length=64)
    expires_at: int = Field(sa_type=BigInteger, index=True)


class ReplayStore:
    """The memory of what was used, shared by every process on the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clean_at = 0  # NumericDate seconds

    async def use(
        self,
        things: Sequence[UsedOnce],
        now: int,
        also: Callable[[Connection], None] | None = None,
    ) -> UsedOnce | None:
        """Use all of `things`; the first one somebody had used before, or None when all are fresh.

        `also` is done in the same transaction, when all are.
        INVARIANT: a thing once returned as fresh is never fresh again before it expires.
        """
        if not things:
            return None
        is_due = now >= self._clean_at
        if is_due:
            self._clean_at = now + CLEAN_EVERY_SECONDS  # uses beside this one need not clean too

        def work(connection: Connection) -> UsedOnce | None:
            if is_due and _forget_expired(connection, now) == CLEANED_AT_ONCE:
                self._clean_at = now  # there is more: the next use goes on
            replayed = None
            for thing in things:
                fresh = connection.execute(
                    _INSERT, {"digest": thing.digest, "expires_at": thing.expires_at}
                ).one_or_none()
                if fresh is None and replayed is None:
                    replayed = thing
            if replayed is None and also is not None:
                also(connection)
            return replayed

        return await self._database.write(work)


def use_in(connection: Connection, thing: UsedOnce) -> bool:
    """Inside a write: use one thing together with what it stands for; False if it was used."""
    row = {"digest": thing.digest, "expires_at": thing.expires_at}
    return connection.execute(_INSERT, row).one_or_none() is not None


def _forget_expired(connection: Connection, now: int) -> int:
    """Forget one batch; how many that were."""
    expired = (
        select(col(UsedOnceRow.digest))
        .where(col(UsedOnceRow.expires_at) < now - KEPT_LONGER_SECONDS)
        .limit(CLEANED_AT_ONCE)
    )
    gone = connection.execute(delete(UsedOnceRow).where(col(UsedOnceRow.digest).in_(expired)))
    return gone.rowcount
