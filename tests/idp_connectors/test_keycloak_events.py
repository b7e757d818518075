"""What Keycloak's events mean. The samples are as Keycloak 26.7 writes them."""

import json
from typing import Any

import pytest

from idp_connectors.workforce.keycloak_events import (
    OVERLAP_MS,
    MalformedEventError,
    admin_change,
    unseen,
    user_change,
)
from idp_connectors.workforce.person_changes import ChangeKind, FeedCursor

ALICE = "15013201-b56c-418a-b301-ad3d39af4f86"
GROUP = "aff8334c-1dc5-4084-b3da-e1de3c3e988c"
NOW_MS = 1_795_244_602_793


def admin_event(resource: str, operation: str, path: str, **changes: Any) -> dict[str, Any]:
    event = {
        "id": "2f7c18c4-a60f-44d6-82f5-2f500a35107c",
        "time": NOW_MS,
        "resourceType": resource,
        "operationType": operation,
        "resourcePath": path,
    }
    return event | changes


@pytest.mark.requirement("C34")
@pytest.mark.parametrize(
    ("resource", "operation", "path", "representation", "kind"),
    [
        ("GROUP_MEMBERSHIP", "DELETE", f"users/{ALICE}/groups/{GROUP}", {}, ChangeKind.GROUPS),
        ("GROUP_MEMBERSHIP", "CREATE", f"users/{ALICE}/groups/{GROUP}", {}, ChangeKind.GROUPS),
        ("REALM_ROLE_MAPPING", "DELETE", f"users/{ALICE}/role-mappings/realm", [], "roles"),
        ("CLIENT_ROLE_MAPPING", "CREATE", f"users/{ALICE}/role-mappings/clients/x", [], "roles"),
        ("USER", "UPDATE", f"users/{ALICE}", {"enabled": False}, ChangeKind.DISABLED),
        ("USER", "UPDATE", f"users/{ALICE}", {"enabled": True}, ChangeKind.PROFILE),
        ("USER", "UPDATE", f"users/{ALICE}", None, ChangeKind.PROFILE),
        ("USER", "DELETE", f"users/{ALICE}", {"id": ALICE}, ChangeKind.DELETED),
        ("USER", "ACTION", f"users/{ALICE}/logout", None, ChangeKind.LOGGED_OUT),
    ],
)
def test_an_admin_event_about_a_person_concerns_exactly_them(
    resource: str, operation: str, path: str, representation: object, kind: str
) -> None:
    said = {} if representation is None else {"representation": json.dumps(representation)}
    change = admin_change(admin_event(resource, operation, path, **said))
    assert change is not None
    assert (change.subject, change.kind, change.at_ms) == (ALICE, kind, NOW_MS)


def test_a_session_deleted_by_an_administrator_names_only_the_session() -> None:
    change = admin_change(admin_event("USER_SESSION", "DELETE", "sessions/9cXQ0GbWuWrg6Tij"))
    assert change is not None
    assert change.kind is ChangeKind.SESSION_ENDED
    assert (change.subject, change.upstream_session) == (None, "9cXQ0GbWuWrg6Tij")


@pytest.mark.parametrize(
    ("resource", "operation", "path"),
    [
        ("REALM_ROLE_MAPPING", "CREATE", f"groups/{GROUP}/role-mappings/realm"),
        ("GROUP", "UPDATE", f"groups/{GROUP}"),
        ("GROUP", "DELETE", f"groups/{GROUP}"),
        ("REALM_ROLE", "DELETE", "roles-by-id/79ef88ec"),
        ("REALM_ROLE", "CREATE", "roles-by-id/79ef88ec/composites"),
        ("CLIENT", "DELETE", "clients/9f3005c4"),
        ("REALM", "ACTION", "logout-all"),
        ("GROUP_MEMBERSHIP", "DELETE", f"users/an id with spaces/groups/{GROUP}"),
    ],
)
def test_what_many_may_inherit_concerns_everybody(resource: str, operation: str, path: str) -> None:
    change = admin_change(admin_event(resource, operation, path))
    assert change is not None
    assert change.is_for_everyone


@pytest.mark.parametrize(
    ("resource", "operation", "path"),
    [
        ("GROUP", "CREATE", f"groups/{GROUP}"),
        ("USER", "CREATE", f"users/{ALICE}"),
        ("USER", "ACTION", f"users/{ALICE}/reset-password"),
        ("CLIENT", "UPDATE", "clients/9f3005c4"),
        ("REALM", "UPDATE", ""),
    ],
)
def test_what_changes_nobody_is_no_change(resource: str, operation: str, path: str) -> None:
    assert admin_change(admin_event(resource, operation, path)) is None


