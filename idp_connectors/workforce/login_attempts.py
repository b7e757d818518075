"""Counting failed logins per name, and locking a name out for exponentially longer times.

An attempt is counted *before* the password is looked at, in one statement, and forgotten when it
succeeds: twenty guesses at once are twenty counted guesses. The name need not exist. A row is
keyed by a hash of provider and name, so that known and unknown names look alike here too, and a
mistyped password in the name field is not stored. While locked nothing is checked and nothing
counted, so nobody can extend another's lock by hammering at it.
"""

import hashlib
from typing import Final

from sqlalchemy import BigInteger, Connection, String, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel

from database.engine import Database

FREE_ATTEMPTS: Final = 5  # NIST SP 800-63B §3.2.2 allows up to 100; people mistype a few times
MAXIMUM_LOCK_SECONDS: Final = 900  # at most some hundred guesses a day against one name
FORGOTTEN_AFTER_SECONDS: Final = 86_400
MAXIMUM_ROWS: Final = 100_000  # names may be invented: the table is bounded
ROWS_DROPPED_AT_ONCE: Final = 1_000


class LoginAttemptRow(SQLModel, table=True):
    """Attempts for one name since its last success. Times are NumericDate seconds."""

    __tablename__ = "login_attempts"

    name_hash: str = Field(primary_key=True, sa_type=String(64))
    attempts: int
    locked_until: int = Field(sa_type=BigInteger)
    last_attempt: int = Field(sa_type=BigInteger, index=True)


_TABLE: Final = LoginAttemptRow.__table__  # type: ignore[attr-defined]  # SQLModel's own attribute


def lock_seconds(attempts: int) -> int:
    """How long a name is locked after this many attempts without a success."""
    if attempts < FREE_ATTEMPTS:
        return 0
    return min(1 << min(attempts - FREE_ATTEMPTS + 1, 20), MAXIMUM_LOCK_SECONDS)


class LoginAttempts:
    """The attempts of every name at every provider."""

    def __init__(self, database: Database, *, maximum_rows: int = MAXIMUM_ROWS) -> None:
        self._database = database
        self._maximum_rows = maximum_rows

    async def begin(self, provider: str, username: str, now: int) -> int:
        """Count an attempt. Returns 0 if it may go on, else the seconds the name stays locked."""
        name_hash = _name_hash(provider, username)
        try:
            return await self._database.write(lambda row: self._count(row, name_hash, now))
        except IntegrityError:
            # Two first attempts in two processes: the other one has made the row.
            return await self._database.write(lambda row: self._count(row, name_hash, now))

    async def forget(self, provider: str, username: str) -> None:
        """Forget the attempts of a name."""
        statement = delete(_TABLE).where(_TABLE.c.name_hash == _name_hash(provider, username))

        def work(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.write(work)

    def _count(self, connection: Connection, name_hash: str, now: int) -> int:
        stale = _TABLE.c.last_attempt < now - FORGOTTEN_AFTER_SECONDS
        attempts = connection.scalar(
            update(_TABLE)
            .where(_TABLE.c.name_hash == name_hash, _TABLE.c.locked_until <= now)
            .values(attempts=case((stale, 1), else_=_TABLE.c.attempts + 1), last_attempt=now)
            .returning(_TABLE.c.attempts)
        )
        if attempts is not None:
            connection.execute(
                update(_TABLE)
                .where(_TABLE.c.name_hash == name_hash)
                .values(locked_until=now + lock_seconds(attempts))
            )
            return 0
        locked_until = connection.scalar(
            select(_TABLE.c.locked_until).where(_TABLE.c.name_hash == name_hash)
        )
        if locked_until is not None:
            return max(1, int(locked_until) - now)
        self._make_room(connection, now)
        connection.execute(
            insert(_TABLE).values(name_hash=name_hash, attempts=1, locked_until=0, last_attempt=now)
        )
        return 0

    def _make_room(self, connection: Connection, now: int) -> None:
        """Drop forgotten rows, and at the bound the names with the fewest attempts."""
        count = connection.scalar(select(func.count()).select_from(_TABLE)) or 0
        if count < self._maximum_rows:
            return
        connection.execute(
            delete(_TABLE).where(_TABLE.c.last_attempt < now - FORGOTTEN_AFTER_SECONDS)
        )
        # Fewest first: a name somebody is working on is not forgotten because others are invented.
        dropped = (
            select(_TABLE.c.name_hash)
            .order_by(_TABLE.c.attempts, _TABLE.c.last_attempt)
            .limit(min(ROWS_DROPPED_AT_ONCE, max(1, self._maximum_rows // 10)))
        )
        connection.execute(delete(_TABLE).where(_TABLE.c.name_hash.in_(dropped)))


def _name_hash(provider: str, username: str) -> str:
    return hashlib.sha256(f"{provider}\0{username}".encode(errors="surrogatepass")).hexdigest()
