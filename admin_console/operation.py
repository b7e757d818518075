"""What one endpoint is, and what its handler is given. Frozen values only."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from admin_console.authentication import Administrator
from admin_console.errors import AdminError
from admin_console.parts import AdminParts
from admin_console.roles import Access
from audit_log.event import AuditEvent, EventType, Outcome, PrincipalKind, iso_timestamp
from audit_log.spool import SpoolUnavailable
from token_exchange.identifiers import new_id

MAXIMUM_BODY_BYTES: Final = 65_536

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class AdminCall:
    """One authenticated, authorised and parsed request. `now_ms` is when it came (Unix ms)."""

    parts: AdminParts
    administrator: Administrator
    path: Mapping[str, str]
    now_ms: int
    query: BaseModel | None = None
    body: BaseModel | None = None

    @property
    def author(self) -> str:
        """Whom history and audit name."""
        return self.administrator.author

    def body_as(self, model: type[Model]) -> Model:
        """The body, of the type the route table gives for it."""
        return _as(self.body, model)

    def query_as(self, model: type[Model]) -> Model:
        """The query, of the type the route table gives for it."""
        return _as(self.query, model)

    def require(self, access: Access, what: str) -> None:
        """Ask for more than the table does, because of the content.

        Raises:
            AdminError: the caller's role is not enough.
        """
        if self.administrator.access < access:
            raise insufficient_role(access, what)

    def made(self, event: EventType, outcome: Outcome, **fields: Any) -> AuditEvent:  # noqa: ANN401 - the struct names them
        """The event of a change, to be written in the transaction that makes it."""
        return _made(self.parts, event, outcome, self.administrator, **fields)

    async def record(self, event: EventType, outcome: Outcome, **fields: Any) -> None:  # noqa: ANN401 - the struct names them
        """After a change: write the event that says what came of it.

        Raises:
            AdminError: it is not recorded; only that the change was admitted is.
        """
        try:
            await record(self.parts, event, outcome, self.administrator, **fields)
        except SpoolUnavailable as error:
            raise AdminError(
                503,
                "temporarily_unavailable",
                "The change was made, but its audit event could not be written.",
                "admin.change_not_recorded",
            ) from error


Handler = Callable[[AdminCall], Awaitable[BaseModel]]
Requirement = Callable[[AdminCall], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row of the route table. `changes`: it alters something, so it is recorded before.

    `only_asks`: a POST whose body is a question; it alters nothing. `requires`: what a caller who
    needs no role must show instead (raises `AdminError`), so that who shows nothing is refused
    within the budget of refusals and never recorded as admitted.
    """

    method: str
    path: str
    access: Access
    handler: Handler
    answer: type[BaseModel]
    summary: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    maximum_body_bytes: int = MAXIMUM_BODY_BYTES
    only_asks: bool = False
    requires: Requirement | None = None

    @property
    def changes(self) -> bool:
        """Whether it alters something."""
        return self.method != "GET" and not self.only_asks


def insufficient_role(access: Access, what: str) -> AdminError:
    """The caller is known, and may not."""
    return AdminError(
        403, "insufficient_role", f"{what} needs the role {access.name.lower()}.", "admin.role"
    )


async def record(
    parts: AdminParts,
    event: EventType,
    outcome: Outcome,
    administrator: Administrator | None,
    **fields: Any,  # noqa: ANN401 - the struct names them
) -> None:
    """Make one event durable.

    Raises:
        SpoolUnavailable: it is not recorded; refuse.
    """
    await parts.spool.record(_made(parts, event, outcome, administrator, **fields))


def _made(
    parts: AdminParts,
    event: EventType,
    outcome: Outcome,
    administrator: Administrator | None,
    **fields: Any,  # noqa: ANN401 - the struct names them
) -> AuditEvent:
    return AuditEvent(
        event_id=new_id("evt", parts.random),
        timestamp=iso_timestamp(parts.clock()),
        type=event,
        outcome=outcome,
        principal_kind=_principal(administrator),
        author=None if administrator is None else administrator.author,
        user=None if administrator is None else administrator.sub,
        presented_token_id=None if administrator is None else administrator.token_id,
        snapshot_version=parts.live.snapshot.version,
        **fields,
    )


def _principal(administrator: Administrator | None) -> PrincipalKind:
    return PrincipalKind.NONE if administrator is None else PrincipalKind.OPERATOR


def _as(value: BaseModel | None, model: type[Model]) -> Model:
    if not isinstance(value, model):
        raise TypeError(f"the route table does not give {model.__name__} to this handler")
    return value
