"""The table of local accounts. Rows stay in here; everybody else sees `Account`.

An account's `id` is its subject for ever and is never given to another: a username that is freed
and used again is another person (attack: account reuse).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    String,
    Text,
    UniqueConstraint,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Row
from sqlmodel import Field, SQLModel

from database.engine import Database


class LocalAccountRow(SQLModel, table=True):
    """One account of one IdentityProvider. Times are Unix seconds."""

    __tablename__ = "local_accounts"
    __table_args__ = (UniqueConstraint("provider", "username"),)

    id: str = Field(primary_key=True, sa_type=String(64))
    provider: str = Field(sa_type=String(63))
    username: str = Field(sa_type=String(64))
    display_name: str = Field(sa_type=String(128))
    password_hash: str = Field(sa_type=String(256))
    groups: str = Field(sa_type=Text)  # a JSON array of names without the provider's prefix
    disabled: bool = False
    author: str = Field(sa_type=String(256))
    created_at: int = Field(sa_type=BigInteger)
    changed_at: int = Field(sa_type=BigInteger)


@dataclass(frozen=True, slots=True)
class Account:
    """What may be known of an account; never its hash. Times are NumericDate seconds."""

    id: str
    provider: str
    username: str
    display_name: str
    groups: tuple[str, ...]
    disabled: bool
    author: str
    created_at: int
    changed_at: int


@dataclass(frozen=True, slots=True)
class StoredPassword:
    """An account with the hash to verify against; stays inside the login."""

    account: Account
    password_hash: str


_TABLE: Final = LocalAccountRow.__table__  # type: ignore[attr-defined]  # SQLModel's own attribute


class AccountStore:
    """The accounts of every local IdentityProvider."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, provider: str, username: str) -> StoredPassword | None:
        """The account of this name, disabled or not."""
        statement = select(_TABLE).where(
            _TABLE.c.provider == provider, _TABLE.c.username == username
        )
        row = await self._database.fetch(
            lambda connection: connection.execute(statement).one_or_none()
        )
        return None if row is None else StoredPassword(_account(row), row.password_hash)

    async def find_by_id(self, provider: str, account_id: str) -> Account | None:
        """The account of this id, disabled or not."""
        statement = select(_TABLE).where(_TABLE.c.provider == provider, _TABLE.c.id == account_id)
        row = await self._database.fetch(
            lambda connection: connection.execute(statement).one_or_none()
        )
        return None if row is None else _account(row)

    async def all(self, provider: str) -> tuple[Account, ...]:
        """Every account of a provider by username."""
        statement = select(_TABLE).where(_TABLE.c.provider == provider).order_by(_TABLE.c.username)
        rows = await self._database.fetch(lambda connection: connection.execute(statement).all())
        return tuple(_account(row) for row in rows)

    async def add(
        self, account: Account, password_hash: str, also: Callable[[Connection], None]
    ) -> None:
        """Store a new account, and do `also` in the same transaction.

        Raises:
            sqlalchemy.exc.IntegrityError: The provider has an account of this name.
        """
        values = {
            "id": account.id,
            "provider": account.provider,
            "username": account.username,
            "display_name": account.display_name,
            "password_hash": password_hash,
            "groups": json.dumps(account.groups),
            "disabled": account.disabled,
            "author": account.author,
            "created_at": account.created_at,
            "changed_at": account.changed_at,
        }

        def work(connection: Connection) -> None:
            connection.execute(insert(_TABLE).values(values))
            also(connection)

        await self._database.write(work)

    async def change(
        self,
        provider: str,
        username: str,
        also: Callable[[Connection, Account], None],
        **values: object,
    ) -> Account | None:
        """Set columns of one account, and do `also` in the same transaction; None: no such name."""
        if "groups" in values:
            values["groups"] = json.dumps(values["groups"])
        statement = (
            update(_TABLE)
            .where(_TABLE.c.provider == provider, _TABLE.c.username == username)
            .values(**values)
            .returning(*_TABLE.c)
        )

        def work(connection: Connection) -> Account | None:
            row = connection.execute(statement).one_or_none()
            if row is None:
                return None
            account = _account(row)
            also(connection, account)
            return account

        return await self._database.write(work)

    async def replace_hash(self, account_id: str, old: str, new: str) -> None:
        """Store a stronger hash of the same password, unless it was changed meanwhile."""
        statement = (
            update(_TABLE)
            .where(_TABLE.c.id == account_id, _TABLE.c.password_hash == old)
            .values(password_hash=new)
        )

        def work(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.write(work)


def _account(row: Row[Any]) -> Account:
    return Account(
        id=row.id,
        provider=row.provider,
        username=row.username,
        display_name=row.display_name,
        groups=tuple(json.loads(row.groups)),
        disabled=row.disabled,
        author=row.author,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )
