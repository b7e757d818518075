"""Decides after every change whether the policy set it leads to is live, waits or is refused.

Order: (1) when the documents changed, compile the new candidate: a real problem refuses the
change, a tool not yet approved makes the candidate wait; (2) otherwise try the waiting candidate
again; (3) INVARIANT: the set that is live afterwards compiles against the servers and approved
tools as they are afterwards, else the change is refused. A gateway is therefore never sent
policies it cannot compile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from registry.policy_sets import (
    keep_waiting,
    live_set,
    make_live,
    newest_documents,
    store_candidate,
    waiting_set,
)
from registry.snapshot import PolicyDocument, PolicySetEntry, RegistrySnapshot

ACTIVE: Final = "active"
WAITING: Final = "waiting_for"


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """Why a set does not compile: `line` is 1-based in the document, 0 when unknown."""

    document: str
    policy: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class PolicyOutcome:
    """What compiling a set said.

    `waiting_for`: tools as `server/tool` that are not approved; `hints`: which of them may be
    misspelt.
    """

    problems: tuple[PolicyProblem, ...] = ()
    waiting_for: tuple[str, ...] = ()
    hints: tuple[PolicyProblem, ...] = ()

    @property
    def compiles(self) -> bool:
        """Whether the set may be live."""
        return not self.problems and not self.waiting_for


@dataclass(frozen=True, slots=True)
class PolicyState:
    """Where policies stand: `state` is active or waiting_for."""

    state: str
    live_version: int
    waiting_for: tuple[str, ...] = ()


class PolicyRefusedError(Exception):
    """A change would leave a policy set that does not compile."""

    def __init__(self, problems: tuple[PolicyProblem, ...]) -> None:
        super().__init__("; ".join(f"{each.document}: {each.message}" for each in problems))
        self.problems = problems


PolicyCompiler = Callable[[PolicySetEntry, RegistrySnapshot], PolicyOutcome]

# Called inside the write that makes a policy set live: its version, who caused it, when (Unix ms).
Activated = Callable[[Connection, int, str, int], None]


def unrecorded(_connection: Connection, _version: int, _author: str, _at_ms: int) -> None:
    """A registry outside a server has no audit."""


def judge_policies(
    connection: Connection,
    documents: tuple[PolicyDocument, ...],
    after: RegistrySnapshot,
    compiler: PolicyCompiler,
) -> PolicyOutcome:
    """What `activate_policies` would say; `problems` are those that would refuse the change."""
    live = live_set(connection)
    candidate = _candidate(connection, documents)
    outcome = PolicyOutcome() if candidate is None else compiler(candidate, after)
    if outcome.problems or (candidate is not None and outcome.compiles):
        return outcome
    broken = _broken_live_set(compiler(live, after))
    return PolicyOutcome(broken, outcome.waiting_for, outcome.hints)


def activate_policies(
    connection: Connection,
    documents: tuple[PolicyDocument, ...],
    after: RegistrySnapshot,
    compiler: PolicyCompiler,
    *,
    author: str,
    at_ms: int,
    activated: Activated,
) -> PolicyState:
    """Inside a write: store what changed of the policy sets; `activated` if another one is live.

    Raises:
        PolicyRefusedError: The change cannot be; nothing of it may be committed.
    """
    outcome = judge_policies(connection, documents, after, compiler)
    if outcome.problems:
        raise PolicyRefusedError(outcome.problems)
    before, waiting = live_set(connection).version, waiting_set(connection)
    if documents != newest_documents(connection):
        store_candidate(connection, documents, outcome.waiting_for, author=author, at_ms=at_ms)
    elif waiting is not None and outcome.compiles:
        make_live(connection, waiting.entry.version, at_ms)
    elif waiting is not None and waiting.waiting_for != outcome.waiting_for:
        keep_waiting(connection, waiting.entry.version, outcome.waiting_for)
    state = policy_state(connection)
    if state.live_version != before:
        activated(connection, state.live_version, author, at_ms)
    return state


def policy_state(connection: Connection) -> PolicyState:
    """Where policies stand now."""
    waiting = waiting_set(connection)
    version = live_set(connection).version
    if waiting is None:
        return PolicyState(ACTIVE, version)
    return PolicyState(WAITING, version, waiting.waiting_for)


def _candidate(
    connection: Connection, documents: tuple[PolicyDocument, ...]
) -> PolicySetEntry | None:
    """The set that would become live, None when the live one is the newest."""
    waiting = waiting_set(connection)
    if documents != newest_documents(connection):
        # Its number is not known before it is stored; compiling does not need it.
        return PolicySetEntry(0, documents)
    return None if waiting is None else waiting.entry


def _broken_live_set(outcome: PolicyOutcome) -> tuple[PolicyProblem, ...]:
    missing = tuple(
        PolicyProblem("", "", 0, f"the live policy set names {tool}, which would no longer exist")
        for tool in outcome.waiting_for
    )
    return (*outcome.problems, *missing)
