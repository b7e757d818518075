"""Makes the audit events of this server: ids and time in one place, nothing else decided here.

An event that cannot be written raises, and the request that caused it is refused: what is not
recorded does not happen.
"""

from typing import Any

from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp
from audit_log.refusal_budgets import with_left_out
from authz_server.parts import Parts
from token_exchange.claims import Refusal
from token_exchange.identifiers import new_id


async def record(parts: Parts, event: EventType, outcome: Outcome, **fields: Any) -> AuditEvent:  # noqa: ANN401 - the struct names them
    """Make one event durable.

    Raises:
        SpoolUnavailable: It is not recorded; the caller must refuse.
    """
    return await parts.spool.record(made(parts, event, outcome, **fields))


def made(parts: Parts, event: EventType, outcome: Outcome, **fields: Any) -> AuditEvent:  # noqa: ANN401 - the struct names them
    """An event for the caller to write, with what it tells of (`audit_log.transaction_log`)."""
    return AuditEvent(
        event_id=new_id("evt", parts.random),
        timestamp=iso_timestamp(parts.clock()),
        type=event,
        outcome=outcome,
        snapshot_version=parts.live.snapshot.version,
        **fields,
    )


async def record_refusal(
    parts: Parts,
    event: EventType,
    refusal: Refusal,
    *,
    proved: str | None = None,
    **fields: Any,  # noqa: ANN401 - the struct names them
) -> None:
    """Make a refusal durable, with its code, its rule and what only the audit may know.

    `proved` is who proved themselves before the refusal, by default the logged-in `user`; the
    refusals of strangers share one budget (`audit_log.refusal_budgets`).
    """
    left_out = parts.refusal_budgets.admit(proved or fields.get("user"), parts.clock())
    if left_out is None:
        return
    await record(
        parts,
        event,
        Outcome.DENIED,
        error_code=refusal.code,
        reasons=(refusal.rule,),
        detail=with_left_out(refusal.detail, left_out),
        **fields,
    )
