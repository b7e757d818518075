"""The event stream: everything in order, a heartbeat, and an end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from registry.blocks import (
    FORGET_EVERY_SECONDS,
    FORGET_SECONDS,
    BlockKind,
    RevocationEvent,
)
from tests.authz_server.back_half import Authority, GatewayProcess

pytestmark = pytest.mark.anyio


@dataclass
class Listener:
    """One open stream, read event by event, straight from the application."""

    messages: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    hang_up: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    async def status(self) -> int:
        start = await asyncio.wait_for(self.messages.get(), 5)
        assert start["type"] == "http.response.start"
        return int(start["status"])

    async def next(self, *names: str) -> tuple[str, dict[str, Any]] | None:
        """The next event, of one of `names` if given; None at the end of the stream."""
        while True:
            message = await asyncio.wait_for(self.messages.get(), 5)
            if not message.get("more_body"):
                return None
            head, data = message["body"].decode().strip().split("\n")
            name = head.removeprefix("event: ")
            if not names or name in names:
                return name, msgspec.json.decode(data.removeprefix("data: "))

    async def end(self) -> None:
        while await self.next() is not None:
            pass
        assert self.task is not None
        await asyncio.wait_for(self.task, 5)


@asynccontextmanager
async def listening(
    gateway: GatewayProcess, query: str = "", worker: str = "gateway.demo.1", memory: str = ""
) -> AsyncIterator[Listener]:
    token = await gateway.control_token()
    headers = gateway.control_headers(token, "events") | {"countersign-worker": worker}
    headers |= {"countersign-memory": memory} if memory else {}
    listener = Listener()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/control/v1/events",
        "raw_path": b"/control/v1/events",
        "root_path": "",
        "scheme": "http",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 8700),
        "client": ("127.0.0.1", 1),
    }
    received_request = False

    async def receive() -> dict[str, Any]:
        nonlocal received_request
        if not received_request:
            received_request = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await listener.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await listener.messages.put(message)

    listener.task = asyncio.ensure_future(gateway.authority.app(scope, receive, send))
    try:
        yield listener
    finally:
        listener.hang_up.set()
        await asyncio.wait_for(listener.task, 5)


async def test_control_events_begin_with_what_was_missed(authority: Authority) -> None:
    gateway = await authority.enrolled()
    for name in ("support-bot", "batch-bot", "night-watch"):
        await authority.block(BlockKind.AGENT, name)
    async with listening(gateway, "after=1") as stream:
        assert await stream.status() == 200
        events = [await stream.next("revocation") for _ in range(2)]
        assert [event and event[1]["id"] for event in events] == ["batch-bot", "night-watch"]
        heartbeat = await stream.next()
        assert heartbeat is not None
        assert heartbeat[0] == "heartbeat"
        assert heartbeat[1]["sequence"] == 3


async def test_control_events_bring_a_revocation_as_it_happens(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        assert await stream.next("heartbeat") is not None
        await authority.block(BlockKind.AGENT, "support-bot")
        event = await stream.next("revocation")
        assert event is not None
        assert (event[1]["kind"], event[1]["id"], event[1]["blocked"]) == (
            "agent",
            "support-bot",
            True,
        )
        heartbeat = await stream.next("heartbeat")
        assert heartbeat is not None
        assert heartbeat[1]["sequence"] == event[1]["sequence"]


async def test_control_events_tell_of_a_new_snapshot(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        assert await stream.next("heartbeat") is not None
        await authority.enrolled("other")
        event = await stream.next("snapshot")
        assert event == ("snapshot", {"version": authority.parts.live.snapshot.version})


@pytest.mark.requirement("control-events")
async def test_control_events_bring_every_revocation_in_order(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        assert await stream.next("heartbeat") is not None
        for number in range(300):  # more than a subscription keeps
            await authority.parts.revocations.block(
                BlockKind.TOKEN, f"tok_{number}", reason="", author="test"
            )
        await authority.parts.live.refresh()
        seen = [await stream.next("revocation") for _ in range(300)]
        assert [event and event[1]["sequence"] for event in seen] == list(range(1, 301))


@pytest.mark.requirement("runs-forgotten")
async def test_control_events_bring_a_gateway_that_was_away_to_the_state_without_dropped_rows(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    await authority.block(BlockKind.SESSION, "ses_1")
    stayed = authority.parts.live.blocks
    for name in ("inv_1", "inv_2"):
        await authority.block(BlockKind.INVOCATION, name)
    away = authority.parts.live.blocks
    authority.clock.now += FORGET_SECONDS + FORGET_EVERY_SECONDS + 1
    await authority.block(BlockKind.INVOCATION, "inv_3")
    for before in (stayed, away):
        async with listening(gateway, f"after={before.sequence}") as stream:
            assert await stream.status() == 200
            event, heartbeat = await stream.next("revocation"), await stream.next("heartbeat")
            assert event is not None
            assert heartbeat is not None
            assert (event[1]["id"], heartbeat[1]["sequence"]) == ("inv_3", 4)
            caught_up = before.applying(msgspec.convert(event[1], RevocationEvent))
            assert caught_up == authority.parts.live.blocks
            assert set(caught_up.entries) == {
                (BlockKind.SESSION, "ses_1"),
                (BlockKind.INVOCATION, "inv_3"),
            }


async def test_control_events_end_with_the_token(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        assert await stream.next("heartbeat") is not None
        authority.clock.now += 900
        await stream.end()


async def test_control_events_end_at_shutdown(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        authority.parts.stopping.begin()
        await stream.end()
    async with listening(gateway) as stream:
        assert await stream.status() == 503


async def test_control_events_end_when_the_gateway_hangs_up(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        stream.hang_up.set()
        await stream.end()


@pytest.mark.requirement("attack-28")
async def test_control_events_end_when_the_gateway_is_revoked(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        assert await stream.next("heartbeat") is not None
        await authority.block(BlockKind.CLIENT, "gateway:demo")
        await stream.end()


async def test_control_events_end_when_the_key_is_removed(authority: Authority) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        await authority.remove_key(gateway)
        await stream.end()


@pytest.mark.requirement("control-events")
async def test_control_events_have_no_heartbeat_while_our_picture_is_stale(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as stream:
        assert await stream.status() == 200
        assert await stream.next("heartbeat") is not None
        authority.clock.now += 2  # nobody refreshed since
        while True:
            try:
                await asyncio.wait_for(stream.messages.get(), 0.1)
            except TimeoutError:
                break
        await authority.parts.live.refresh()
        assert await stream.next("heartbeat") is not None


async def test_control_events_after_a_sequence_of_another_database_tell_of_the_snapshot(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway, "after=4711") as stream:
        assert await stream.status() == 200
        event = await stream.next()
        assert event is not None
        assert event[0] == "snapshot"
        heartbeat = await stream.next("heartbeat")
        assert heartbeat is not None
        assert heartbeat[1]["sequence"] == 0


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30, "%C2%B2"])
async def test_control_events_after_nonsense_are_refused(authority: Authority, after: str) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway, f"after={after}") as stream:
        assert await stream.status() == 400


@pytest.mark.requirement("one-worker-per-gateway")
async def test_control_events_are_for_one_worker_of_a_gateway_at_a_time(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway, worker="gateway.demo.1") as first:
        assert await first.status() == 200
        async with listening(gateway, worker="gateway.demo.2") as second:
            assert await second.status() == 503
            assert authority.refusals()[-1].reasons == ("control.one_worker",)
        for worker, status in (("gateway.demo.1", 200), ("gateway.demo.2", 503)):
            headers = gateway.control_headers(await gateway.control_token(), "snapshot")
            headers |= {"countersign-worker": worker}
            async with authority.http() as http:
                answer = await http.get("/control/v1/snapshot", headers=headers)
            assert answer.status_code == status
    async with listening(gateway, worker="gateway.demo.2") as second:
        assert await second.status() == 200


async def test_control_events_of_a_worker_that_reconnects_may_overlap(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    async with listening(gateway) as first, listening(gateway) as again:
        assert await first.status() == 200
        assert await again.status() == 200


@pytest.mark.requirement("one-worker-per-gateway")
async def test_control_events_are_for_all_workers_that_share_one_memory(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    async with (
        listening(gateway, worker="gateway.demo.1", memory="shared") as first,
        listening(gateway, worker="gateway.demo.2", memory="shared") as second,
    ):
        assert [await first.status(), await second.status()] == [200, 200]
        for memory in ("another", ""):
            async with listening(gateway, worker="gateway.demo.3", memory=memory) as third:
                assert await third.status() == 503
                assert authority.refusals()[-1].reasons == ("control.one_worker",)
        for memory, status in (("shared", 200), ("another", 503), ("", 503), ("x" * 65, 400)):
            headers = gateway.control_headers(await gateway.control_token(), "snapshot")
            headers |= {"countersign-worker": "gateway.demo.3", "countersign-memory": memory}
            async with authority.http() as http:
                answer = await http.get("/control/v1/snapshot", headers=headers)
            assert answer.status_code == status, memory
