"""A call at a legacy server that ends early: the server is told, and nobody waits for it."""

import asyncio

import pytest

from audit_log.event import Outcome
from mcp_gateway.upstream.protocol import UpstreamTimeoutError, UpstreamUnreachableError
from registry.blocks import BlockKind
from tests.mcp_gateway.legacy_rig import (
    CALL,
    LegacyServer,
    answer,
    behind,
    call_with,
    events,
    legacy_server,
    progress,
)
from tests.mcp_gateway.rig import Exchange, Rig
from tests.mcp_gateway.test_caller import revocation

pytestmark = pytest.mark.anyio


def number_of(server: LegacyServer) -> int:
    return int(server.of("tools/call")[-1].message["id"])


async def begun(rig: Rig, server: LegacyServer) -> tuple[Exchange, "asyncio.Task[None]"]:
    """A call whose stream is open and has said something."""
    server.on["tools/call"] = lambda sent: events(
        progress(sent.message["id"]), asyncio.Event(), answer(sent.message["id"])
    )
    exchange = Exchange()
    task = rig.start(exchange, rig.http(call_with(progressToken=1)))
    await exchange.until(lambda: b"0.5" in exchange.body)
    return exchange, task


@pytest.mark.requirement("cancellation-travels-up")
async def test_agent_that_leaves_cancels_the_call_and_then_the_stream_is_closed(rig: Rig) -> None:
    server = legacy_server(rig)
    exchange, task = await begun(rig, server)
    stream = server.replies[-1]
    was_open = []

    async def look() -> None:
        was_open.append(not stream.is_closed)

    server.before["notifications/cancelled"] = look
    exchange.gone.set()
    await task
    await server.until(lambda: stream.is_closed)
    (cancelled,) = server.of("notifications/cancelled")
    assert cancelled.message["params"]["requestId"] == number_of(server)
    assert cancelled.session == "session-1"
    assert was_open == [True]
    assert rig.events("call.finished")[-1].outcome is Outcome.CANCELLED


@pytest.mark.requirement("cancellation-travels-up")
async def test_agent_that_leaves_before_any_reply_cancels_too(rig: Rig) -> None:
    server = legacy_server(rig)
    asked = asyncio.Event()

    async def hang() -> None:
        asked.set()
        await asyncio.Event().wait()

    server.before["tools/call"] = hang
    exchange = Exchange()
    task = rig.start(exchange, rig.http(CALL))
    await asked.wait()
    exchange.gone.set()
    await task
    await server.until(lambda: bool(server.of("notifications/cancelled")))
    assert server.of("notifications/cancelled")[0].message["params"]["requestId"] == 1


@pytest.mark.requirement("attack-28")
async def test_kill_ends_the_stream_cancels_the_call_and_ends_the_session(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    exchange, task = await begun(rig, server)
    event = revocation(BlockKind.AGENT, "support-bot")
    rig.parts.enforcement.apply(event)
    upstream.forget(event)
    rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
    await task
    assert b"revoked" in exchange.body
    await server.until(lambda: bool(server.of("DELETE")))
    assert server.methods()[-2:] == ["notifications/cancelled", "DELETE"]
    assert server.sessions == set()


async def test_kill_does_not_wait_for_a_server_that_does_not_listen(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    exchange, task = await begun(rig, server)
    server.before["notifications/cancelled"] = asyncio.Event().wait  # type: ignore[assignment]
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
    async with asyncio.timeout(1):
        await task
    assert exchange.is_finished
    for farewell in upstream._legacy._farewells._tasks:
        farewell.cancel()
    await upstream.aclose()
    assert server.replies[-1].is_closed


@pytest.mark.parametrize("error", [UpstreamTimeoutError(), UpstreamUnreachableError()])
async def test_stream_that_falls_silent_or_breaks_is_cancelled_at_the_server(
    rig: Rig, error: Exception
) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda sent: events(progress(sent.message["id"]), error)
    exchange = await rig.post(call_with(progressToken=1))
    assert b"-32004" in exchange.body
    await server.until(lambda: bool(server.of("notifications/cancelled")))
    assert len(server.of("tools/call")) == 1


async def test_answered_call_is_not_cancelled(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    server.on["tools/call"] = lambda sent: events(answer(sent.message["id"]), asyncio.Event())
    await rig.post(CALL)
    await upstream.aclose()
    assert server.of("notifications/cancelled") == []
