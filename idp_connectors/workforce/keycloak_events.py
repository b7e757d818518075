"""What Keycloak's admin events and user events mean for the people we issued something to. Pure.

One table from (resource, operation, path) of an admin event, and one from the type of a user
event, to a `PersonChange`. In doubt a change concerns more people, never fewer: an update whose
representation is not recorded counts as one, and a group that moved concerns everybody.

Left out: temporary lockouts (whoever guesses passwords must not cut a person off), resets of
credentials (Keycloak keeps the sessions too), and sessions that end by growing old, of which
Keycloak writes no event: the refresh that asks it finds out.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from idp_connectors.workforce.person_changes import ChangeKind, FeedCursor, PersonChange

ADMIN_RESOURCES: Final = (
    "GROUP_MEMBERSHIP",
    "REALM_ROLE_MAPPING",
    "CLIENT_ROLE_MAPPING",
    "USER",
    "USER_SESSION",
    "GROUP",
    "REALM_ROLE",
    "CLIENT_ROLE",
    "CLIENT",
    "REALM",
)
USER_EVENTS: Final[Mapping[str, ChangeKind]] = {
    "LOGOUT": ChangeKind.LOGGED_OUT,
    "DELETE_ACCOUNT": ChangeKind.DELETED,
    "USER_DISABLED_BY_PERMANENT_LOCKOUT": ChangeKind.DISABLED,
    "UPDATE_PROFILE": ChangeKind.PROFILE,
    "UPDATE_EMAIL": ChangeKind.PROFILE,
}
# Without these a person who left would go unnoticed. What people change of themselves is no loss.
REQUIRED_USER_EVENTS: Final = frozenset(
    ("DELETE_ACCOUNT", "LOGOUT", "USER_DISABLED_BY_PERMANENT_LOCKOUT")
)
# Longer than a transaction of Keycloak that is still being written when its time is long past.
OVERLAP_MS: Final = 60_000

# Visible ASCII without a slash: a UUID, or `f:<provider>:<their id>` of a federated user.
_ID: Final = re.compile(r"[\x21-\x2e\x30-\x7e]{1,255}")
_FEDERATED_ID: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_DESTRUCTIVE: Final = frozenset(("UPDATE", "DELETE", "ACTION"))


class MalformedEventError(ValueError):
    """An event that is not what Keycloak documents."""


@dataclass(frozen=True, slots=True)
class _AdminEvent:
    resource: str
    operation: str
    path: tuple[str, ...]
    representation: Mapping[str, Any]


def admin_change(event: Mapping[str, Any]) -> PersonChange | None:
    """The change an admin event reports, or None when it concerns nobody.

    Raises:
        MalformedEventError: it has no usable id, time or path.
    """
    event_id, at_ms = identity_of(event)
    read = _AdminEvent(
        resource=str(event.get("resourceType", "")),
        operation=str(event.get("operationType", "")),
        path=tuple(str(event.get("resourcePath", "")).split("/")),
        representation=_representation(event.get("representation")),
    )
    match read.path:
        case ["users", user, *rest]:
            kind = _kind_for_person(read, rest)
            if user.startswith("f:") and rest and read.operation in _DESTRUCTIVE:
                # `f:<provider>:<their id>`, where their id may have a slash: it is not cut short.
                return PersonChange(event_id, kind or ChangeKind.DIRECTORY, at_ms)
            # An id we cannot read is somebody's: then nobody is left out.
            subject = user if _ID.fullmatch(user) else None
            return None if kind is None else PersonChange(event_id, kind, at_ms, subject=subject)
        case ["sessions", session] if read.resource == "USER_SESSION":
            return PersonChange(
                event_id, ChangeKind.SESSION_ENDED, at_ms, upstream_session=_required(session)
            )
    if _concerns_everyone(read):
        return PersonChange(event_id, ChangeKind.DIRECTORY, at_ms)
    return None


def user_change(event: Mapping[str, Any]) -> PersonChange | None:
    """The change a user event reports, or None when it concerns nobody.

    Raises:
        MalformedEventError: it has no usable id or time.
    """
    event_id, at_ms = identity_of(event)
    kind = USER_EVENTS.get(str(event.get("type", "")))
    if kind is None:
        return None
    session = event.get("sessionId") if kind is ChangeKind.LOGGED_OUT else None
    user = event.get("userId")
    return PersonChange(
        event_id,
        kind,
        at_ms,
        # An id of another directory may have any characters. One we cannot read is somebody's:
        # unless the session says whose, nobody is left out.
        subject=user if isinstance(user, str) and _FEDERATED_ID.fullmatch(user) else None,
        upstream_session=None if session is None else _required(session),
    )


def missing_events(config: Mapping[str, Any]) -> str | None:
    """Why a realm's events do not tell what they must, in one word, or None.

    An empty list of enabled types means all of them.
    """
    if config.get("adminEventsEnabled") is not True:
        return "admin_events_off"
    if config.get("eventsEnabled") is not True:
        return "user_events_off"
    enabled = config.get("enabledEventTypes") or REQUIRED_USER_EVENTS
    is_list = isinstance(enabled, list | frozenset)
    return None if is_list and REQUIRED_USER_EVENTS.issubset(enabled) else "user_events_missing"


def unseen(
    events: Iterable[Mapping[str, Any]], cursor: FeedCursor, now_ms: int
) -> tuple[tuple[Mapping[str, Any], ...], FeedCursor]:
    """The events not seen before, and the cursor after them.

    Feeds are read again from `OVERLAP_MS` before the newest event, because an event becomes
    visible with its transaction and so may come after a younger one.

    INVARIANT: the newest time known is never after ours (`now_ms`): else one event of a node whose
    clock is ahead would hide everybody else's until then. It is read again meanwhile, and known by
    its id.
    """
    fresh = []
    seen, newest = dict(cursor.seen), cursor.seen_until_ms
    for event in events:
        event_id, at_ms = identity_of(event)
        if event_id not in seen:
            fresh.append(event)
            seen[event_id] = at_ms
            newest = max(newest, min(at_ms, now_ms))
    kept = {each: at_ms for each, at_ms in seen.items() if at_ms >= newest - OVERLAP_MS}
    return tuple(fresh), replace(cursor, seen_until_ms=newest, seen=kept)


def identity_of(event: Mapping[str, Any]) -> tuple[str, int]:
    """An event's id and time (Unix milliseconds).

    Raises:
        MalformedEventError: either is missing or of another type.
    """
    event_id, at_ms = event.get("id"), event.get("time")
    if not isinstance(at_ms, int) or isinstance(at_ms, bool) or at_ms < 0:
        raise MalformedEventError("time")
    return _required(event_id), at_ms


def _kind_for_person(event: _AdminEvent, rest: list[str]) -> ChangeKind | None:
    match event.resource, event.operation, rest:
        case "GROUP_MEMBERSHIP", _, _:
            return ChangeKind.GROUPS
        case (("REALM_ROLE_MAPPING" | "CLIENT_ROLE_MAPPING"), _, _):
            return ChangeKind.ROLES
        case "USER", "DELETE", []:
            return ChangeKind.DELETED
        case "USER", "UPDATE", []:
            is_disabled = event.representation.get("enabled") is False
            return ChangeKind.DISABLED if is_disabled else ChangeKind.PROFILE
        case "USER", "ACTION", ["logout"]:
            return ChangeKind.LOGGED_OUT
        case _:
            return None


def _concerns_everyone(event: _AdminEvent) -> bool:
    """A group or a role itself, what a group's members inherit, or the end of all sessions."""
    match event.resource, event.path:
        case (("REALM_ROLE_MAPPING" | "CLIENT_ROLE_MAPPING"), ["groups", *_]):
            return True
        case "GROUP", _:
            return event.operation in _DESTRUCTIVE
        case (("REALM_ROLE" | "CLIENT_ROLE"), [*_, "composites"]):
            return True
        case (("REALM_ROLE" | "CLIENT_ROLE"), _):
            return event.operation in _DESTRUCTIVE
        case "REALM", ["logout-all" | "push-revocation"]:
            return True
        case _:
            # The roles of a client go with it, without an event of their own.
            return (event.resource, event.operation) == ("CLIENT", "DELETE")


def _representation(text: object) -> Mapping[str, Any]:
    """What was sent with an admin event; empty when it was not recorded or is no object."""
    if not isinstance(text, str):
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _required(value: object) -> str:
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise MalformedEventError("id")
    return value
