from datetime import datetime

import msgspec
import pytest

from admin_console import audit
from audit_log import completeness
from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp
from database.errors import DatabaseUnavailableError
from tests.admin_console.stack import AdminStack
from tests.admin_console.test_requests import spool_that_fills_up
from tests.token_exchange.signing import NOW

SOURCE = "gateway.demo.0001"


def decided(decision_id: str, sequence: int, outcome: Outcome) -> AuditEvent:
    return AuditEvent(
        event_id=f"evt_{sequence}",
        timestamp=iso_timestamp(NOW),
        type=EventType.CALL_DECIDED,
        outcome=outcome,
        source=SOURCE,
        sequence=sequence,
        decision_id=decision_id,
        agent="support-bot",
        user="usr_alice",
        tool="crm/refund",
        policy_matched=("guard-refund-limit",) if outcome is Outcome.DENIED else ("grant",),
        reasons=("Agents may not refund more than 500.",) if outcome is Outcome.DENIED else (),
        failed_conditions=("context.args.amount <= 500",) if outcome is Outcome.DENIED else (),
        policy_version=3,
    )


def finished(decision_id: str, sequence: int, outcome: Outcome) -> AuditEvent:
    return msgspec.structs.replace(
        decided(decision_id, sequence, Outcome.ALLOWED),
        type=EventType.CALL_FINISHED,
        outcome=outcome,
        latency_ms=3.1,
    )


def ingest(stack: AdminStack, *events: AuditEvent, high_water: int | None = None) -> None:
    last = events[-1].sequence if high_water is None else high_water
    stack.run(stack.parts.audit_store.ingest(SOURCE, last, events))


@pytest.mark.requirement("audit-counted")
def test_audit_of_a_log_too_large_to_count_says_since_when_it_did(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completeness, "MAXIMUM_COUNTED_OF_SOURCE", 1)
    ingest(stack, decided("dec_1", 1, Outcome.ALLOWED), finished("dec_1", 2, Outcome.SUCCEEDED))

    answer = stack.call("GET", "/audit?agent=support-bot", who="usr_vera").json

    assert (answer["complete"], answer["gaps"]) == (False, [])
    assert datetime.fromisoformat(answer["counted_since"]).timestamp() == NOW


@pytest.mark.requirement("C59")
def test_audit_answers_flat_events_and_says_that_it_is_complete(stack: AdminStack) -> None:
    before = len(stack.events(EventType.OBJECT_CHANGED))
    ingest(
        stack,
        decided("dec_1", 1, Outcome.ALLOWED),
        finished("dec_1", 2, Outcome.SUCCEEDED),
        decided("dec_2", 3, Outcome.DENIED),
    )

    answer = stack.call("GET", "/audit?agent=support-bot&outcome=denied", who="usr_vera").json

    assert (answer["complete"], answer["gaps"], answer["silent"]) == (True, [], [])
    assert answer["next_before"] is answer["counted_since"] is None
    (event,) = answer["events"]
    assert (event["decision_id"], event["policy_matched"]) == ("dec_2", ["guard-refund-limit"])
    assert event["timestamp"] == iso_timestamp(NOW)
    assert event["position"] == before + 3


@pytest.mark.requirement("audit-complete")
def test_audit_with_missing_events_says_which(stack: AdminStack) -> None:
    ingest(stack, decided("dec_1", 2, Outcome.ALLOWED), high_water=4)

    answer = stack.call("GET", "/audit").json

    assert answer["complete"] is False
    assert answer["gaps"] == [
        {"source": SOURCE, "first": 1, "last": 1},
        {"source": SOURCE, "first": 3, "last": 4},
    ]


@pytest.mark.requirement("audit-search")
def test_audit_is_paged_by_cursor(stack: AdminStack) -> None:
    ingest(stack, *(decided(f"dec_{n}", n, Outcome.ALLOWED) for n in range(1, 6)))

    first = stack.call("GET", "/audit?limit=2").json
    second = stack.call("GET", f"/audit?limit=2&before={first['next_before']}").json

    assert [each["sequence"] for each in first["events"]] == [5, 4]
    assert [each["sequence"] for each in second["events"]] == [3, 2]


