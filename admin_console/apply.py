"""Changing declared objects: apply, dry run, delete. All or none, in the caller's role.

In order: every document parses → the plan of the registry has no problem → the caller's role is
enough for what would change (`admin_changes`) → applied and recorded, an event an object, in one
transaction.
"""

from functools import partial
from typing import Any, Final

from anyio import to_thread
from pydantic import Field
from sqlalchemy import Connection

from admin_console.admin_changes import admin_changes
from admin_console.apply_warnings import apply_warnings, known_groups
from admin_console.errors import invalid_objects, not_found
from admin_console.objects import require_kind
from admin_console.operation import AdminCall
from admin_console.roles import Access
from admin_console.wire import Wire
from audit_log.event import EventType, Outcome
from audit_log.transaction_log import append_in
from registry.changes import ChangePlan, ObjectChange, specs_after
from registry.declared import ObjectKey, Problem, parse_document
from registry.objects import DeclaredObject
from registry.store import AppliedChange

MAXIMUM_OBJECTS: Final = 1_000
MAXIMUM_BODY_BYTES: Final = 4 * 1024 * 1024


class ObjectReference(Wire):
    """One object."""

    kind: str
    name: str


class ApplyBody(Wire):
    """Documents `kind / name / spec` as in a YAML file, and objects to delete with them."""

    objects: list[dict[str, Any]] = Field(default=[], max_length=MAXIMUM_OBJECTS)
    delete: list[ObjectReference] = Field(default=[], max_length=MAXIMUM_OBJECTS)


class ApplyQuery(Wire):
    """`dry_run`: only say what would change."""

    dry_run: bool = False


class FieldChange(Wire):
    """One field before and after; null when it is not there."""

    field: str
    before: Any
    after: Any


class ChangeAnswer(Wire):
    """What happens to one object: `action` is create, update or delete."""

    kind: str
    name: str
    action: str
    fields: list[FieldChange]


class WarningItem(Wire):
    """What is accepted and matches nothing today: most likely a misspelt name."""

    kind: str
    name: str
    field: str
    message: str


class ApplyAnswer(Wire):
    """What changed, or would. `waiting_for`: tools the newest policy set still waits for."""

    dry_run: bool
    version: int
    changes: list[ChangeAnswer]
    policy_state: str
    policy_version: int
    waiting_for: list[str]
    warnings: list[WarningItem]


async def apply_objects(call: AdminCall) -> ApplyAnswer:
    """Declare objects, all or none; with `dry_run` say what that would change."""
    body = call.body_as(ApplyBody)
    objects = _declared(body)
    delete = tuple((each.kind, each.name) for each in body.delete)
    for kind, _ in delete:
        require_kind(kind)
    if not call.query_as(ApplyQuery).dry_run:
        return await _apply(call, objects, delete)
    plan = await _plan(call, objects, delete)
    state = await to_thread.run_sync(call.parts.registry.policy_state)
    waiting = plan.waiting_for or state.waiting_for
    return ApplyAnswer(
        dry_run=True,
        version=plan.base_version,
        changes=[_change(each) for each in plan.effective],
        policy_state=state.state,
        policy_version=state.live_version,
        waiting_for=list(waiting),
        warnings=await _warnings(call, objects, plan),
    )


async def delete_object(call: AdminCall) -> ApplyAnswer:
    """Delete one object; its history stays."""
    kind, name = call.path["kind"], call.path["name"]
    require_kind(kind)
    if await to_thread.run_sync(call.parts.registry.get, kind, name) is None:
        raise not_found(f"There is no {kind} of that name.")
    return await _apply(call, (), ((kind, name),))


async def _apply(
    call: AdminCall, objects: tuple[DeclaredObject, ...], delete: tuple[ObjectKey, ...]
) -> ApplyAnswer:
    plan = await _plan(call, objects, delete)
    await _require_role(call, plan)
    # INVARIANT: a change and its events stand together or neither does.
    applied = await call.parts.registry.apply(plan, call.author, also=partial(_record, call))
    await call.parts.live.refresh_after_commit()
    return ApplyAnswer(
        dry_run=False,
        version=applied.version,
        changes=[_change(each) for each in applied.changes],
        policy_state=applied.policies.state,
        policy_version=applied.policies.live_version,
        waiting_for=list(applied.policies.waiting_for),
        warnings=await _warnings(call, objects, plan),
    )


async def _warnings(
    call: AdminCall, objects: tuple[DeclaredObject, ...], plan: ChangePlan
) -> list[WarningItem]:
    groups = await known_groups(call.parts)
    found = await to_thread.run_sync(apply_warnings, call.parts, objects, plan, groups)
    return [
        WarningItem(kind=each.kind, name=each.name, field=each.field, message=each.message)
        for each in found
    ]


async def _require_role(call: AdminCall, plan: ChangePlan) -> None:
    stored = await to_thread.run_sync(call.parts.registry.list)
    before = {(each.kind, each.name): each for each in stored}
    specs = {key: each.spec for key, each in before.items()}
    for what in admin_changes(plan.effective, specs, specs_after(plan.changes, before)):
        call.require(Access.ADMIN, what)


def _record(call: AdminCall, connection: Connection, applied: AppliedChange) -> None:
    events = [
        call.made(
            EventType.OBJECT_CHANGED,
            Outcome.SUCCEEDED,
            object_ref=f"{change.kind}/{change.name}",
            reasons=(change.action.value,),
            detail=f"version {applied.version}",
        )
        for change in applied.changes
    ]
    append_in(connection, events, call.now_ms)


async def _plan(
    call: AdminCall, objects: tuple[DeclaredObject, ...], delete: tuple[ObjectKey, ...]
) -> ChangePlan:
    registry = call.parts.registry
    plan = await to_thread.run_sync(lambda: registry.plan(objects, delete=delete))
    if plan.problems:
        raise invalid_objects(plan.problems)
    return plan


def _declared(body: ApplyBody) -> tuple[DeclaredObject, ...]:
    parsed: list[DeclaredObject] = []
    problems: list[Problem] = []
    for document in body.objects:
        found = parse_document(document)
        if isinstance(found, DeclaredObject):
            parsed.append(found)
        else:
            problems.extend(found)
    if problems:
        raise invalid_objects(problems)
    return tuple(parsed)


def _change(change: ObjectChange) -> ChangeAnswer:
    return ChangeAnswer(
        kind=change.kind,
        name=change.name,
        action=change.action.value,
        fields=[
            FieldChange(field=each.field, before=each.before, after=each.after)
            for each in change.differences
        ],
    )