@pytest.mark.parametrize(
    ("event_type", "kind", "session"),
    [
        ("LOGOUT", ChangeKind.LOGGED_OUT, "pMpHNSh_xHKN0ylFz1sJRrX7"),
        ("DELETE_ACCOUNT", ChangeKind.DELETED, None),
        ("USER_DISABLED_BY_PERMANENT_LOCKOUT", ChangeKind.DISABLED, None),
        ("UPDATE_PROFILE", ChangeKind.PROFILE, None),
    ],
)
def test_a_user_event_names_the_person_and_a_logout_the_session(
    event_type: str, kind: ChangeKind, session: str | None
) -> None:
    event = {
        "id": "68",
        "time": NOW_MS,
        "type": event_type,
        "userId": ALICE,
        "sessionId": "pMpHNSh_xHKN0ylFz1sJRrX7",
    }
    change = user_change(event)
    assert change is not None
    assert (change.subject, change.kind, change.upstream_session) == (ALICE, kind, session)


@pytest.mark.parametrize("event_type", ["LOGIN", "USER_DISABLED_BY_TEMPORARY_LOCKOUT", None])
def test_a_user_event_of_another_type_is_no_change(event_type: str | None) -> None:
    """Guessing at somebody's password locks them for a while, and must not cut them off."""
    assert user_change({"id": "1", "time": 1, "type": event_type, "userId": ALICE}) is None


@pytest.mark.parametrize(
    "broken",
    [{"id": None}, {"id": 7}, {"id": "a/b"}, {"time": None}, {"time": True}, {"time": -1}],
)
def test_an_event_without_usable_id_or_time_is_an_error(broken: dict[str, Any]) -> None:
    with pytest.raises(MalformedEventError):
        admin_change(admin_event("USER", "DELETE", f"users/{ALICE}", **broken))


@pytest.mark.parametrize("user", ["f:0f1c:m\u00fcller", "f:0f1c:Jane Doe", "f:0f1c:CORP/jane"])
def test_a_logout_of_a_person_of_another_directory_is_theirs(user: str) -> None:
    change = user_change({"id": "1", "time": 1, "type": "LOGOUT", "userId": user})
    assert change is not None
    assert change.subject == user


@pytest.mark.parametrize("user", [None, 7, "", "a\x00b", "a\ud800", "x" * 256])
def test_a_logout_of_somebody_unreadable_leaves_nobody_out(user: object) -> None:
    change = user_change({"id": "1", "time": 1, "type": "LOGOUT", "userId": user})
    assert change is not None
    assert change.is_for_everyone
    session = {"sessionId": "9cXQ0GbWuWrg6Tij"}
    named = user_change({"id": "1", "time": 1, "type": "LOGOUT", "userId": user} | session)
    assert named is not None
    assert (named.subject, named.upstream_session) == (None, "9cXQ0GbWuWrg6Tij")


@pytest.mark.parametrize(
    ("resource", "operation", "path"),
    [
        ("USER", "UPDATE", "users/f:0f1c:CORP/jane"),
        ("USER", "DELETE", "users/f:0f1c:CORP/jane"),
        ("GROUP_MEMBERSHIP", "DELETE", "users/f:0f1c:CORP/jane/groups/x"),
    ],
)
def test_an_id_with_a_slash_is_not_taken_for_another_persons(
    resource: str, operation: str, path: str
) -> None:
    change = admin_change(admin_event(resource, operation, path))
    assert change is not None
    assert change.is_for_everyone


@pytest.mark.parametrize("text", ["[", "[1]", "7", "[" * 100_000])
def test_a_representation_that_cannot_be_read_says_nothing(text: str) -> None:
    change = admin_change(admin_event("USER", "UPDATE", f"users/{ALICE}", representation=text))
    assert change is not None
    assert change.kind is ChangeKind.PROFILE


def event(event_id: str, at_ms: int) -> dict[str, Any]:
    return {"id": event_id, "time": at_ms}


def test_an_event_read_again_is_not_new_and_one_that_came_late_is() -> None:
    first, cursor = unseen([event("a", 1_000), event("b", 2_000)], FeedCursor(0), 9_000)
    again, cursor = unseen(
        [event("a", 1_000), event("late", 1_500), event("b", 2_000)], cursor, 9_000
    )
    assert [each["id"] for each in first] == ["a", "b"]
    assert [each["id"] for each in again] == ["late"]
    assert cursor.seen_until_ms == 2_000


def test_ids_are_forgotten_when_they_cannot_come_again() -> None:
    _, cursor = unseen([event("old", 1_000)], FeedCursor(0), 9_000)
    _, cursor = unseen([event("new", 1_001 + OVERLAP_MS)], cursor, 1_001 + OVERLAP_MS)
    assert set(cursor.seen) == {"new"}
