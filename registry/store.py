"""The declared objects: plan a change, apply it, read what is there.

A plan never writes: it says what would change, field by field, and everything that is wrong at
once. Order of its checks: the documents themselves, every spec against its model, references and
uniqueness over the whole set, then the policies. `apply` makes the same plan again inside the write
transaction, so that what is stored was checked against what is stored; if an object was changed by
somebody else in between, the operator has not seen that and is asked to look again.

Applying an empty plan takes in the policy documents that a new release ships.

Left out: who may do this, YAML, and the audit events (the callers', in the same write: `also`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from database.engine import Database
from registry.admin_roles import role_problems
from registry.changes import (
    ChangePlan,
    MachineCheck,
    ObjectChange,
    planned_changes,
    specs_after,
)
from registry.counters import REGISTRY_VERSION, next_value, value_of
from registry.declared import DeclaredSet, ObjectKey, Problem, SettingsModels
from registry.enrolment import forget_gateway
from registry.history import ChangeAction, HistoryEntry, append_history, history_of
from registry.object_rows import (
    StoredObject,
    create_objects,
    delete_object,
    replace_object,
    stored_object,
    stored_objects,
)
from registry.objects import DeclaredObject
from registry.policy_activation import (
    Activated,
    PolicyCompiler,
    PolicyProblem,
    PolicyState,
    activate_policies,
    judge_policies,
    policy_state,
    unrecorded,
)
from registry.policy_compiler import compile_policies
from registry.policy_sets import newest_documents
from registry.publisher import StoredRegistry, build_snapshot, read_stored
from registry.references import problems_of
from registry.shipped_policies import shipped_policies
from registry.snapshot import PolicyDocument, RegistrySnapshot
from registry.tool_definitions import forget_server

Clock = Callable[[], float]


def _no_machine(_changes: Sequence[ObjectChange], _declared: DeclaredSet) -> tuple[Problem, ...]:
    """A store outside a server knows of no machine."""
    return ()


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """What an apply did. `version` is the registry's; nothing changed leaves it as it was."""

    version: int
    changes: tuple[ObjectChange, ...]
    policies: PolicyState


class PlanRefusedError(Exception):
    """A plan with problems cannot be applied."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(
            "; ".join(f"{each.kind}/{each.name} {each.field}: {each.message}" for each in problems)
        )
        self.problems = problems


class PlanOutdatedError(Exception):
    """Somebody changed one of the objects after the plan was made."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A plan with what is needed to carry it out."""

    plan: ChangePlan
    documents: tuple[PolicyDocument, ...]
    after: RegistrySnapshot | None


