"""Asks a realm what changed: two feeds, each read from where it was left, in bounded pages.

A feed is read from `OVERLAP_MS` before its newest event on, or before our own time if that is
earlier, oldest first; the next page begins at the time of the last event of the page before (never
at a number of rows, which shift when Keycloak forgets old ones), and ids tell what was read
already. What a poll does not get to, the next one goes on with. Each poll first asks whether the
realm keeps such events at all. An event of a node whose clock is behind all that is not found.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from idp_connectors.workforce.keycloak_directory import KeycloakDirectory
from idp_connectors.workforce.keycloak_events import (
    ADMIN_RESOURCES,
    OVERLAP_MS,
    USER_EVENTS,
    MalformedEventError,
    admin_change,
    identity_of,
    missing_events,
    unseen,
    user_change,
)
from idp_connectors.workforce.person_changes import (
    ChangeKind,
    ChangeReport,
    ChangesUnavailableError,
    FeedCursor,
    PersonChange,
)

EVENTS_A_PAGE: Final = 50  # an event may carry the whole user that was saved
PAGES_A_POLL: Final = 20

Event = Mapping[str, Any]
Ask = Callable[[Mapping[str, object]], Awaitable[tuple[Event, ...]]]


@dataclass(frozen=True, slots=True)
class _Feed:
    """One feed: how to ask it, for what, and what an event of it means."""

    name: str
    ask: Ask
    wanted: Mapping[str, Sequence[str]]
    change_of: Callable[[Event], PersonChange | None]


class KeycloakWatch:
    """What changed in one realm, as far as it concerns people we know."""

    def __init__(self, directory: KeycloakDirectory, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self._feeds = (
            _Feed(
                "admin",
                directory.admin_events,
                {"resourceTypes": ADMIN_RESOURCES},
                admin_change,
            ),
            _Feed("user", directory.user_events, {"type": tuple(USER_EVENTS)}, user_change),
        )

    async def changes(self, cursors: Mapping[str, FeedCursor], start_ms: int) -> ChangeReport:
        """What changed in both feeds since the cursors.

        Raises:
            ChangesUnavailableError: either feed was not to be had, makes no sense, or is not kept.
        """
        changes: list[PersonChange] = []
        after: dict[str, FeedCursor] = {}
        # A realm that keeps no events would answer for ever that nothing has changed.
        missing = missing_events(await self._directory.events_config())
        if missing is not None:
            raise ChangesUnavailableError(missing)
        try:
            for feed in self._feeds:
                cursor = cursors.get(feed.name, FeedCursor(start_ms))
                found, after[feed.name] = await _read(feed, cursor, self._clock)
                changes += found
        except MalformedEventError:
            raise ChangesUnavailableError("malformed") from None
        return ChangeReport(tuple(changes), after)


async def _read(
    feed: _Feed, cursor: FeedCursor, clock: Callable[[], float]
) -> tuple[list[PersonChange], FeedCursor]:
    since_ms = cursor.resume_from_ms
    if since_ms is None:
        since_ms = max(0, cursor.seen_until_ms - OVERLAP_MS)
    changes: list[PersonChange] = []
    for _ in range(PAGES_A_POLL):
        page = await feed.ask(
            {
                "dateFrom": since_ms,
                "direction": "asc",
                "max": EVENTS_A_PAGE,
                **{name: list(values) for name, values in feed.wanted.items()},
            }
        )
        fresh, cursor = unseen(page, cursor, int(clock() * 1000))
        changes += [change for change in map(feed.change_of, fresh) if change is not None]
        if len(page) < EVENTS_A_PAGE:
            return changes, replace(cursor, resume_from_ms=None)
        event_id, last_ms = identity_of(page[-1])
        if last_ms <= since_ms:
            # A whole page within one millisecond: the rest of it cannot be asked for.
            changes.append(PersonChange(f"flood:{event_id}", ChangeKind.DIRECTORY, last_ms))
            last_ms = since_ms + 1
        since_ms = last_ms
    return changes, replace(cursor, resume_from_ms=since_ms)
