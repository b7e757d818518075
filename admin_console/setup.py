"""The first admin, and who one is."""

from anyio import to_thread
from pydantic import Field, SecretStr
from sqlalchemy import Connection

from admin_console.errors import AdminError, invalid_request
from admin_console.operation import AdminCall
from admin_console.parts import PersonKey
from admin_console.setup_codes import use_in
from admin_console.wire import Wire
from audit_log.event import EventType, Outcome
from audit_log.transaction_log import append_in
from registry.objects import DeclaredObject

FIRST_ADMIN = "first-admin"


class SetupBody(Wire):
    """The code in the server's `run_dir/setup-code`."""

    code: SecretStr = Field(min_length=1, max_length=256)


class IdentityAnswer(Wire):
    """Who the caller is here. `role` is null for a person without one."""

    author: str
    role: str | None
    sub: str | None
    identity_provider: str | None
    subject: str | None


async def require_code(call: AdminCall) -> None:
    """A person, and a code that is open now: who only tries codes is never admitted.

    Raises:
        AdminError: it is the socket, or the code is not good.
    """
    _person_of(call)
    code, now = call.body_as(SetupBody).code.get_secret_value(), call.now_ms // 1000
    if not await to_thread.run_sync(call.parts.setup_codes.is_open, code, now):
        raise _no_good_code()


async def setup(call: AdminCall) -> IdentityAnswer:
    """Make the calling person admin, once, while there is none."""
    person = _person_of(call)
    code = call.body_as(SetupBody).code.get_secret_value()
    registry, now = call.parts.registry, call.now_ms // 1000

    def use(connection: Connection) -> None:
        if not use_in(connection, code, now):
            raise _no_good_code()
        event = call.made(
            EventType.ADMIN_SETUP, Outcome.SUCCEEDED, object_ref=f"AdminRole/{FIRST_ADMIN}"
        )
        append_in(connection, (event,), call.now_ms)

    spec = {
        "identity_provider": person.identity_provider,
        "subject": person.subject,
        "role": "admin",
    }
    role = DeclaredObject(kind="AdminRole", name=FIRST_ADMIN, spec=spec)
    plan = await to_thread.run_sync(registry.plan, (role,))
    # INVARIANT: the use of the code, its record and the admin are one transaction. A plan with
    # problems is refused in it, and the code stays good.
    await registry.apply(plan, call.author, first=use)
    await call.parts.live.refresh_after_commit()
    return _identity(call, role="admin")


def _person_of(call: AdminCall) -> PersonKey:
    person = call.administrator.person
    if person is None:
        raise invalid_request("Log in as the person who shall be admin; the socket is nobody.")
    return person


def _no_good_code() -> AdminError:
    return AdminError(
        403,
        "access_denied",
        "The code is not good: wrong, used, too old, or there is an admin already.",
        "admin.setup_code",
    )


async def whoami(call: AdminCall) -> IdentityAnswer:
    """The caller, and the role held now."""
    return _identity(call, role=call.administrator.role)


def _identity(call: AdminCall, *, role: str | None) -> IdentityAnswer:
    who = call.administrator
    return IdentityAnswer(
        author=who.author,
        role=role,
        sub=who.sub,
        identity_provider=None if who.person is None else who.person.identity_provider,
        subject=None if who.person is None else who.person.subject,
    )
