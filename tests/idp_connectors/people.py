"""Local accounts in a real database, with argon2id that takes no time."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import argon2

from database.engine import Database
from idp_connectors.evidence import Person
from idp_connectors.workforce.account_store import Account
from idp_connectors.workforce.local_accounts import (
    AccountChange,
    LocalAccounts,
    LocalAccountsSettings,
)
from idp_connectors.workforce.login import LoginFailure
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.password_hashing import PasswordHashing
from tests.databases import stored
from tests.idp_connectors.samples import NOW, cheap
from token_exchange.claims import Refusal

T = TypeVar("T")

PASSWORD = "correct horse battery staple"


class Hashing(PasswordHashing):
    """Real argon2id with tiny parameters, counting what it did."""

    def __init__(
        self, parameters: argon2.Parameters | None = None, *, maximum_waiting: int = 32
    ) -> None:
        super().__init__(parameters or cheap(), maximum_waiting=maximum_waiting)
        self.verified: list[str] = []

    async def verify(self, password_hash: str, password: str) -> bool:
        self.verified.append(password_hash)
        return await super().verify(password_hash, password)


def run(coroutine: Coroutine[None, None, T]) -> T:
    return asyncio.run(coroutine)


def accounts(
    parts: WorkforceParts, *, name: str = "local", permitted: tuple[str, ...] = ("*",)
) -> LocalAccounts:
    return LocalAccounts(name, LocalAccountsSettings(), permitted, parts)


def added(
    local: LocalAccounts, username: str, password: str = PASSWORD, groups: tuple[str, ...] = ()
) -> Account | Refusal:
    return run(local.add(username, password, groups, author="setup", now=NOW, also=lambda *_: None))


def add(local: LocalAccounts, username: str = "alice", *groups: str) -> Account:
    account = added(local, username, groups=groups or ("support",))
    assert isinstance(account, Account)
    return account


def change(
    local: LocalAccounts,
    username: str = "alice",
    *,
    cut_off: list[Person] | None = None,
    **what: Any,
) -> Account | Refusal:
    """Change an account; whom that concerns goes into `cut_off`."""
    concerned = [] if cut_off is None else cut_off
    return run(
        local.change(
            username,
            AccountChange(**what),
            author="olga",
            now=NOW + 1,
            also=lambda _, person: concerned.append(person),
        )
    )


def login(
    local: LocalAccounts, username: str = "alice", password: str = PASSWORD, *, now: int = NOW
) -> Person | LoginFailure:
    return run(local.authenticate(username, password, now))


def failure(
    local: LocalAccounts, username: str = "alice", password: str = "wrong", *, now: int = NOW
) -> LoginFailure:
    answer = login(local, username, password, now=now)
    assert isinstance(answer, LoginFailure)
    return answer


def hash_of(database: Database) -> str:
    return str(stored(database, "SELECT password_hash FROM local_accounts"))
