"""`GET /control/v1/events`: the news of one Gateway, as they happen (Server-Sent Events).

First the revocations after `after`, then every one in order, a notice for each snapshot, and a
heartbeat that says how far the stream has come. The heartbeat is the gateway's lease: it stops
while our own picture is stale, and the gateway then refuses by itself. The stream ends at the
token's expiry, when the caller is revoked, disconnects or does not read, and at shutdown.
"""

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from authz_server.clients.control_caller import ControlCaller, what_revokes_caller
from authz_server.parts import Parts
from authz_server.serving_workers import MEMORY_HEADER, WORKER_HEADER
from registry.blocks import RevocationEvent
from registry.live import Notice, Subscription
from token_exchange.claims import Refusal

STALE_SECONDS: Final = 1.0  # then the database has not been seen for forty polls
WRITE_SECONDS: Final = 5.0  # a gateway that does not read for so long is gone
MAXIMUM_CATCH_UP: Final = 10_000  # beyond it the snapshot is the shorter way

_encode: Final = msgspec.json.Encoder().encode

Write = Callable[[bytes], Awaitable[None]]


async def event_stream(parts: Parts, request: Request, caller: ControlCaller) -> Response | Refusal:
    """The stream from `?after=SEQUENCE` on."""
    after = request.query_params.get("after", "0")
    if not after.isascii() or not after.isdigit() or len(after) > 18:  # noqa: PLR2004 - int64
        return Refusal("invalid_request", "`after` must be a number.", "after", "events.after")
    if parts.stopping.has_begun:
        return Refusal(
            "temporarily_unavailable", "The server is ending.", "shutdown", "events.stopping"
        )
    worker = worker_of(request)
    second = second_worker(parts, request, caller)
    return second or EventStream(parts, caller, (worker, memory_of(request)), int(after))


def second_worker(parts: Parts, request: Request, caller: ControlCaller) -> Refusal | None:
    """Why the asking worker may not serve beside those that do."""
    gateway = caller.gateway.name
    return parts.serving_workers.problem(gateway, worker_of(request), memory_of(request))


def memory_of(request: Request) -> str:
    """The name of the memory of used proofs it shares with others; empty: it has its own."""
    return request.headers.get(MEMORY_HEADER, "")


def worker_of(request: Request) -> str:
    """The name the asking worker gives itself."""
    return request.headers.get(WORKER_HEADER, "")


class EventStream(Response):
    """Streams until there is a reason to end."""

    media_type = "text/event-stream"

    def __init__(
        self, parts: Parts, caller: ControlCaller, worker: tuple[str, str], after: int
    ) -> None:
        """Take who listens, the name and the memory of its worker, and what it has already."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._parts = parts
        self._caller = caller
        self._worker = worker
        self._sent = after

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""

        async def write(body: bytes) -> None:
            with anyio.fail_after(WRITE_SECONDS):
                await send({"type": "http.response.body", "body": body, "more_body": True})

        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        gateway = self._caller.gateway.name
        with self._parts.serving_workers.holding(gateway, *self._worker) as holds:
            if holds:
                await self._until_its_end(receive, write)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_its_end(self, receive: Receive, write: Write) -> None:
        async with anyio.create_task_group() as tasks:

            async def until_disconnected() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            async def until_stopping() -> None:
                await self._parts.stopping.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_disconnected)
            tasks.start_soon(until_stopping)
            with contextlib.suppress(TimeoutError):  # it does not read: there is nobody to tell
                await self._write_events(write)
            tasks.cancel_scope.cancel()

    async def _write_events(self, write: Write) -> None:
        """Until the token expires or the caller is revoked."""
        parts = self._parts
        with parts.live.subscribe() as subscription:
            await self._catch_up(write)
            while self._may_go_on():
                if not parts.live.is_stale(STALE_SECONDS):
                    await write(self._heartbeat())
                await self._write_notices(subscription, write)

    async def _write_notices(self, subscription: Subscription, write: Write) -> None:
        """What happens until the next heartbeat is due."""
        due = anyio.current_time() + self._parts.heartbeat_seconds
        while self._may_go_on():
            notice: Notice | None = None
            with anyio.CancelScope(deadline=due):
                notice = await anext(subscription)
            if notice is None:
                return
            if isinstance(notice, RevocationEvent):
                await self._write_revocation(notice, write)
            else:
                await write(self._snapshot_notice())
                if notice == "resync":
                    await self._catch_up(write)

    async def _catch_up(self, write: Write) -> None:
        """Revocations the subscription does not bring: those before it, or those it dropped."""
        behind = self._parts.live.blocks.sequence - self._sent
        if not 0 <= behind <= MAXIMUM_CATCH_UP:
            # Another database than before, or too much to tell: the snapshot contains it all.
            self._sent = self._parts.live.blocks.sequence
            await write(self._snapshot_notice())
            return
        while events := await to_thread.run_sync(self._parts.revocations.events_after, self._sent):
            for event in events:
                await self._write_revocation(event, write)

    async def _write_revocation(self, event: RevocationEvent, write: Write) -> None:
        if event.sequence > self._sent:
            await write(_event("revocation", event))
            self._sent = event.sequence

    def _may_go_on(self) -> bool:
        caller = self._caller
        if math.floor(self._parts.clock()) >= caller.token.exp:
            return False
        return what_revokes_caller(self._parts, caller) is None

    def _heartbeat(self) -> bytes:
        return _event(
            "heartbeat",
            {
                "sequence": self._sent,
                "version": self._parts.live.snapshot.version,
                "now_ms": int(self._parts.clock() * 1000),
            },
        )

    def _snapshot_notice(self) -> bytes:
        return _event("snapshot", {"version": self._parts.live.snapshot.version})


def _event(name: str, data: Any) -> bytes:  # noqa: ANN401 - whatever can be encoded
    return b"event: " + name.encode() + b"\ndata: " + _encode(data) + b"\n\n"