@pytest.mark.requirement("audit-search")
def test_audit_takes_times_with_an_offset(stack: AdminStack) -> None:
    ingest(stack, decided("dec_1", 1, Outcome.ALLOWED))

    path = "/audit?agent=support-bot&since=2027-01-15T08:00:00"
    inside = stack.call("GET", f"{path}Z&until=2027-01-15T08:00:00Z")
    outside = stack.call("GET", f"{path}.001Z")

    assert (len(inside.json["events"]), len(outside.json["events"])) == (1, 0)


@pytest.mark.requirement("B4")
def test_decision_recorded_as_denied_is_explained(stack: AdminStack) -> None:
    ingest(stack, decided("dec_2", 1, Outcome.DENIED))

    answer = stack.call("GET", "/audit/decisions/dec_2", who="usr_vera").json

    assert (answer["allowed"], answer["outcome"]) == (False, "denied")
    assert answer["policies"] == ["guard-refund-limit"]
    assert answer["failed_conditions"] == ["context.args.amount <= 500"]
    assert answer["reasons"] == ["Agents may not refund more than 500."]


@pytest.mark.requirement("B4")
def test_decision_without_outcome_yet_is_unknown_then_has_one(stack: AdminStack) -> None:
    ingest(stack, decided("dec_1", 1, Outcome.ALLOWED))
    before = stack.call("GET", "/audit/decisions/dec_1").json
    ingest(stack, finished("dec_1", 2, Outcome.SUCCEEDED))
    after = stack.call("GET", "/audit/decisions/dec_1").json

    assert (before["allowed"], before["outcome"]) == (True, "unknown")
    assert (after["outcome"], len(after["events"])) == ("succeeded", 2)


def test_operator_closes_a_source_and_the_audit_says_who(stack: AdminStack) -> None:
    ingest(stack, decided("dec_1", 1, Outcome.ALLOWED), high_water=900)

    refused = stack.call("DELETE", f"/audit/sources/{SOURCE}", who="usr_vera")
    unknown = stack.call("DELETE", "/audit/sources/gateway.demo.none", who="usr_olga")
    closed = stack.call("DELETE", f"/audit/sources/{SOURCE}", who="usr_olga")

    assert (refused.status, unknown.status, closed.status) == (403, 404, 200)
    assert (closed.json["source"], closed.json["ended"]) == (SOURCE, True)
    assert closed.json in stack.call("GET", "/audit/sources", who="usr_vera").json["sources"]
    (event,) = stack.events(EventType.SOURCE_CLOSED)
    assert event.author is not None
    assert event.detail == f"{SOURCE} at 900"


@pytest.mark.requirement("trap-act-unrecorded")
def test_source_is_closed_with_its_record_or_not_at_all(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(stack, decided("dec_1", 1, Outcome.ALLOWED), high_water=900)

    def broken(*_: object) -> None:
        raise DatabaseUnavailableError("full")

    with monkeypatch.context() as patched:
        patched.setattr(audit, "append_in", broken)
        refused = stack.call("DELETE", f"/audit/sources/{SOURCE}", who="usr_olga")
    sources = stack.call("GET", "/audit/sources", who="usr_vera").json["sources"]
    (before,) = (each for each in sources if each["source"] == SOURCE)
    with spool_that_fills_up(stack, monkeypatch):  # of no concern to what is recorded with itself
        closed = stack.call("DELETE", f"/audit/sources/{SOURCE}", who="usr_olga")

    assert (refused.status, before["ended"]) == (503, False)
    assert (closed.status, closed.json["ended"]) == (200, True)
    assert len(stack.events(EventType.SOURCE_CLOSED)) == 1
