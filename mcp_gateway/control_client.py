"""The control channel: what to enforce comes in, what happened goes out. Background tasks only.

- `snapshot`: fetched when told of a newer one, verified against the pinned key, compiled off the
  loop, adopted by one reference. An older one is never adopted.
- `events`: revocations are applied the moment they arrive: blocks first, then cached credentials
  are dropped and open calls re-checked, then it is acknowledged.
- lease: a heartbeat renews it only if everything up to its word is applied here. No heartbeat, no
  calls (`Enforcement.serving`).
- `catalogue`: what tools each server offers (`catalogue_reports`).
- `audit`: the spool's pusher.

Whatever fails is tried again with growing pauses; nothing here can make a refusal a permission.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog

from audit_log.batch import Batch
from audit_log.pusher import SpoolPusher
from audit_log.spool import Spool
from mcp_gateway.authority import AuthorityUnreachableError
from mcp_gateway.catalogue_reports import CatalogueReports
from mcp_gateway.compiled_view import CompiledView, compile_view
from mcp_gateway.control_session import ControlRefusedError, ControlSession
from mcp_gateway.enforcement import is_older
from mcp_gateway.parts import Parts
from mcp_gateway.signed_snapshot import MAXIMUM_SNAPSHOT_BYTES, SnapshotError, verified_view
from mcp_gateway.standing import end_what_no_longer_stands
from mcp_gateway.upstream.server_sent_events import EventReader, EventTooLargeError, ServerSentEvent
from registry.blocks import RevocationEvent

SILENCE_SECONDS: Final = 1.5  # six heartbeats: connect again before the lease runs out
MAXIMUM_EVENT_BYTES: Final = 65_536
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
LAST_PUSH_SECONDS: Final = 3.0
_OK: Final = (200, 201, 204)
_NOT_MODIFIED: Final = 304

_logger = structlog.get_logger(__name__)

_FAILURES: Final = (
    AuthorityUnreachableError,
    ControlRefusedError,
    SnapshotError,
    EventTooLargeError,
    msgspec.MsgspecError,
    ValueError,
    OSError,
)


class _Heartbeat(msgspec.Struct, frozen=True):
    sequence: int
    version: int


class _Acknowledged(msgspec.Struct, frozen=True):
    acknowledged: int


class ControlClient:
    """One worker's side of the control channel."""

    def __init__(self, session: ControlSession, parts: Parts, spool: Spool, worker: str) -> None:
        """Take the session, what is to be kept current, and this worker's name."""
        self._session = session
        self._parts = parts
        self._worker = worker
        self._spool = spool
        self._pusher = SpoolPusher(spool)
        self._generation = 0
        self._etag: str | None = None
        self._doubts = self._settled_doubts = 0
        self._is_outdated = asyncio.Event()
        self._is_outdated.set()
        self._has_view = asyncio.Event()
        self._has_progress = asyncio.Event()
        self._reports = CatalogueReports(session, parts)

    async def run(self) -> None:
        """Keep the channel until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._for_ever("snapshot", self._refresh))
            tasks.create_task(self._for_ever("events", self._follow))
            tasks.create_task(self._for_ever("acks", self._acknowledge))
            tasks.create_task(self._for_ever("catalogue", self._report))
            tasks.create_task(self._pusher.run(self.push))

    async def finish(self) -> None:
        """After the last call: end the audit source and push what is left."""
        await asyncio.to_thread(self._spool.stop)
        await self._pusher.drain(self.push, within_seconds=LAST_PUSH_SECONDS)

    async def push(self, batch: Batch) -> int:
        """Send one audit batch; the last sequence the store holds."""
        answer = await self._session.ask("POST", "/audit", body=batch.body)
        if answer.status not in _OK:
            raise ControlRefusedError(f"POST /audit: HTTP {answer.status}")
        return msgspec.json.decode(answer.body, type=_Acknowledged).acknowledged

    async def _for_ever(self, what: str, once: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await once()
                pause = FIRST_PAUSE_SECONDS
            except _FAILURES as error:
                _logger.warning(
                    "control_channel_failed", what=what, error=type(error).__name__, text=str(error)
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            except Exception:  # outermost of its task: without it the whole channel would end
                _logger.exception("control_channel_broken", what=what)
                await asyncio.sleep(LONGEST_PAUSE_SECONDS)

    # The snapshot

    async def _refresh(self) -> None:
        await self._parts.proofs.known()  # a second worker is let in only with the same memory
        await self._is_outdated.wait()
        self._is_outdated.clear()
        try:
            await self._fetch()
        except BaseException:
            self._is_outdated.set()
            raise

    async def _fetch(self) -> None:
        doubts = self._doubts
        known = {} if self._etag is None else {"if-none-match": self._etag}
        most = MAXIMUM_SNAPSHOT_BYTES
        answer = await self._session.ask("GET", "/snapshot", headers=known, maximum_bytes=most)
        if answer.status == _NOT_MODIFIED:
            return
        if answer.status not in _OK:
            raise ControlRefusedError(f"GET /snapshot: HTTP {answer.status}")
        view = verified_view(answer.body, self._session.identity)
        current = self._parts.enforcement.view
        if is_older(view, current):
            raise SnapshotError("the snapshot is older than the one in force")
        self._generation += 1
        compiled = await asyncio.to_thread(compile_view, view, self._generation)
        self._adopt(compiled)
        is_all = view.sequence >= self._parts.enforcement.blocks.sequence
        await end_what_no_longer_stands(self._parts)
        if is_all and doubts == self._doubts:
            self._settled_doubts = doubts
        if not self._is_in_doubt:
            # Only now: what was left undone is fetched again.
            self._etag = answer.headers.get("etag")

    def _adopt(self, compiled: CompiledView) -> None:
        enforcement = self._parts.enforcement
        missed = compiled.view.sequence > enforcement.blocks.sequence
        if compiled.policies is None:
            _logger.error("policies_not_compiled", version=compiled.view.policies.version)
        enforcement.adopt(compiled)
        if missed:
            # Revocations came with the snapshot, not as events: whom they hit is not known here.
            self._parts.exchange.forget_all()
            self._parts.upstream.forget_all()
        self._parts.open_calls.recheck(enforcement.blocks)
        # INVARIANT: a snapshot is no heartbeat, nor is the first one: it says what was, perhaps
        # long ago. Nothing is served before the stream of events says that we are up to date.
        self._has_view.set()
        self._has_progress.set()
        self._reports.servers_changed.set()

    # Events

    async def _follow(self) -> None:
        await self._has_view.wait()
        query = {"after": str(self._parts.enforcement.progress.sequence)}
        proofs, declared = self._parts.proofs, self._parts.proofs.memory
        reader = EventReader(MAXIMUM_EVENT_BYTES)
        async with self._session.listen("/events", query, SILENCE_SECONDS, declared) as stream:
            async for chunk in stream.chunks:
                for event in reader.feed(chunk):
                    self.take(event)
                    if event.name == "heartbeat":  # comes only to whom it lets serve
                        proofs.accept(declared)
                if proofs.memory != declared:  # another memory since: ask again, with that one
                    break
        await asyncio.sleep(FIRST_PAUSE_SECONDS)  # it ends with its token; never spin

    def take(self, event: ServerSentEvent) -> None:
        """Act on one event; unknown kinds are for newer gateways."""
        if event.name == "revocation":
            self._revoke(msgspec.json.decode(event.data, type=RevocationEvent))
        elif event.name == "snapshot":
            self._is_outdated.set()
        elif event.name == "heartbeat":
            self._hear(msgspec.json.decode(event.data, type=_Heartbeat))

    def _revoke(self, event: RevocationEvent) -> None:
        parts = self._parts
        parts.enforcement.apply(event)
        parts.open_calls.recheck(parts.enforcement.blocks)
        parts.exchange.forget(event)
        parts.upstream.forget(event)
        self._has_progress.set()

    def _hear(self, heartbeat: _Heartbeat) -> None:
        progress = self._parts.enforcement.progress
        # INVARIANT: only what is applied here renews the lease. Behind, we fetch, and if fetching
        # does not succeed the lease runs out.
        if heartbeat.sequence < progress.sequence or heartbeat.version < progress.version:
            self._doubt()
        is_behind = heartbeat.sequence > progress.sequence or heartbeat.version > progress.version
        if is_behind or self._is_in_doubt:
            self._is_outdated.set()
        else:
            self._parts.enforcement.heartbeat()

    def _doubt(self) -> None:
        """The authority knows less than we do: its database was put back, or it is a moment late.

        INVARIANT: then its next events have numbers we take for known. Until a whole snapshot that
        was asked for after the last such word, and is no older than any event we have, has replaced
        what we believe, nothing renews the lease. That of a database that was put back is older for
        long: only a gateway started anew follows it.
        """
        if not self._is_in_doubt:
            _logger.warning("authority_knows_less", applied=self._parts.enforcement.progress)
        self._doubts += 1
        self._etag = None  # equal numbers need not mean an equal snapshot

    @property
    def _is_in_doubt(self) -> bool:
        return self._doubts > self._settled_doubts

    async def _acknowledge(self) -> None:
        await self._has_progress.wait()
        self._has_progress.clear()
        progress = self._parts.enforcement.progress
        body = {
            "worker": self._worker,
            "sequence": progress.sequence,
            "version": progress.version,
            "applied_at_ms": int(self._parts.clock() * 1000),
        }
        try:
            answer = await self._session.ask("POST", "/acks", body=msgspec.json.encode(body))
            if answer.status not in _OK:
                raise ControlRefusedError(f"POST /acks: HTTP {answer.status}")  # noqa: TRY301 - and told again
        except BaseException:
            self._has_progress.set()
            raise

    async def _report(self) -> None:
        await self._has_view.wait()
        await self._reports.report_due()
