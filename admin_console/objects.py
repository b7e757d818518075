"""Declared objects as they are and were: read, history. Changes are `apply`."""

from datetime import UTC, datetime
from typing import Any

from anyio import to_thread

from admin_console.errors import not_found
from admin_console.operation import AdminCall
from admin_console.wire import Wire
from registry.object_rows import StoredObject
from registry.objects import KINDS


class ObjectAnswer(Wire):
    """A declared object as it was given; `version` is the registry's at its last change."""

    kind: str
    name: str
    spec: dict[str, Any]
    version: int
    author: str
    changed_at: datetime


class ObjectsAnswer(Wire):
    """Objects in order of kind and name."""

    objects: list[ObjectAnswer]


class HistoryItem(Wire):
    """One version of an object; `spec` is null when it was deleted."""

    version: int
    action: str
    spec: dict[str, Any] | None
    author: str
    changed_at: datetime


class HistoryAnswer(Wire):
    """Versions, newest first."""

    history: list[HistoryItem]


async def list_objects(call: AdminCall) -> ObjectsAnswer:
    """All objects."""
    found = await to_thread.run_sync(call.parts.registry.list)
    return ObjectsAnswer(objects=[_answer(each) for each in found])


async def list_objects_of_kind(call: AdminCall) -> ObjectsAnswer:
    """The objects of one kind."""
    require_kind(call.path["kind"])
    found = await to_thread.run_sync(call.parts.registry.list, call.path["kind"])
    return ObjectsAnswer(objects=[_answer(each) for each in found])


async def get_object(call: AdminCall) -> ObjectAnswer:
    """One object."""
    kind, name = call.path["kind"], call.path["name"]
    require_kind(kind)
    found = await to_thread.run_sync(call.parts.registry.get, kind, name)
    if found is None:
        raise not_found(f"There is no {kind} of that name.")
    return _answer(found)


async def object_history(call: AdminCall) -> HistoryAnswer:
    """The versions of one object, also of one that was deleted."""
    kind, name = call.path["kind"], call.path["name"]
    require_kind(kind)
    entries = await to_thread.run_sync(call.parts.registry.history, kind, name)
    if not entries:
        raise not_found(f"There never was a {kind} of that name.")
    return HistoryAnswer(
        history=[
            HistoryItem(
                version=entry.version,
                action=entry.action,
                spec=entry.spec,
                author=entry.author,
                changed_at=moment(entry.at_ms),
            )
            for entry in entries
        ]
    )


def require_kind(kind: str) -> None:
    """Only kinds that exist have objects; any other is a 404."""
    if kind not in KINDS:
        raise not_found(f"There is no such kind; kinds: {', '.join(KINDS)}.")


def _answer(stored: StoredObject) -> ObjectAnswer:
    return ObjectAnswer(
        kind=stored.kind,
        name=stored.name,
        spec=stored.spec,
        version=stored.version,
        author=stored.author,
        changed_at=moment(stored.changed_at_ms),
    )


def moment(at_ms: int) -> datetime:
    """Unix milliseconds as the UTC time an answer shows."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)
