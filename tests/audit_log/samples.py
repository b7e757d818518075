"""Events the tests of the audit log write."""

from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp

NOW = 1_800_000_000.0


def clock() -> float:
    return NOW


def intent(decision_id: str, *, outcome: Outcome = Outcome.ALLOWED) -> AuditEvent:
    return AuditEvent(
        event_id=f"evt_intent_{decision_id}",
        timestamp=iso_timestamp(NOW),
        type=EventType.CALL_DECIDED,
        outcome=outcome,
        decision_id=decision_id,
        agent="support-bot",
        user="usr_alice",
        target_service="crm",
        tool="crm/refund",
        policy_matched=("grant-refund",),
    )


def outcome_of(decision_id: str) -> AuditEvent:
    return AuditEvent(
        event_id=f"evt_outcome_{decision_id}",
        timestamp=iso_timestamp(NOW),
        type=EventType.CALL_FINISHED,
        outcome=Outcome.SUCCEEDED,
        decision_id=decision_id,
        agent="support-bot",
        tool="crm/refund",
    )
