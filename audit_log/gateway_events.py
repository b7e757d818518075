"""What a gateway may write into the audit. Pure.

A gateway speaks of calls and of itself. Attack: one that was taken over, or lies, would else put
logins, consents, changes by an operator or issued tokens into the log, beside the authority's own.
Its word on a call remains its word: the source names it.
"""

from typing import Final

from audit_log.event import AuditEvent, EventType, PrincipalKind

SOURCE_PREFIX: Final = "gateway."

GATEWAY_TYPES: Final = frozenset(
    {
        EventType.CALLER_REFUSED,
        EventType.CALL_DECIDED,
        EventType.CALL_FINISHED,
        EventType.CALL_REFUSED,
        EventType.STREAM_CLOSED,
        EventType.SOURCE_STARTED,
        EventType.SOURCE_STOPPED,
    }
)
# What only the authority knows, or does: names, evidence, changes, tokens.
AUTHORITY_FIELDS: Final = (
    "user_name",
    "evidence",
    "author",
    "object_ref",
    "token_issued",
    "token_id",
    "ttl_seconds",
)


def gateway_event_problem(event: AuditEvent) -> str | None:
    """Why a gateway may not have written this event, or None."""
    if event.type not in GATEWAY_TYPES:
        return f"a gateway does not write {event.type}"
    if event.principal_kind is PrincipalKind.OPERATOR:
        return "a gateway serves no operator"
    for name in AUTHORITY_FIELDS:
        if getattr(event, name):
            return f"a gateway may not set {name}"
    return None
