"""The registry as a process decides on it: in memory, a few milliseconds behind the database.

`run` asks the database every 25 ms whether anybody committed (one PRAGMA, no query); only then it
reads the two counters, first takes in new revocations, then compiles a new snapshot. Both are
swapped together by one reference; a request that began with the old one ends with it.

Subscribers (the control channel) get every revocation in order and a notice for each snapshot. A
subscriber that does not keep up is not waited for: what it missed is dropped and it is told to
resync, that is to fetch the snapshot, which contains everything.

Fails closed: while the database cannot be read `is_stale` grows true; whoever sends heartbeats or
issues tokens must ask it. The same, for good, when the numbers went back: the database was put back
from an old copy under us, or failed over to one, and what is missing from it nobody can say.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, Self, TypeVar

import structlog
from sqlalchemy import Connection

from database.engine import Database
from database.errors import DatabaseError
from registry.blocks import BlockState, RevocationEvent
from registry.counters import REGISTRY_VERSION, REVOCATION_SEQUENCE, values
from registry.declared import SettingsModels
from registry.publisher import UnpublishableRegistryError, compile_snapshot
from registry.revocation_rows import EVENTS_AT_ONCE, block_state, events_after
from registry.snapshot import RegistrySnapshot

POLL_SECONDS: Final = 0.025
MAXIMUM_WAITING_NOTICES: Final = 256  # per subscriber

T = TypeVar("T")
Notice = RevocationEvent | Literal["snapshot", "resync"]

_LOG: Final = structlog.get_logger(__name__)


class RewoundDatabaseError(DatabaseError):
    """The database is older than what we have read from it."""


@dataclass(frozen=True, slots=True)
class LiveState:
    """One consistent picture; replaced, never changed."""

    snapshot: RegistrySnapshot
    blocks: BlockState


class Subscription:
    """The notices of one subscriber: an asynchronous iterator. Cancelling a wait loses nothing."""

    def __init__(self, limit: int, leave: "Callable[[Subscription], None]") -> None:
        self._limit = limit
        self._leave = leave
        self._waiting: deque[Notice] = deque()
        self._arrived = asyncio.Event()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Notice:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """Stop getting notices."""
        self._leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, notice: Notice) -> None:
        """Take a notice, or fall back to a resync when too many wait."""
        if notice == "snapshot" and "snapshot" in self._waiting:
            return
        if len(self._waiting) >= self._limit:
            self._waiting.clear()
            notice = "resync"
        self._waiting.append(notice)
        self._arrived.set()


class LiveRegistry:
    """The current snapshot and blocks, and who wants to know of changes."""

    def __init__(
        self,
        database: Database,
        *,
        issuer: str,
        settings_models: SettingsModels,
        monotonic: Callable[[], float],
    ) -> None:
        """`monotonic` counts seconds; a clock that is set back must not make an old picture new."""
        self._database = database
        self._issuer = issuer
        self._settings_models = settings_models
        self._monotonic = monotonic
        self._seen_version: int | None = None
        self._read_at = monotonic()
        self._is_rewound = False
        self._subscribers: set[Subscription] = set()
        self._changed = asyncio.Event()
        self._refreshing = asyncio.Lock()
        # A thread of its own: password hashing in the shared ones must not delay a revocation.
        self._reader = ThreadPoolExecutor(1, "registry-live")
        self._state = self._first_state()

    @property
    def snapshot(self) -> RegistrySnapshot:
        """What is declared."""
        return self._state.snapshot

    @property
    def blocks(self) -> BlockState:
        """What is cut off."""
        return self._state.blocks

    @property
    def state(self) -> LiveState:
        """Both, as one picture."""
        return self._state

    def is_stale(self, maximum_age_seconds: float) -> bool:
        """Whether the database was last read longer ago than that."""
        return self._monotonic() - self._read_at > maximum_age_seconds

    async def run(self) -> None:
        """Follow the database until cancelled."""
        failing: str | None = None  # said once, not forty times a second
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except (DatabaseError, UnpublishableRegistryError) as error:
                if failing != str(error):
                    failing = str(error)
                    _LOG.exception("registry.refresh_failed", error=type(error).__name__)
            else:
                if failing is not None:
                    failing = None
                    _LOG.info("registry.refreshed_again")

    async def refresh(self) -> None:
        """Take in what was committed since; call it before a judgement that must know of it.

        Raises:
            DatabaseError: It cannot be read now, or never again.
            UnpublishableRegistryError: Another release declared what this one cannot take in.
        """
        async with self._refreshing:
            data_version = self._database.data_version()
            if data_version != self._seen_version:
                await self._take_in()
                self._seen_version = data_version
            self._read_at = self._monotonic()

    async def refresh_after_commit(self) -> None:
        """As `refresh`, after a write of the caller's: it stands whether or not it can be read now.

        `run` tries again. Whoever judges by what is here needs `refresh`, which raises.
        """
        try:
            await self.refresh()
        except (DatabaseError, UnpublishableRegistryError) as error:
            _LOG.exception("registry.refresh_failed", error=type(error).__name__)

    async def changed(self, after_version: int, after_sequence: int) -> LiveState:
        """Wait until the snapshot or the revocations are newer than given."""
        while True:
            waiter = self._changed
            state = self._state
            if state.snapshot.version > after_version or state.blocks.sequence > after_sequence:
                return state
            await waiter.wait()

    def subscribe(self, limit: int = MAXIMUM_WAITING_NOTICES) -> Subscription:
        """Notices from now on. For earlier revocations read `events_after` afterwards."""
        subscription = Subscription(limit, self._subscribers.discard)
        self._subscribers.add(subscription)
        return subscription

    def _first_state(self) -> LiveState:
        self._seen_version = self._database.data_version()
        return self._database.read(
            lambda connection: LiveState(self._compiled(connection), block_state(connection))
        )

    async def _take_in(self) -> None:
        """Revocations first: they are what somebody waits for."""
        counted = await self._read(values)
        self._require_onward(counted)
        if counted.get(REVOCATION_SEQUENCE, 0) != self._state.blocks.sequence:
            await self._take_in_revocations()
        if counted.get(REGISTRY_VERSION, 0) != self._state.snapshot.version:
            snapshot = await self._read(self._compiled)
            self._swap(replace(self._state, snapshot=snapshot), "snapshot")

    def _require_onward(self, counted: dict[str, int]) -> None:
        """Fail for ever once a number went back: a later event may get one that we have seen."""
        state = self._state
        self._is_rewound = (
            self._is_rewound
            or counted.get(REVOCATION_SEQUENCE, 0) < state.blocks.sequence
            or counted.get(REGISTRY_VERSION, 0) < state.snapshot.version
        )
        if self._is_rewound:
            raise RewoundDatabaseError("the database was put back; restart when it is right")

    async def _take_in_revocations(self) -> None:
        events: tuple[RevocationEvent, ...] | None = None
        while events is None or len(events) == EVENTS_AT_ONCE:
            blocks = self._state.blocks
            after = partial(events_after, sequence=blocks.sequence)
            events = await self._read(after)
            self._swap(replace(self._state, blocks=blocks.applying(*events)), *events)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._database.read, work)

    def _compiled(self, connection: Connection) -> RegistrySnapshot:
        return compile_snapshot(
            connection, issuer=self._issuer, settings_models=self._settings_models
        )

    def _swap(self, state: LiveState, *notices: Notice) -> None:
        self._state = state
        for subscriber in tuple(self._subscribers):
            for notice in notices:
                subscriber.put(notice)
        self._changed.set()
        self._changed = asyncio.Event()
