"""Reading a realm's feeds: nothing twice, nothing left out, never more than a poll's worth."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import pytest

from idp_connectors.workforce.keycloak_watch import EVENTS_A_PAGE, PAGES_A_POLL, KeycloakWatch
from idp_connectors.workforce.person_changes import (
    ChangeKind,
    ChangeReport,
    ChangesUnavailableError,
    FeedCursor,
)

if TYPE_CHECKING:
    from idp_connectors.workforce.keycloak_directory import KeycloakDirectory

START_MS = 1_000_000
LATER_MS = START_MS + 600_000  # what our own clock says


class Realm:
    """Answers as Keycloak does: inclusive `dateFrom`, by time, at most `max`."""

    def __init__(self) -> None:
        self.admin: list[dict[str, Any]] = []
        self.user: list[dict[str, Any]] = []
        self.asked: list[Mapping[str, object]] = []
        self.config: dict[str, Any] = {
            "eventsEnabled": True,
            "adminEventsEnabled": True,
            "enabledEventTypes": [],
        }

    async def events_config(self) -> Mapping[str, Any]:
        return self.config

    async def admin_events(self, query: Mapping[str, object]) -> tuple[Mapping[str, Any], ...]:
        return self._answer(self.admin, query)

    async def user_events(self, query: Mapping[str, object]) -> tuple[Mapping[str, Any], ...]:
        return self._answer(self.user, query)

    def _answer(
        self, events: list[dict[str, Any]], query: Mapping[str, object]
    ) -> tuple[Mapping[str, Any], ...]:
        self.asked.append(query)
        since, most = cast("int", query["dateFrom"]), cast("int", query["max"])
        found = sorted((each for each in events if each["time"] >= since), key=_time_of)
        return tuple(found[:most])

    def logs_out(self, user: str, at_ms: int, event_id: str | None = None) -> None:
        self.user.append(
            {
                "id": event_id or f"logout-{user}-{at_ms}",
                "time": at_ms,
                "type": "LOGOUT",
                "userId": user,
                "sessionId": f"session-of-{user}",
            }
        )


def _time_of(event: Mapping[str, Any]) -> int:
    return int(event["time"])


def poll(
    realm: Realm, cursors: Mapping[str, FeedCursor] | None = None, now_ms: int = LATER_MS
) -> ChangeReport:
    watch = KeycloakWatch(cast("KeycloakDirectory", realm), lambda: now_ms / 1000)
    return asyncio.run(watch.changes(cursors or {}, START_MS))


def subjects(report: ChangeReport) -> list[str | None]:
    return [change.subject for change in report.changes]


@pytest.mark.requirement("C34")
def test_a_change_is_reported_once() -> None:
    realm = Realm()
    realm.logs_out("alice", START_MS + 5)
    first = poll(realm)
    again = poll(realm, first.cursors)
    assert subjects(first) == ["alice"]
    assert subjects(again) == []
    assert first.is_whole


def test_an_event_that_becomes_visible_late_is_reported() -> None:
    """Keycloak stamps an event when it happens and shows it when its transaction commits."""
    realm = Realm()
    realm.logs_out("alice", START_MS + 20_000)
    first = poll(realm)
    realm.logs_out("bob", START_MS + 1)
    assert subjects(poll(realm, first.cursors)) == ["bob"]


@pytest.mark.requirement("trap-directory-silent")
def test_an_event_from_the_future_hides_nobody_elses() -> None:
    """A node of the realm whose clock is an hour ahead."""
    realm = Realm()
    now_ms = LATER_MS
    realm.logs_out("mallory", now_ms + 3_600_000)
    first = poll(realm, now_ms=now_ms)
    assert subjects(first) == ["mallory"]
    realm.logs_out("alice", now_ms + 5_000)
    second = poll(realm, first.cursors, now_ms=now_ms + 6_000)
    assert subjects(second) == ["alice"]
    # It is read with each poll until its time has come, and told once.
    cursors = second.cursors
    for at_ms in (now_ms + 3_000_000, now_ms + 3_600_000, now_ms + 7_200_000):
        report = poll(realm, cursors, now_ms=at_ms)
        assert (subjects(report), report.is_whole) == ([], True)
        cursors = report.cursors
    assert cursors["user"].seen_until_ms == now_ms + 5_000


def test_more_events_from_the_future_than_a_poll_reads_hide_nobody_elses() -> None:
    realm = Realm()
    for number in range(EVENTS_A_PAGE * (PAGES_A_POLL + 1)):
        realm.logs_out(f"user-{number}", LATER_MS + 3_600_000 + number)
    first = poll(realm)
    assert not first.is_whole
    realm.logs_out("alice", LATER_MS + 5_000)
    second = poll(realm, first.cursors, now_ms=LATER_MS + 6_000)
    assert second.is_whole
    third = poll(realm, second.cursors, now_ms=LATER_MS + 6_000)
    assert "alice" in subjects(third)


def test_what_happened_before_the_start_is_left_alone() -> None:
    realm = Realm()
    realm.logs_out("alice", START_MS - 600_000)
    assert subjects(poll(realm)) == []


def test_a_long_feed_is_read_in_bounded_polls_and_nothing_is_left_out() -> None:
    realm = Realm()
    total = EVENTS_A_PAGE * PAGES_A_POLL * 2
    for number in range(total):
        realm.logs_out(f"user-{number}", START_MS + number)
    seen: list[str | None] = []
    cursors: Mapping[str, FeedCursor] = {}
    for _ in range(5):
        before = len(realm.asked)
        report = poll(realm, cursors)
        assert len(realm.asked) - before <= PAGES_A_POLL + 1
        seen += subjects(report)
        cursors = report.cursors
        if report.is_whole:
            break
    assert report.is_whole
    assert seen == [f"user-{number}" for number in range(total)]


def test_a_page_within_one_millisecond_concerns_everybody_and_is_overcome() -> None:
    """Its rest cannot be asked for: Keycloak knows no finer time and rows may shift."""
    realm = Realm()
    for number in range(EVENTS_A_PAGE + 10):
        realm.logs_out(f"user-{number}", START_MS + 7)
    realm.logs_out("later", START_MS + 8)
    report = poll(realm)
    assert report.is_whole
    assert any(c.is_for_everyone and c.kind is ChangeKind.DIRECTORY for c in report.changes)
    assert "later" in subjects(report)


def test_both_feeds_are_read_and_only_for_what_matters() -> None:
    realm = Realm()
    realm.admin.append(
        {
            "id": "a1",
            "time": START_MS,
            "resourceType": "USER",
            "operationType": "DELETE",
            "resourcePath": "users/alice",
        }
    )
    realm.logs_out("bob", START_MS)
    report = poll(realm)
    assert subjects(report) == ["alice", "bob"]
    assert "GROUP_MEMBERSHIP" in cast("list[str]", realm.asked[0]["resourceTypes"])
    assert "LOGOUT" in cast("list[str]", realm.asked[1]["type"])


def test_an_event_that_makes_no_sense_fails_the_whole_poll() -> None:
    realm = Realm()
    realm.logs_out("alice", START_MS, event_id="not/an/id")
    with pytest.raises(ChangesUnavailableError, match="malformed"):
        poll(realm)


@pytest.mark.requirement("trap-directory-silent")
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"adminEventsEnabled": False}, "admin_events_off"),
        ({"adminEventsEnabled": "true"}, "admin_events_off"),
        ({"eventsEnabled": False}, "user_events_off"),
        ({"enabledEventTypes": ["LOGIN"]}, "user_events_missing"),
        ({"enabledEventTypes": {"LOGOUT": True}}, "user_events_missing"),
    ],
)
def test_a_realm_that_keeps_no_events_is_silent_and_not_unchanged(
    changes: dict[str, Any], code: str
) -> None:
    realm = Realm()
    kept = ["LOGOUT", "DELETE_ACCOUNT", "USER_DISABLED_BY_PERMANENT_LOCKOUT", "LOGIN"]
    realm.config["enabledEventTypes"] = kept
    assert poll(realm).is_whole
    realm.config |= changes
    with pytest.raises(ChangesUnavailableError) as raised:
        poll(realm)
    assert raised.value.code == code
