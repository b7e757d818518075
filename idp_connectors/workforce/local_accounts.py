"""`local_accounts`: people whose passwords we keep ourselves. The embedded default and break-glass.

Exists only where an IdentityProvider object of this type is declared. Order of a login: room to
hash → count the attempt (locked names end here) → look the account up → one argon2id
verification, against a hash nobody has when there is no account → enabled? → person. Every
failure but lock and overload is the same value, made by the same work, and unknown names are
counted and locked like known ones: whether an account exists cannot be learned here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from idp_connectors.evidence import Person
from idp_connectors.workforce.account_rules import (
    groups_problem,
    may_assert,
    password_of,
    password_problem,
    username_of,
)
from idp_connectors.workforce.account_store import Account, AccountStore
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from idp_connectors.workforce.login_attempts import LoginAttempts
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.password_hashing import HashingBusyError
from idp_connectors.workforce.vouching import local_issuer
from token_exchange.claims import Refusal

ACR_PASSWORD: Final = "pwd"  # noqa: S105 - an authentication context's name
BUSY_RETRY_SECONDS: Final = 5


class LocalAccountsSettings(BaseModel):
    """Settings of an IdentityProvider of type `local_accounts`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum_password_length: int = Field(
        default=15,  # NIST SP 800-63B §3.1.1.2: where a password is the only factor
        ge=8,
        le=64,
        description="Fewest characters of a new password.",
    )


@dataclass(frozen=True, slots=True)
class AccountChange:
    """What shall be different about an account; None stays. Groups are named without the prefix."""

    password: str | None = field(default=None, repr=False)
    groups: Sequence[str] | None = None
    disabled: bool | None = None


