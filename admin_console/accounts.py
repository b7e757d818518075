"""People of identity providers that keep their passwords here."""

from datetime import datetime

from pydantic import Field, SecretStr

from admin_console.errors import not_found, refused_by
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.wire import Wire
from audit_log.event import EventType, Outcome
from idp_connectors.workforce.account_store import Account
from token_exchange.claims import Refusal


class AccountBody(Wire):
    """A new account; groups without their provider's prefix."""

    identity_provider: str = Field(max_length=63)
    username: str = Field(max_length=128)
    password: SecretStr = Field(max_length=1024)
    groups: list[str] = Field(default=[], max_length=64)


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
    provider = call.parts.accounts().get(body.identity_provider)
    if provider is None:
        raise not_found("No IdentityProvider of that name keeps passwords here.")
    account = await provider.add(
        body.username,
        body.password.get_secret_value(),
        body.groups,
        author=call.author,
        now=call.now_ms // 1000,
    )
    if isinstance(account, Refusal):
        raise refused_by(account)
    await call.record(
        EventType.ACCOUNT_ADDED,
        Outcome.SUCCEEDED,
        object_ref=f"Account/{account.provider}/{account.id}",
        user_name=account.username,
    )
    return _item(account)


async def list_accounts(call: AdminCall) -> AccountsAnswer:
    """Every account."""
    providers = call.parts.accounts()
    found = [_item(each) for name in sorted(providers) for each in await providers[name].accounts()]
    return AccountsAnswer(accounts=found)


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
