"""Asks every declared identity provider that can report changes, and acts on what it says.

One task per provider, owned and awaited by `run`; it is started, stopped and started again with
the declaration. A poll either succeeds as a whole, and its cursors are kept, or is made again
with the same ones. The feeds of a provider that was not asked before (a new process, a changed
declaration) are read back as far as something issued then may still hold; what was done already
is known by its event id, to every process. What is new after that happened just now, whatever the
provider's clock says: whoever was first seen before is concerned.

Fail closed: when a provider has not answered for as long as its declaration allows, everything
issued for its people is out of date at once, and nobody logs in by it until it answers again: we
can no longer say that they are still there.

Several processes each ask for themselves; none depends on another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from authz_server.log_events import LogEvent
from authz_server.parts import Parts
from authz_server.person_changes import apply_change
from authz_server.store.sessions import SESSION_LIFETIME_SECONDS
from idp_connectors.workforce.person_changes import (
    ChangeKind,
    ChangesUnavailableError,
    FeedCursor,
    PersonChange,
    ReportsChanges,
)
from registry.snapshot import ProviderRecord

DECLARATIONS_SECONDS: Final = 0.5  # how often the declarations are looked at
LONGEST_POLL_SECONDS: Final = 30.0  # of all its pages together
REPEATED_LOG_SECONDS: Final = 60.0
READ_BACK_MS: Final = SESSION_LIFETIME_SECONDS * 1000

Sleep = Callable[[float], Awaitable[None]]

_LOG: Final = structlog.get_logger()


@dataclass(slots=True)
class Watched:
    """One provider that is asked. Times are Unix seconds of our own clock."""

    record: ProviderRecord
    connector: ReportsChanges
    answered_at: float
    start_ms: int
    cursors: Mapping[str, FeedCursor] = field(default_factory=dict)
    is_caught_up: bool = False  # all was read once: what is reported from then on is new
    is_everyone_out: bool = False
    logged_at: float = float("-inf")


class DirectoryWatch:
    """The one owner of the polling of this process."""

    def __init__(self, parts: Parts, sleep: Sleep = asyncio.sleep) -> None:
        self._parts = parts
        self._sleep = sleep
        self._watched: dict[str, tuple[Watched, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Follow the declarations until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._follow(tasks)
                await self._sleep(DECLARATIONS_SECONDS)

    def _follow(self, tasks: asyncio.TaskGroup) -> None:
        declared = self._parts.live.snapshot.identity_providers
        for name, (watched, task) in list(self._watched.items()):
            if declared.get(name) != watched.record:
                task.cancel()
                del self._watched[name]
                self._parts.unwatched.discard(name)
        for name, connector in self._parts.person_logins().items():
            record = declared.get(name)
            asked = _asked(connector)
            if record is None or name in self._watched or asked is None:
                continue
            watched = self.begin(record, asked)
            self._watched[name] = (watched, tasks.create_task(self._watch(watched)))

    def begin(self, record: ProviderRecord, connector: ReportsChanges) -> Watched:
        """The state of a provider that was not asked yet."""
        now = self._parts.clock()
        return Watched(record, connector, now, max(0, int(now * 1000) - READ_BACK_MS))

    async def _watch(self, watched: Watched) -> None:
        while True:
            is_whole = await self.ask(watched)
            pause = watched.connector.poll_seconds
            await self._sleep(0 if is_whole is False or pause is None else pause)

    async def ask(self, watched: Watched) -> bool | None:
        """One poll. True: all is known; False: there is more to read; None: it failed."""
        try:
            async with asyncio.timeout(LONGEST_POLL_SECONDS):
                report = await watched.connector.changes(watched.cursors, watched.start_ms)
            for change in report.changes:
                await self._apply(watched, self._dated(watched, change))
        except ChangesUnavailableError as error:
            await self._failed(watched, error.code)
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, the next poll is made
            await self._failed(watched, type(error).__name__)
            return None
        watched.cursors = report.cursors
        watched.is_caught_up = watched.is_caught_up or report.is_whole
        self._answered(watched)
        return report.is_whole

    def _dated(self, watched: Watched, change: PersonChange) -> PersonChange:
        if not watched.is_caught_up:
            return change
        return replace(change, at_ms=max(change.at_ms, int(self._parts.clock() * 1000)))

    async def _apply(self, watched: Watched, change: PersonChange) -> None:
        name = watched.record.name
        count = await apply_change(self._parts, name, change)
        if count:
            _LOG.info(LogEvent.PERSONS_CHANGED, provider=name, change=change.kind, persons=count)

    def _answered(self, watched: Watched) -> None:
        if watched.logged_at >= watched.answered_at:
            _LOG.info(LogEvent.DIRECTORY_ANSWERS, provider=watched.record.name)
        watched.answered_at = self._parts.clock()
        watched.logged_at = float("-inf")
        watched.is_everyone_out = False
        self._parts.unwatched.discard(watched.record.name)

    async def _failed(self, watched: Watched, code: str) -> None:
        now, limit = self._parts.clock(), watched.connector.blind_after_seconds
        silent_seconds = now - watched.answered_at
        if now - watched.logged_at >= REPEATED_LOG_SECONDS:
            watched.logged_at = now
            _LOG.warning(
                LogEvent.DIRECTORY_SILENT,
                provider=watched.record.name,
                error=code,
                silent_seconds=round(silent_seconds),
                cut_off_after_seconds=limit,
            )
        if silent_seconds >= limit and not watched.is_everyone_out:
            await self._give_up(watched, now)

    async def _give_up(self, watched: Watched, now: float) -> None:
        # INVARIANT: first nobody new comes in, then everybody is out.
        self._parts.unwatched.add(watched.record.name)
        change = PersonChange(f"unwatched:{now}", ChangeKind.UNWATCHED, int(now * 1000))
        try:
            await self._apply(watched, change)
        except Exception as error:  # noqa: BLE001 - it is tried again with the next poll
            _LOG.error(
                LogEvent.DIRECTORY_SILENT,
                provider=watched.record.name,
                error=type(error).__name__,
            )
        else:
            watched.is_everyone_out = True


def _asked(connector: object) -> ReportsChanges | None:
    if not isinstance(connector, ReportsChanges) or connector.poll_seconds is None:
        return None
    return connector