class LocalAccounts:
    """The accounts of one declared IdentityProvider: login and administration.

    `name` is the object's name and the prefix of every group. `permitted_groups` are the groups
    the object may assert, checked again at each login.
    """

    def __init__(
        self,
        name: str,
        settings: LocalAccountsSettings,
        permitted_groups: Sequence[str],
        parts: WorkforceParts,
    ) -> None:
        self._name = name
        self._settings = settings
        self._permitted_groups = tuple(permitted_groups)
        self._issuer = local_issuer(parts.issuer, name)
        self._hashing = parts.hashing
        self._random = parts.random
        self._store = AccountStore(parts.database)
        self._attempts = LoginAttempts(parts.database)

    async def authenticate(self, username: str, password: str, now: int) -> Person | LoginFailure:
        """Check a username and password. `now` is NumericDate seconds."""
        try:
            self._hashing.require_capacity()
        except HashingBusyError:
            return _BUSY
        name = username_of(username)
        counted = name or username  # names no account can have are counted all the same
        locked_seconds = await self._attempts.begin(self._name, counted, now)
        if locked_seconds:
            return _locked(locked_seconds)
        stored = await self._store.find(self._name, name or "")
        password_hash = self._hashing.nobody if stored is None else stored.password_hash
        spelled = password_of(password)
        matches = await self._hashing.verify(password_hash, spelled or "")
        if stored is None or spelled is None or not matches:
            return _WRONG
        if stored.account.disabled:
            return _DISABLED
        await self._attempts.forget(self._name, counted)
        if self._hashing.is_outdated(password_hash):
            stronger = await self._hashing.hash(spelled)
            await self._store.replace_hash(stored.account.id, password_hash, stronger)
        return self._person(stored.account, now)

    async def revalidate(
        self, person: Person, upstream: bytes | None, now: int
    ) -> Person | LoginFailure:
        """Whether the account is still enabled, and its groups of today."""
        del upstream, now  # nothing of ours was kept, and the account is what it is
        account = await self._store.find_by_id(self._name, person.subject)
        if account is None or account.disabled:
            return _ENDED
        # When and how the person logged in does not change by asking again.
        return replace(self._person(account, person.auth_time), acr=person.acr)

    async def add(
        self,
        username: str,
        password: str,
        groups: Sequence[str],
        *,
        author: str,
        now: int,
        also: Callable[[Connection, Account], None],
    ) -> Account | Refusal:
        """Make an account, or say which rule is broken. `now` is NumericDate seconds.

        `also` is done in the same transaction: its record.

        Raises:
            HashingBusyError: Too many passwords are waiting to be hashed.
        """
        name = username_of(username)
        if name is None:
            return _refused("account.username", "A username is 1 to 64 of a-z 0-9 . _ @ + -.")
        problem = self._change_problem(AccountChange(password, groups), name)
        if problem is not None:
            return problem
        account = Account(
            id="acc_" + self._random(16).hex(),
            provider=self._name,
            username=name,
            display_name=name,
            groups=tuple(dict.fromkeys(groups)),
            disabled=False,
            author=author,
            created_at=now,
            changed_at=now,
        )
        self._hashing.require_capacity()
        password_hash = await self._hashing.hash(password_of(password) or "")
        try:
            await self._store.add(
                account, password_hash, lambda connection: also(connection, account)
            )
        except IntegrityError:
            return _refused("account.exists", f"There is an account {name} already.")
        return account

    async def change(
        self,
        username: str,
        change: AccountChange,
        *,
        author: str,
        now: int,
        also: Callable[[Connection, Person], None],
    ) -> Account | Refusal:
        """Change an account, or say which rule is broken. `now` is NumericDate seconds.

        `also` is done in the same transaction, with the person as they are from now on. It must
        make what was issued for them out of date: nothing here does.

        Raises:
            HashingBusyError: Too many passwords are waiting to be hashed.
        """
        name = username_of(username) or ""
        problem = self._change_problem(change, name)
        if problem is not None:
            return problem
        values: dict[str, object] = {}
        if change.password is not None:
            self._hashing.require_capacity()
            values["password_hash"] = await self._hashing.hash(password_of(change.password) or "")
        if change.groups is not None:
            values["groups"] = tuple(dict.fromkeys(change.groups))
        if change.disabled is not None:
            values["disabled"] = change.disabled
        changed = await self._store.change(
            self._name,
            name,
            lambda connection, account: also(connection, self._person(account, now)),
            author=author,
            changed_at=now,
            **values,
        )
        if changed is not None and change.password is not None:
            await self._attempts.forget(self._name, name)  # they were at the old one
        return ABSENT if changed is None else changed

    async def accounts(self) -> tuple[Account, ...]:
        """Every account of this provider."""
        return await self._store.all(self._name)

    def _change_problem(self, change: AccountChange, username: str) -> Refusal | None:
        shortest, problem = self._settings.minimum_password_length, None
        if change.password is not None:
            problem = password_problem(change.password, username, shortest)
        if problem is None and change.groups is not None:
            problem = groups_problem(change.groups, self._permitted_groups)
        return problem

    def _person(self, account: Account, now: int) -> Person:
        return Person(
            identity_provider=self._name,
            issuer=self._issuer,
            subject=account.id,
            name=account.display_name,
            # INVARIANT: limited at login too, for the object may assert less than it could once.
            groups=tuple(
                f"{self._name}/{group}"
                for group in account.groups
                if may_assert(group, self._permitted_groups)
            ),
            acr=ACR_PASSWORD,
            auth_time=now,
            attributes={"username": account.username},
        )


ABSENT: Final = Refusal(
    "not_found", "There is no such account.", "no account of this name", "account.absent"
)
_TEXT: Final = "The username or the password is not right."
_WRONG: Final = LoginFailure(
    LoginFailureCode.INVALID_CREDENTIALS, _TEXT, "unknown account or wrong password"
)
_ENDED: Final = LoginFailure(
    LoginFailureCode.ENDED, "The session has ended. Log in again.", "account disabled or gone"
)
_DISABLED: Final = LoginFailure(
    LoginFailureCode.INVALID_CREDENTIALS, _TEXT, "the account is disabled"
)
_BUSY: Final = LoginFailure(
    LoginFailureCode.BUSY,
    "Too many people are logging in. Try again in a moment.",
    "too many passwords waiting to be hashed",
    BUSY_RETRY_SECONDS,
)


def _locked(seconds: int) -> LoginFailure:
    return LoginFailure(
        LoginFailureCode.LOCKED,
        "Too many attempts. Try again later.",
        f"locked for {seconds} s",
        seconds,
    )


def _refused(rule: str, description: str) -> Refusal:
    return Refusal(code="invalid_request", description=description, detail=description, rule=rule)
