"""People of identity providers that keep their passwords here.

Whatever changes about an account makes out of date what was issued for the person: their next call
is refused, and whoever comes back for them is asked about anew. Another password and a disabled
account end their logins, too. Change, cut and audit event are one transaction.
"""

from collections.abc import Callable, Collection
from datetime import datetime

from pydantic import Field, SecretStr
from sqlalchemy import Connection

from admin_console.errors import AdminError, invalid_request, not_found, refused_by
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.parts import Accounts, PersonKey
from admin_console.wire import Wire
from audit_log.event import EventType, Outcome
from audit_log.transaction_log import append_in
from idp_connectors.evidence import Person
from idp_connectors.workforce.account_store import Account
from idp_connectors.workforce.local_accounts import ABSENT, AccountChange
from policies.problems import did_you_mean
from registry.problem_words import suggestion
from token_exchange.claims import Refusal


class AccountBody(Wire):
    """A new account; groups without their provider's prefix."""

    identity_provider: str = Field(max_length=63)
    username: str = Field(max_length=128)
    password: SecretStr = Field(max_length=1024)
    groups: list[str] = Field(default=[], max_length=64)


class AccountChangeBody(Wire):
    """What shall be different; what is left out stays. `groups` are all groups from then on."""

    password: SecretStr | None = Field(default=None, max_length=1024)
    groups: list[str] | None = Field(default=None, max_length=64)
    disabled: bool | None = None


class AccountItem(Wire):
    """One account; never its password. `subject` is what an AdminRole names."""

    identity_provider: str
    subject: str
    username: str
    display_name: str
    groups: list[str]
    disabled: bool
    author: str
    created_at: datetime


class AccountsAnswer(Wire):
    """Accounts by provider and name."""

    accounts: list[AccountItem]


async def add_account(call: AdminCall) -> AccountItem:
    """Make an account."""
    body = call.body_as(AccountBody)

    def record(connection: Connection, account: Account) -> None:
        event = call.made(
            EventType.ACCOUNT_ADDED,
            Outcome.SUCCEEDED,
            object_ref=f"Account/{account.provider}/{account.id}",
            user_name=account.username,
            detail=_groups_said(account.groups),
        )
        append_in(connection, (event,), call.now_ms)

    account = await _provider(call, body.identity_provider).add(
        body.username,
        body.password.get_secret_value(),
        body.groups,
        author=call.author,
        now=call.now_ms // 1000,
        also=record,
    )
    if isinstance(account, Refusal):
        raise refused_by(account)
    return _item(account)


async def change_account(call: AdminCall) -> AccountItem:
    """Change password, groups or whether it is disabled, and cut the person off."""
    body, username = call.body_as(AccountChangeBody), call.path["username"]
    change = AccountChange(
        None if body.password is None else body.password.get_secret_value(),
        body.groups,
        body.disabled,
    )
    if change == AccountChange():
        raise invalid_request("Say what shall be different: password, groups or disabled.")
    provider = _provider(call, call.path["identity_provider"])
    account = await provider.change(
        username,
        change,
        author=call.author,
        now=call.now_ms // 1000,
        also=_cut_off(call, change),
    )
    if account is ABSENT:
        names = [each.username for each in await provider.accounts()]
        near = did_you_mean(username.lower(), names) or "."
        raise not_found(f"There is no account of that name{near}")
    if isinstance(account, Refusal):
        raise refused_by(account)
    await call.parts.live.refresh_after_commit()
    return _item(account)


async def list_accounts(call: AdminCall) -> AccountsAnswer:
    """Every account."""
    providers = call.parts.accounts()
    found = [_item(each) for name in sorted(providers) for each in await providers[name].accounts()]
    return AccountsAnswer(accounts=found)


def _provider(call: AdminCall, name: str) -> Accounts:
    providers = call.parts.accounts()
    if name not in providers:
        near = suggestion(name, providers)
        raise not_found(f"No IdentityProvider of that name keeps passwords here{near}")
    return providers[name]


def _cut_off(call: AdminCall, change: AccountChange) -> Callable[[Connection, Person], None]:
    """What happens to the person, in the transaction that changes their account."""
    said = {
        "account.password": change.password is not None,
        "account.groups": change.groups is not None,
        "account.disabled": change.disabled is True,
        "account.enabled": change.disabled is False,
    }
    reasons = tuple(reason for reason, is_so in said.items() if is_so)

    def also(connection: Connection, person: Person) -> None:
        own = (
            PersonKey(person.identity_provider, person.issuer, person.subject)
            == call.administrator.person
        )
        if own and change.disabled:
            # Whoever manages accounts is an admin who can log in, and stays one.
            description = "You cannot disable your own account; another admin can."
            raise AdminError(409, "conflict", description, "account.own")
        event = call.made(
            EventType.ACCOUNT_CHANGED,
            Outcome.SUCCEEDED,
            object_ref=f"Account/{person.identity_provider}/{person.subject}",
            user_name=person.attributes["username"],
            reasons=reasons,
            detail=None if change.groups is None else _groups_said(change.groups),
        )
        call.parts.cut_off(
            connection,
            person,
            ends_sessions=change.password is not None or change.disabled is True,
            reason=", ".join(reasons),
            author=call.author,
            event=event,
        )

    return also


def _groups_said(groups: Collection[str]) -> str:
    return f"groups: {', '.join(groups) or 'none'}"


def _item(account: Account) -> AccountItem:
    return AccountItem(
        identity_provider=account.provider,
        subject=account.id,
        username=account.username,
        display_name=account.display_name,
        groups=list(account.groups),
        disabled=account.disabled,
        author=account.author,
        created_at=moment(account.created_at * 1000),
    )
