"""What Gateways find of servers: one row each, since when, and forgotten when nobody reports."""

import pytest

from database.engine import Database
from registry.server_reports import FORGET_AFTER_MS, MAXIMUM_ERROR_LENGTH, ServerReportStore

pytestmark = pytest.mark.anyio


async def test_report_is_kept_once_per_gateway_and_server(database: Database) -> None:
    store = ServerReportStore(database)
    await store.record("main", "crm", error="", era="modern", now_ms=1_000)
    await store.record("main", "crm", error="", era="legacy", now_ms=2_000)
    await store.record("second", "crm", error="x" * 999, era="", now_ms=3_000)

    first, second = store.all()

    assert (first.gateway, first.era, first.reported_at_ms) == ("main", "legacy", 2_000)
    assert first.is_reachable
    assert not second.is_reachable
    assert len(second.error) == MAXIMUM_ERROR_LENGTH


async def test_report_says_since_when_it_is_so(database: Database) -> None:
    store = ServerReportStore(database)
    for now_ms, error in ((1_000, ""), (2_000, "away"), (3_000, "away"), (4_000, "")):
        await store.record("main", "crm", error=error, era="", now_ms=now_ms)
        (report,) = store.all()
        assert report.since_ms == {1_000: 1_000, 2_000: 2_000, 3_000: 2_000, 4_000: 4_000}[now_ms]


async def test_report_that_nobody_renews_is_forgotten(database: Database) -> None:
    store = ServerReportStore(database)
    await store.record("gone", "crm", error="", era="", now_ms=1_000)
    await store.record("main", "crm", error="", era="", now_ms=FORGET_AFTER_MS + 1_001)
    assert [each.gateway for each in store.all()] == ["main"]
