"""How it becomes an audit event that another policy set decides.

It is written in the transaction that makes the set live, whatever caused that: an operator's change
or approval, a tool that a gateway saw and that is approved by itself, or a newer release.
"""

from collections.abc import Callable

from sqlalchemy import Connection

from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp
from audit_log.transaction_log import append_in
from registry.policy_activation import Activated
from token_exchange.identifiers import new_id


def activation_recorder(random: Callable[[int], bytes]) -> Activated:
    """Writes each activation, with who caused it."""

    def record(connection: Connection, version: int, author: str, at_ms: int) -> None:
        event = AuditEvent(
            event_id=new_id("evt", random),
            timestamp=iso_timestamp(at_ms / 1000),
            type=EventType.POLICY_ACTIVATED,
            outcome=Outcome.SUCCEEDED,
            author=author,
            policy_version=version,
        )
        append_in(connection, (event,), at_ms)

    return record