class RegistryStore:
    """Declared objects in the database."""

    def __init__(
        self,
        database: Database,
        *,
        issuer: str,
        settings_models: SettingsModels,
        clock: Clock,
        compiler: PolicyCompiler = compile_policies,
        machine_check: MachineCheck = _no_machine,
        activated: Activated = unrecorded,
    ) -> None:
        """`machine_check`: what only the server can say of a change, knowing its own machine."""
        self._database = database
        self._issuer = issuer
        self._settings_models = settings_models
        self._clock = clock
        self._compiler = compiler
        self._machine_check = machine_check
        self._activated = activated
        self._shipped = shipped_policies()

    def plan(
        self, objects: Sequence[DeclaredObject], *, delete: Sequence[ObjectKey] = ()
    ) -> ChangePlan:
        """What these documents would change. Nothing is written."""
        return self._database.read(lambda connection: self._judge(connection, objects, delete).plan)

    async def apply(
        self,
        plan: ChangePlan,
        author: str,
        *,
        first: Callable[[Connection], None] = lambda _: None,
        also: Callable[[Connection, AppliedChange], None] = lambda _, __: None,
    ) -> AppliedChange:
        """Carry out a plan, whole or not at all; `first` and `also` with it, and either may raise.

        Raises:
            PlanRefusedError: It has problems, or would have by now.
            PlanOutdatedError: One of its objects was changed since.
        """

        def work(connection: Connection) -> AppliedChange:
            first(connection)
            applied = self._apply(connection, plan, author)
            also(connection, applied)
            return applied

        return await self._database.write(work)

    def get(self, kind: str, name: str) -> StoredObject | None:
        """One object as declared."""
        return self._database.read(lambda connection: stored_object(connection, kind, name))

    def list(self, kind: str | None = None) -> tuple[StoredObject, ...]:
        """The objects of one kind, or all, in order of kind and name."""
        found = self._database.read(stored_objects).values()
        return tuple(each for each in found if kind is None or each.kind == kind)

    def history(self, kind: str, name: str) -> tuple[HistoryEntry, ...]:
        """The versions of one object, newest first."""
        return self._database.read(lambda connection: history_of(connection, kind, name))

    def policy_state(self) -> PolicyState:
        """Which policy set is live, and what a newer one waits for."""
        return self._database.read(policy_state)

    def _judge(
        self,
        connection: Connection,
        objects: Sequence[DeclaredObject],
        delete: Sequence[ObjectKey],
    ) -> _Judged:
        stored = read_stored(connection)
        changes, problems = planned_changes(objects, delete, stored.objects)
        declared, invalid = DeclaredSet.of(
            specs_after(changes, stored.objects), self._settings_models
        )
        found = (*problems, *invalid)
        if not found:
            found = (
                *problems_of(declared, self._issuer),
                *role_problems(stored.objects, declared),
            )
        if not found:
            effective = [each for each in changes if each.action is not ChangeAction.UNCHANGED]
            found = tuple(self._machine_check(effective, declared))
        if found:
            return _Judged(ChangePlan(stored.version, changes, found), (), None)
        return self._judge_policies(connection, stored, changes, declared)

    def _judge_policies(
        self,
        connection: Connection,
        stored: StoredRegistry,
        changes: tuple[ObjectChange, ...],
        declared: DeclaredSet,
    ) -> _Judged:
        after = build_snapshot(declared, stored, self._issuer)
        documents = self._documents(declared)
        outcome = judge_policies(connection, documents, after, self._compiler)
        problems = tuple(_policy_problem(each) for each in outcome.problems)
        hints = tuple(_policy_problem(each) for each in outcome.hints)
        plan = ChangePlan(stored.version, changes, problems, outcome.waiting_for, hints)
        return _Judged(plan, documents, after)

    def _documents(self, declared: DeclaredSet) -> tuple[PolicyDocument, ...]:
        """The candidate: without a single declared Policy there is none, which denies all."""
        own = declared.of_kind("Policy")
        if not own:
            return ()
        return (
            *self._shipped,
            *(PolicyDocument(name, each.spec.cedar) for name, each in sorted(own.items())),
        )

    def _apply(self, connection: Connection, plan: ChangePlan, author: str) -> AppliedChange:
        if plan.problems:
            raise PlanRefusedError(plan.problems)
        objects = [
            DeclaredObject.model_validate(
                {"kind": each.kind, "name": each.name, "spec": each.after}
            )
            for each in plan.changes
            if each.after is not None
        ]
        deleted = [each.key for each in plan.changes if each.action is ChangeAction.DELETE]
        self._require_current(connection, plan)
        judged = self._judge(connection, objects, deleted)
        if judged.plan.problems or judged.after is None:
            raise PlanRefusedError(judged.plan.problems)
        changes = judged.plan.effective
        if not changes and judged.documents == newest_documents(connection):
            version = value_of(connection, REGISTRY_VERSION)
            return AppliedChange(version, (), policy_state(connection))
        at_ms = int(self._clock() * 1000)
        version = next_value(connection, REGISTRY_VERSION)
        _write_changes(connection, changes, version=version, author=author, at_ms=at_ms)
        policies = activate_policies(
            connection,
            judged.documents,
            judged.after,
            self._compiler,
            author=author,
            at_ms=at_ms,
            activated=self._activated,
        )
        return AppliedChange(version, changes, policies)

    @staticmethod
    def _require_current(connection: Connection, plan: ChangePlan) -> None:
        stored = stored_objects(connection)
        for change in plan.changes:
            now = stored.get(change.key)
            if (0 if now is None else now.version) != change.base_version:
                raise PlanOutdatedError(f"{change.kind}/{change.name} was changed in between")


def _write_changes(
    connection: Connection,
    changes: Sequence[ObjectChange],
    *,
    version: int,
    author: str,
    at_ms: int,
) -> None:
    created = []
    for change in changes:
        if change.after is None:
            delete_object(connection, change.kind, change.name)
            _FORGET.get(change.kind, _nothing)(connection, change.name)
            continue
        stored = StoredObject(*change.key, change.after, version, author, at_ms)
        if change.action is ChangeAction.CREATE:
            created.append(stored)
        else:
            replace_object(connection, stored)
    create_objects(connection, created)
    append_history(
        connection,
        [
            (each.key, HistoryEntry(version, each.action, each.after, author, at_ms))
            for each in changes
        ],
    )


def _nothing(_connection: Connection, _name: str) -> None:
    """Most kinds leave nothing behind."""


# What belongs to an object goes with it: a later object of that name is another one.
_FORGET = {"Gateway": forget_gateway, "McpServer": forget_server}


def _policy_problem(problem: PolicyProblem) -> Problem:
    where = f"spec.cedar:{problem.line}" if problem.line else "spec.cedar"
    policy = f"{problem.policy}: " if problem.policy else ""
    return Problem("Policy", problem.document, where, policy + problem.message)
