"""Whether what was measured was the whole product: every call audited, every decision right.

Afterwards, from the database: as many intents as calls were answered (a run ends by closing its
connections, so up to one call of each may be recorded and not answered), one outcome for each
intent that allowed, no more calls at the MCP server than intents, nothing missing from the log;
and one decision in a hundred is made again from the declared objects, without any cache, and must
be the one recorded. If anything of this fails, the gateway row is void.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, select

from audit_log.completeness import completeness
from audit_log.event import AuditEvent, EventType, Outcome
from audit_log.event_rows import EVENTS
from bench import declared
from bench.product import Product
from bench.requests import call_arguments
from countersign.composition import settings_models
from database.engine import Database
from mcp_gateway.audit_trail import argument_digest
from mcp_gateway.compiled_view import CompiledView, compile_view
from policies.entities import AgentFacts, CallRequest, RunFacts, UserFacts
from registry.blocks import BlockState
from registry.publisher import compile_snapshot, enforcement_view

SAMPLED_OF: Final = 100
SETTLE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5
_decode: Final = msgspec.json.Decoder(AuditEvent).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What the load generator and the stub saw of our gateway."""

    answered: int
    cut_at_most: int
    at_upstream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the audit has of them. `outcomes` by how the call ended."""

    allowed: int
    denied: int
    decisions: int
    outcomes: Mapping[str, int]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found, and what speaks against counting the row."""

    recorded: Recorded
    sampled: int
    problems: tuple[str, ...]


def examine(product: Product, calls: Calls) -> Evidence:
    """Wait until the log has settled, then hold it against the calls."""
    database = Database.open(product.database_url)
    try:
        recorded = _settled(database, calls)
        events = database.read(_sampled_intents)
        view = _fresh_view(database, product.stack.issuer)
    finally:
        database.close()
    problems = (*count_problems(calls, recorded), *decision_problems(events, view))
    return Evidence(recorded, len(events), problems)


def count_problems(calls: Calls, recorded: Recorded) -> tuple[str, ...]:
    """Where the numbers of calls and of audit rows do not fit. Pure."""
    intents = recorded.allowed + recorded.denied
    finished = sum(recorded.outcomes.values())
    succeeded = recorded.outcomes.get(Outcome.SUCCEEDED, 0)
    cancelled = recorded.outcomes.get(Outcome.CANCELLED, 0)
    checks = {
        "the audit is not complete": recorded.is_complete,
        f"{calls.answered} calls were answered, {intents} intents are recorded": calls.answered
        <= intents
        <= calls.answered + calls.cut_at_most,
        f"{recorded.allowed} calls were allowed, {finished} outcomes are recorded": finished
        == recorded.allowed,
        f"{intents} intents have {recorded.decisions} decision ids": recorded.decisions == intents,
        f"{calls.at_upstream} calls reached the server, {recorded.allowed} were allowed": (
            recorded.allowed - calls.cut_at_most <= calls.at_upstream <= recorded.allowed
        ),
        f"outcomes besides success: {dict(recorded.outcomes)}": finished == succeeded + cancelled
        and cancelled <= calls.cut_at_most,
    }
    return tuple(problem for problem, holds in checks.items() if not holds)


def _settled(database: Database, calls: Calls) -> Recorded:
    """What is recorded once it no longer grows and adds up, or when the time is over."""
    deadline = time.monotonic() + SETTLE_SECONDS
    recorded = database.read(_recorded)
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        before, recorded = recorded, database.read(_recorded)
        if recorded == before and not count_problems(calls, recorded):
            break
    return recorded


def _recorded(connection: Connection) -> Recorded:
    by_kind: Counter[tuple[str, str]] = Counter()
    query = select(EVENTS.c.type, EVENTS.c.outcome, func.count()).group_by(
        EVENTS.c.type, EVENTS.c.outcome
    )
    for kind, outcome, count in connection.execute(query):
        by_kind[kind, outcome] = count
    decisions = select(func.count(EVENTS.c.decision_id.distinct())).where(
        EVENTS.c.type == EventType.CALL_DECIDED
    )
    return Recorded(
        allowed=by_kind[EventType.CALL_DECIDED, Outcome.ALLOWED],
        denied=by_kind[EventType.CALL_DECIDED, Outcome.DENIED],
        decisions=connection.scalar(decisions) or 0,
        outcomes={
            outcome: count
            for (kind, outcome), count in sorted(by_kind.items())
            if kind == EventType.CALL_FINISHED
        },
        is_complete=completeness(
            connection, since_ms=None, now_ms=int(time.time() * 1000), is_bounded=False
        ).complete,
    )


def _sampled_intents(connection: Connection) -> list[AuditEvent]:
    intents = select(EVENTS.c.position).where(EVENTS.c.type == EventType.CALL_DECIDED)
    positions = connection.scalars(intents.order_by(EVENTS.c.position)).all()[::SAMPLED_OF]
    bodies = [
        connection.scalar(select(EVENTS.c.body).where(EVENTS.c.position == position))
        for position in positions
    ]
    return [_decode(body or "") for body in bodies]


def _fresh_view(database: Database, issuer: str) -> CompiledView:
    """The gateway's view compiled anew from what is declared."""
    models = settings_models()
    snapshot = database.read(
        lambda connection: compile_snapshot(connection, issuer=issuer, settings_models=models)
    )
    now = int(time.time())
    view = enforcement_view(snapshot, declared.GATEWAY, BlockState(), (), now, 1.0)
    if view is None:
        raise LookupError(declared.GATEWAY)
    return compile_view(view, 0)


def decision_problems(events: Iterable[AuditEvent], view: CompiledView) -> list[str]:
    """The recorded decisions that are not what the policies say without any cache. Pure."""
    arguments = {argument_digest(each): each for each in call_arguments()}
    problems = []
    for event in events:
        given = arguments.get(event.argument_digest or "")
        if given is None:
            problems.append("a recorded digest is of arguments that were never sent")
            continue
        policies = view.policies
        decision = None if policies is None else policies.decide_call(_request(event, given, view))
        recorded = (event.outcome is Outcome.ALLOWED, event.policy_matched)
        if decision is None or (decision.allowed, decision.policies) != recorded:
            problems.append(f"decision {event.decision_id} is not what a fresh evaluation says")
    return problems


def _request(event: AuditEvent, arguments: dict[str, Any], view: CompiledView) -> CallRequest:
    """What the gateway decided on: everybody of the load has the same groups and attestation."""
    agent = view.agents[event.agent or ""]
    endpoint = next(iter(view.endpoints.values()))
    return CallRequest(
        agent=AgentFacts(agent.name, agent.groups, agent.environment, 1, "unix_process"),
        user=UserFacts(event.user or "", (declared.GROUP,)),
        run=RunFacts(event.session, event.invocation, event.transaction),
        now_ms=int(time.time() * 1000),
        tool=endpoint.tools[event.tool or ""].facts,
        arguments=arguments,
    )
