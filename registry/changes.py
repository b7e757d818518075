"""What a set of documents would change, as values: computed by a plan, shown as a diff, applied."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.declared import DeclaredSet, ObjectKey, Problem
from registry.difference import FieldDifference, differences
from registry.history import ChangeAction
from registry.object_rows import StoredObject
from registry.objects import DeclaredObject


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """What happens to one object. `base_version` is its version when planned, 0 when new."""

    kind: str
    name: str
    action: ChangeAction
    base_version: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def key(self) -> ObjectKey:
        """The object."""
        return (self.kind, self.name)

    @property
    def differences(self) -> tuple[FieldDifference, ...]:
        """The fields that change."""
        return differences(self.before, self.after)


# What only a server can say of effective changes and the set after them: it knows its machine.
MachineCheck = Callable[[Sequence[ObjectChange], DeclaredSet], Iterable[Problem]]


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """What would change, and what is wrong with it. Nothing was written.

    `waiting_for`: tools (`server/tool`) the policy set would wait for before it becomes live;
    `hints`: where they are named, and which may be misspelt.
    """

    base_version: int
    changes: tuple[ObjectChange, ...]
    problems: tuple[Problem, ...] = ()
    waiting_for: tuple[str, ...] = ()
    hints: tuple[Problem, ...] = ()

    @property
    def effective(self) -> tuple[ObjectChange, ...]:
        """The changes that change something."""
        return tuple(each for each in self.changes if each.action is not ChangeAction.UNCHANGED)


def planned_changes(
    objects: Sequence[DeclaredObject],
    delete: Sequence[ObjectKey],
    current: Mapping[ObjectKey, StoredObject],
) -> tuple[tuple[ObjectChange, ...], tuple[Problem, ...]]:
    """One change per object, in the order given, and what the documents say twice or wrongly."""
    changes: dict[ObjectKey, ObjectChange] = {}
    problems: list[Problem] = []
    for declared in objects:
        key: ObjectKey = (declared.kind, declared.name)
        if key in changes:
            problems.append(Problem(*key, "name", "declared twice in these documents"))
        changes[key] = _change(key, declared.spec, current.get(key))
    for key in dict.fromkeys(delete):
        stored = current.get(key)
        if key in changes:
            problems.append(Problem(*key, "name", "both declared and deleted"))
        elif stored is None:
            problems.append(Problem(*key, "name", "does not exist"))
        else:
            changes[key] = _change(key, None, stored)
    return tuple(changes.values()), tuple(problems)


def specs_after(
    changes: Sequence[ObjectChange], current: Mapping[ObjectKey, StoredObject]
) -> dict[ObjectKey, dict[str, Any]]:
    """Every spec as it would be after the changes."""
    specs = {key: stored.spec for key, stored in current.items()}
    for change in changes:
        if change.after is None:
            specs.pop(change.key, None)
        else:
            specs[change.key] = change.after
    return specs


def _change(
    key: ObjectKey, after: dict[str, Any] | None, stored: StoredObject | None
) -> ObjectChange:
    before = None if stored is None else stored.spec
    version = 0 if stored is None else stored.version
    return ObjectChange(*key, _action(before, after), version, before, after)


def _action(before: dict[str, Any] | None, after: dict[str, Any] | None) -> ChangeAction:
    if after is None:
        return ChangeAction.DELETE
    if before is None:
        return ChangeAction.CREATE
    return ChangeAction.UPDATE if differences(before, after) else ChangeAction.UNCHANGED
