"""Searching the audit, and explaining one recorded decision."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from anyio import to_thread
from pydantic import AwareDatetime, Field
from sqlalchemy import Connection

from admin_console.errors import not_found
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.wire import Wire
from audit_log.event import EventType, Outcome
from audit_log.search import AuditFilter, FoundEvent
from audit_log.store import MAXIMUM_PAGE, SourceStatus, UnknownSourceError
from audit_log.transaction_log import append_in

Text = Field(default=None, min_length=1, max_length=512)


class AuditQuery(Wire):
    """What must be equal. `since` and `until` are ISO 8601 with an offset; `before` is a cursor."""

    agent: str | None = Text
    user: str | None = Text
    tool: str | None = Text
    target: str | None = Text
    type: EventType | None = None
    outcome: Outcome | None = None
    decision: str | None = Text
    session: str | None = Text
    invocation: str | None = Text
    transaction: str | None = Text
    object: str | None = Text
    author: str | None = Text
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: int = Field(default=100, ge=1, le=MAXIMUM_PAGE)
    before: int | None = Field(default=None, ge=1, lt=2**63)


class GapItem(Wire):
    """Events `first`..`last` of a source are missing."""

    source: str
    first: int
    last: int


class AuditAnswer(Wire):
    """One page, newest first; `next_before` continues it, also where nothing was found so far.

    An event has the fields of docs/audit.md, and `position` and `received_at`. `complete` is false
    when events are known to be missing (`gaps`), a source was not heard of (`silent`), or there are
    events of one of which there is no record (`unknown`); what happened after `as_of` may not have
    arrived yet. `counted_since`: the log is too large to count all that was asked for; of what
    happened until then it is not known, and `complete` is false.
    """

    events: list[dict[str, Any]]
    next_before: int | None
    complete: bool
    gaps: list[GapItem]
    silent: list[str]
    unknown: list[str]
    as_of: datetime
    counted_since: datetime | None


class SourceItem(Wire):
    """One source of events; `ended`: nothing more is expected of it."""

    source: str
    high_water: int
    ended: bool
    reported_at: datetime


class SourcesAnswer(Wire):
    """Every source that ever reported."""

    sources: list[SourceItem]


class DecisionAnswer(Wire):
    """Why a call was allowed or not, as recorded; `outcome` is unknown while there is none.

    `failed_conditions` name what would have to be different.
    """

    decision_id: str
    allowed: bool | None
    outcome: str
    agent: str | None
    user: str | None
    tool: str | None
    policies: list[str]
    reasons: list[str]
    failed_conditions: list[str]
    policy_version: int | None
    events: list[dict[str, Any]]


async def search(call: AdminCall) -> AuditAnswer:
    """Events that match, and whether the answer is complete."""
    query = call.query_as(AuditQuery)
    wanted = AuditFilter(
        agent=query.agent,
        user=query.user,
        tool=query.tool,
        target_service=query.target,
        type=query.type,
        outcome=query.outcome,
        decision_id=query.decision,
        session=query.session,
        invocation=query.invocation,
        transaction=query.transaction,
        object_ref=query.object,
        author=query.author,
        since_ms=_milliseconds(query.since),
        until_ms=_milliseconds(query.until),
    )
    store = call.parts.audit_store
    found = await to_thread.run_sync(
        lambda: store.search(wanted, limit=query.limit, before=query.before)
    )
    return AuditAnswer(
        events=[_event(each) for each in found.events],
        next_before=found.next_before,
        complete=found.completeness.complete,
        gaps=[
            GapItem(source=gap.source, first=gap.first, last=gap.last)
            for gap in found.completeness.gaps
        ],
        silent=list(found.completeness.silent),
        unknown=list(found.completeness.unknown),
        as_of=moment(found.completeness.as_of_ms),
        counted_since=None
        if found.completeness.counted_since_ms is None
        else moment(found.completeness.counted_since_ms),
    )


async def list_sources(call: AdminCall) -> SourcesAnswer:
    """Where events come from."""
    found = await to_thread.run_sync(call.parts.audit_store.sources)
    return SourcesAnswer(sources=[_source(each) for each in found])


async def close_source(call: AdminCall) -> SourceItem:
    """Wait for a source no more: its process is gone, or it lied."""
    source = call.path["source"]

    def recorded(connection: Connection, closed: SourceStatus) -> None:
        detail = f"{source} at {closed.high_water}"
        event = call.made(EventType.SOURCE_CLOSED, Outcome.SUCCEEDED, detail=detail)
        append_in(connection, (event,), call.now_ms)

    # INVARIANT: no search becomes complete by an end that the audit does not know of.
    try:
        closed = await call.parts.audit_store.close_source(source, also=recorded)
    except UnknownSourceError as error:
        raise not_found("Nothing of that source was ever heard.") from error
    return _source(closed)


async def explain_decision(call: AdminCall) -> DecisionAnswer:
    """What the gateway that decided and the authority recorded under one decision id."""
    decision_id = call.path["decision_id"]
    found = await to_thread.run_sync(call.parts.audit_store.get, decision_id)
    if not found:
        raise not_found("Nothing is recorded under that decision id.")
    events = [each.event for each in found]
    decided = next((each for each in events if each.type is EventType.CALL_DECIDED), None)
    ended = next((each for each in events if each.type is EventType.CALL_FINISHED), None)
    about = decided or events[0]
    allowed = None if decided is None else decided.outcome is Outcome.ALLOWED
    return DecisionAnswer(
        decision_id=decision_id,
        allowed=allowed,
        outcome=Outcome.DENIED
        if allowed is False
        else (Outcome.UNKNOWN if ended is None else ended.outcome),
        agent=about.agent,
        user=about.user,
        tool=about.tool,
        policies=list(about.policy_matched),
        reasons=list(about.reasons),
        failed_conditions=list(about.failed_conditions),
        policy_version=about.policy_version,
        events=[_event(each) for each in found],
    )


def _source(status: SourceStatus) -> SourceItem:
    return SourceItem(
        source=status.source,
        high_water=status.high_water,
        ended=status.is_stopped,
        reported_at=moment(status.reported_at_ms),
    )


def _event(found: FoundEvent) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(found.event)
    received_at = moment(found.received_at_ms).isoformat(timespec="milliseconds")
    return {**fields, "position": found.position, "received_at": received_at}


def _milliseconds(when: datetime | None) -> int | None:
    return None if when is None else round(when.astimezone(UTC).timestamp() * 1000)
