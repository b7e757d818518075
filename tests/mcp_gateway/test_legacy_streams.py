"""The listening stream of a legacy session: what it tells, and everything that ends it."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest

from audit_log.event import Outcome
from mcp_gateway.app import watch_lease
from mcp_gateway.eras import session_requests
from mcp_gateway.eras import sessions as limits
from mcp_gateway.open_calls import EndedBy
from mcp_gateway.standing import end_what_no_longer_stands
from registry.blocks import BlockKind
from registry.snapshot import PolicyDocument, PolicySetEntry
from tests.mcp_gateway.legacy_agent import LegacyAgent, agent_of, bob
from tests.mcp_gateway.rig import GRANTS, TOOLS, Exchange, Rig, agent_entry
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_inbound import error_of

pytestmark = pytest.mark.anyio

HELLO = b": listening\n\n"
CHANGED = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n'


async def listening(agent: LegacyAgent) -> tuple[Exchange, "asyncio.Task[None]"]:
    exchange, task = agent.listen()
    await exchange.until(lambda: bool(exchange.body) or task.done())
    return exchange, task


async def ended(exchange: Exchange, task: "asyncio.Task[None]") -> bytes:
    async with asyncio.timeout(5):
        await task
    assert exchange.is_finished
    return exchange.body


async def adopted(rig: Rig, **changes: Any) -> None:
    """A newer snapshot, as the control channel adopts it."""
    rig.adopt(msgspec.structs.replace(rig.view, version=rig.view.version + 1, **changes))
    await end_what_no_longer_stands(rig.parts)


@pytest.mark.requirement("MCP-2025-11-25")
async def test_stream_begins_at_once_and_ends_when_the_agent_leaves(rig: Rig) -> None:
    agent = await agent_of(rig)
    exchange, task = await listening(agent)
    assert (exchange.status, exchange.body) == (200, HELLO)
    assert exchange.header("content-type") == ["text/event-stream"]
    assert exchange.header("x-accel-buffering") == ["no"]
    assert len(rig.parts.open_calls.streams()) == 1
    exchange.gone.set()
    async with asyncio.timeout(5):
        await task
    assert not rig.parts.open_calls.streams()
    assert (await agent.ask("ping")).status == 200


async def test_silent_stream_gets_comments_which_keep_its_session(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_requests, "KEEP_ALIVE_SECONDS", 0.001)
    agent = await agent_of(rig)
    exchange, task = await listening(agent)
    rig.clock.now += 500
    await exchange.until(lambda: exchange.body.count(b": keep-alive\n\n") > 2)
    rig.clock.now += limits.IDLE_SECONDS - 1
    now = int(rig.clock.now)
    exchange.gone.set()
    await task
    agent.token = rig.token(rig.claims(iat=now - 1, exp=now + 100))
    assert (await agent.ask("ping")).status == 200


@pytest.mark.requirement("MCP-2025-11-25")
@pytest.mark.parametrize(
    "what", ["tools", "policy", "agent"], ids=["catalogue", "policy", "agent's own tools"]
)
async def test_change_of_what_may_be_seen_is_told(rig: Rig, what: str) -> None:
    agent = await agent_of(rig)
    exchange, _task = await listening(agent)
    policies = PolicySetEntry(4, (PolicyDocument("support", GRANTS),))
    servers = (msgspec.structs.replace(rig.view.servers[0], tools=TOOLS[:1]),)
    agents = (agent_entry(tools=("crm/refund",)), *rig.view.agents[1:])
    changes: dict[str, dict[str, Any]] = {
        "tools": {"servers": servers},
        "policy": {"policies": policies},
        "agent": {"agents": agents},
    }
    await adopted(rig, **changes[what])
    await exchange.until(lambda: exchange.body == HELLO + CHANGED)
    exchange.gone.set()


async def test_snapshot_that_changes_nothing_of_ours_is_not_told(rig: Rig) -> None:
    agent = await agent_of(rig)
    exchange, task = await listening(agent)
    await adopted(rig, agents=(*rig.view.agents, agent_entry("third-bot")))
    rig.parts.open_calls.end_streams(EndedBy.SHUTDOWN)
    assert await ended(exchange, task) == HELLO


@pytest.mark.requirement("attack-28")
async def test_revocation_ends_the_stream_and_is_audited(rig: Rig) -> None:
    agent, other = await agent_of(rig), await bob(rig)
    mine, task = await listening(agent)
    others, other_task = await listening(other)
    rig.parts.enforcement.apply(revocation(BlockKind.SUBJECT, "usr_alice"))
    rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
    assert await ended(mine, task) == HELLO
    assert not other_task.done()
    (event,) = rig.events("stream.closed")
    assert (event.outcome, event.error_code) == (Outcome.REVOKED, "revoked")
    assert (event.user, event.request_method) == ("usr_alice", "GET")
    assert (await rig.send(agent.bodiless("GET"))).status == 401
    others.gone.set()


@pytest.mark.parametrize("what", ["the server moved", "the agent is gone", "stricter", "no server"])
async def test_snapshot_that_no_longer_admits_the_caller_ends_the_stream(
    rig: Rig, what: str
) -> None:
    exchange, task = await listening(await agent_of(rig))
    server = rig.view.servers[0]
    moved = msgspec.structs.replace(server, url="http://elsewhere.example/mcp")
    changes: dict[str, dict[str, Any]] = {
        "the server moved": {"servers": (moved,)},
        "the agent is gone": {"agents": rig.view.agents[1:]},
        "stricter": {"agents": (agent_entry(minimum_level=2),)},
        "no server": {"servers": ()},
    }
    await adopted(rig, **changes[what])
    assert await ended(exchange, task) == HELLO
    assert rig.events("stream.closed")[-1].error_code == "withdrawn"


async def test_stream_ends_with_its_token(rig: Rig) -> None:
    agent = LegacyAgent(rig, token=rig.token(rig.claims(exp=int(rig.clock.now) + 1)))
    await agent.initialize()
    rig.clock.now += 0.95
    exchange, task = await listening(agent)
    assert await ended(exchange, task) == HELLO
    assert not rig.events("stream.closed")


async def test_stream_ends_when_the_gateway_drains(rig: Rig) -> None:
    exchange, task = await listening(await agent_of(rig))
    await rig.app.drain(5)  # at once: a stream would never come to its own end
    assert await ended(exchange, task) == HELLO


async def test_stream_ends_when_there_was_no_news_for_too_long(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_gateway.app.LEASE_CHECK_SECONDS", 0.001)
    exchange, task = await listening(await agent_of(rig))
    rig.monotonic.now += 31
    watch = asyncio.create_task(watch_lease(rig.parts.enforcement, rig.parts.open_calls))
    assert await ended(exchange, task) == HELLO
    watch.cancel()


async def test_revocation_between_admission_and_opening_is_seen(rig: Rig) -> None:
    agent = await agent_of(rig)
    may_listen = rig.parts.sessions.may_listen

    def revoked_meanwhile(session: Any) -> bool:
        rig.parts.enforcement.apply(revocation(BlockKind.SUBJECT, "usr_alice"))
        return may_listen(session)

    object.__setattr__(rig.parts.sessions, "may_listen", revoked_meanwhile)
    exchange, task = agent.listen()
    assert HELLO not in await ended(exchange, task)


@pytest.mark.requirement("MCP-2025-11-25")
async def test_newer_stream_of_a_session_takes_the_place_of_the_older(rig: Rig) -> None:
    agent = await agent_of(rig)
    older, task = await listening(agent)
    newer, newer_task = await listening(agent)
    assert await ended(older, task) == HELLO
    assert not newer_task.done()
    await adopted(rig, policies=PolicySetEntry(4, (PolicyDocument("support", GRANTS),)))
    await newer.until(lambda: newer.body == HELLO + CHANGED)
    assert len(rig.parts.open_calls.streams()) == 1
    newer.gone.set()


async def test_deleted_session_ends_its_stream(rig: Rig) -> None:
    agent = await agent_of(rig)
    exchange, task = await listening(agent)
    assert (await agent.delete()).status == 204
    assert await ended(exchange, task) == HELLO
    assert error_of(await rig.send(agent.bodiless("GET"))) == (404, -32600)


async def test_principal_has_so_many_streams_and_no_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAMS_PER_HOLDER", 1)
    first, second, other = await agent_of(rig), await agent_of(rig), await bob(rig)
    exchange, task = await listening(first)
    assert error_of(await rig.send(second.bodiless("GET"))) == (429, -32600)
    assert rig.events("call.refused")[-1].request_method == "GET"
    others, other_task = await listening(other)
    assert not other_task.done()
    exchange.gone.set()
    await task
    again, _ = await listening(second)
    assert again.body == HELLO
    again.gone.set()
    others.gone.set()


async def test_slow_reader_holds_no_memory_and_can_be_cut_off(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writes wait; what it missed is one mark; a revocation does not wait for it."""
    monkeypatch.setattr(session_requests, "LAST_WORD_SECONDS", 0.01)
    agent = await agent_of(rig)
    request = agent.bodiless("GET")
    sent: list[MutableMapping[str, Any]] = []
    stuck = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        if len(sent) > 1:
            stuck.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(rig.app(request.scope(), receive, send))
    await stuck.wait()
    for version in range(4, 40):
        await adopted(rig, policies=PolicySetEntry(version, (PolicyDocument("x", GRANTS),)))
    assert len(sent) == 2
    rig.parts.enforcement.apply(revocation(BlockKind.SUBJECT, "usr_alice"))
    rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
    async with asyncio.timeout(5):
        await task
    assert not rig.parts.open_calls.streams()


@pytest.mark.requirement("attack-28")
async def test_stream_whose_token_ends_at_that_moment_keeps_no_other_from_being_revoked(
    rig: Rig,
) -> None:
    opened = [await listening(await agent_of(rig)) for _ in range(3)]
    expiring, *_ = rig.parts.open_calls.streams()
    expiring.deadline.reschedule(0)
    await asyncio.sleep(0)  # its time is over, and its task has not run since
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
    for exchange, task in opened:
        await ended(exchange, task)
    assert [event.error_code for event in rig.events("stream.closed")] == ["revoked", "revoked"]
