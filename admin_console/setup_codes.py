"""The one-time code that makes the first admin.

256 random bits, handed out once (in a 0600 file and on a terminal, never in a log); only its hash
is stored; good for 15 minutes, once, and only while nobody is admin. A new code replaces the one
before it. INVARIANT: a code is used in the write that makes the admin, which first asks whether
there is one: of any number of parallel uses one wins, and one that fails leaves the code good.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, String, delete, insert, select, update
from sqlmodel import Field, SQLModel

import database.naming  # noqa: F401 - before the first table: it names the constraints
from database.engine import Database
from registry.object_rows import stored_objects

CODE_BYTES: Final = 32
LIFETIME_SECONDS: Final = 900


class SetupCodeRow(SQLModel, table=True):
    """The code that was handed out; `code_hash` is SHA-256 in hexadecimal."""

    __tablename__ = "setup_codes"

    code_hash: str = Field(primary_key=True, sa_type=String(64))
    expires_at: int = Field(sa_type=BigInteger)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


_TABLE: Final = SetupCodeRow.__table__  # type: ignore[attr-defined]  # SQLModel's own attribute


class SetupCodes:
    """Makes setup codes, and tells which are good."""

    def __init__(self, database: Database, *, random: Callable[[int], bytes]) -> None:
        """Take the database and the source of unpredictable bytes."""
        self._database = database
        self._random = random

    def create_now(self, now: int) -> str | None:
        """A fresh code, or None when there is an admin already. `now` is NumericDate seconds."""
        code = f"setup-{self._random(CODE_BYTES).hex()}"

        def work(connection: Connection) -> str | None:
            if _has_admin(connection):
                return None
            connection.execute(delete(_TABLE))
            values = {"code_hash": _hash(code), "expires_at": now + LIFETIME_SECONDS}
            connection.execute(insert(_TABLE).values(values))
            return code

        return self._database.write_now(work)

    def is_open(self, code: str, now: int) -> bool:
        """Whether a code may still make somebody admin; blocks on the database."""
        good = select(_TABLE.c.code_hash).where(*_good(code, now))

        def work(connection: Connection) -> bool:
            return connection.execute(good).first() is not None and not _has_admin(connection)

        return self._database.read(work)


def use_in(connection: Connection, code: str, now: int) -> bool:
    """Inside the write that makes the admin: use a code up. False: not good, or an admin exists."""
    if _has_admin(connection):
        return False
    used = connection.execute(update(_TABLE).where(*_good(code, now)).values(used_at=now))
    return bool(used.rowcount)


def _good(code: str, now: int) -> tuple[ColumnElement[bool], ...]:
    return (
        _TABLE.c.code_hash == _hash(code),
        _TABLE.c.used_at.is_(None),
        _TABLE.c.expires_at > now,
    )


def _has_admin(connection: Connection) -> bool:
    return any(
        kind == "AdminRole" and stored.spec.get("role") == "admin"
        for (kind, _), stored in stored_objects(connection).items()
    )


def _hash(code: str) -> str:
    return hashlib.sha256(code.strip().encode("utf-8", "replace")).hexdigest()
