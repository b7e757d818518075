"""A gateway tells of calls, and of nothing that is the authority's to tell."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from audit_log.event import AuditEvent, EventType, Outcome, PrincipalKind
from audit_log.gateway_events import GATEWAY_TYPES
from audit_log.search import MAXIMUM_DECISION_EVENTS
from audit_log.store import MAXIMUM_AHEAD, AuditStore, IngestRefusedError
from database.engine import Database
from tests.audit_log.samples import clock, intent, outcome_of

DEMO = "gateway.demo.0001"
OTHER = "gateway.other.0001"
AUTHORITY = "authz-server.0001"


@pytest.fixture
def store(database_url_with_tables: str) -> Iterator[AuditStore]:
    database = Database.open(database_url_with_tables)
    yield AuditStore(database, clock=clock)
    database.close()


def said(source: str, sequence: int, event: AuditEvent, **changes: Any) -> AuditEvent:
    changes = {"event_id": f"evt_{source}_{sequence}", **changes}
    return msgspec.structs.replace(event, source=source, sequence=sequence, **changes)


def ingest(store: AuditStore, *events: AuditEvent, high_water: int | None = None) -> int:
    last = events[-1].sequence if high_water is None else high_water
    return asyncio.run(store.ingest(events[0].source, last, events))


@pytest.mark.requirement("audit-gateway-kinds")
@pytest.mark.parametrize("kind", list(EventType))
def test_gateway_event_of_the_authoritys_kinds_is_refused(
    store: AuditStore, kind: EventType
) -> None:
    event = said(DEMO, 1, intent("dec_1"), type=kind)
    if kind in GATEWAY_TYPES:
        assert ingest(store, event) == 1
        return
    with pytest.raises(IngestRefusedError):
        ingest(store, event)
    assert store.sources() == ()
    assert ingest(store, said(AUTHORITY, 1, event)) == 1


@pytest.mark.requirement("audit-gateway-kinds")
@pytest.mark.parametrize(
    "changes",
    [
        {"user_name": "alice"},
        {"evidence": {"unix.uid": "0"}},
        {"author": "local/acc_olga"},
        {"object_ref": "Agent/support-bot"},
        {"token_issued": True},
        {"token_id": "tok_1"},
        {"ttl_seconds": 300},
        {"principal_kind": PrincipalKind.OPERATOR},
    ],
)
def test_gateway_event_with_a_field_of_the_authority_is_refused(
    store: AuditStore, changes: dict[str, Any]
) -> None:
    event = said(DEMO, 1, intent("dec_1"), **changes)
    with pytest.raises(IngestRefusedError):
        ingest(store, event)
    assert ingest(store, said(AUTHORITY, 1, event)) == 1


@pytest.mark.requirement("audit-push")
@pytest.mark.parametrize("high_water", [MAXIMUM_AHEAD + 2, 2**63, 10**30, -1])
def test_high_water_beyond_reason_is_refused(store: AuditStore, high_water: int) -> None:
    with pytest.raises(IngestRefusedError):
        asyncio.run(store.ingest(DEMO, high_water, ()))
    assert store.sources() == ()


@pytest.mark.requirement("audit-push")
def test_high_water_may_run_ahead_of_what_is_stored(store: AuditStore) -> None:
    ingest(store, said(DEMO, 1, intent("dec_1")), high_water=MAXIMUM_AHEAD)
    ingest(store, said(DEMO, 2, intent("dec_2")), high_water=MAXIMUM_AHEAD + 1)
    with pytest.raises(IngestRefusedError):
        ingest(store, said(DEMO, 3, intent("dec_3")), high_water=MAXIMUM_AHEAD + 3)


@pytest.mark.requirement("audit-gateway-kinds")
def test_decision_of_one_gateway_is_not_added_to_by_another(store: AuditStore) -> None:
    exchanged = AuditEvent(
        event_id="evt_exchanged",
        timestamp=intent("dec_1").timestamp,
        type=EventType.TOKEN_EXCHANGED,
        outcome=Outcome.SUCCEEDED,
        decision_id="dec_1",
        client_id="gateway:demo",
    )
    ingest(store, said(DEMO, 1, intent("dec_1", outcome=Outcome.DENIED)))
    forged = [
        said(OTHER, number, outcome_of("dec_1"))
        for number in range(1, MAXIMUM_DECISION_EVENTS + 10)
    ]
    ingest(store, *forged)
    ingest(store, said(AUTHORITY, 1, exchanged))
    ingest(store, said(AUTHORITY, 2, exchanged, client_id="gateway:other"))
    ingest(store, said(DEMO, 2, outcome_of("dec_1")))

    found = [(each.event.source, each.event.sequence) for each in store.get("dec_1")]

    assert found == [(DEMO, 1), (AUTHORITY, 1), (DEMO, 2)]


def test_decision_no_gateway_told_of_is_what_the_authority_says(store: AuditStore) -> None:
    ingest(store, said(AUTHORITY, 1, intent("dec_1"), client_id="gateway:demo"))

    assert [each.event.source for each in store.get("dec_1")] == [AUTHORITY]
