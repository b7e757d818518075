"""A legacy call in flight: leaving is not cancelling, cancelling is; and what bounds both."""

import asyncio

import pytest

from audit_log.event import Outcome
from mcp_gateway.eras import sessions as limits
from mcp_gateway.eras.in_flight import InFlightCalls
from mcp_gateway.open_calls import EndedBy
from registry.blocks import BlockKind
from tests.mcp_gateway.legacy_agent import LegacyAgent, agent_of, bob, call
from tests.mcp_gateway.rig import Exchange, FakeReply, Rig, rpc_reply
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_inbound import error_of

pytestmark = pytest.mark.anyio

NOTE = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
FINAL = b'event: message\ndata: {"jsonrpc":"2.0","id":1,"result":{"content":[]}}\n\n'
ACCOUNT = call("get_account", {"id": 1})


def stream(*body: bytes | asyncio.Event | Exception) -> FakeReply:
    return FakeReply(media_type="text/event-stream", body=body)


async def begun(agent: LegacyAgent, reply: FakeReply) -> tuple[Exchange, "asyncio.Task[None]"]:
    """A call whose first event has arrived."""
    agent.rig.upstream.will(reply)
    exchange, task = agent.start(ACCOUNT)
    await exchange.until(lambda: bool(exchange.body))
    return exchange, task


@pytest.mark.requirement("MCP-2025-11-25")
async def test_agent_that_leaves_has_not_cancelled(rig: Rig) -> None:
    agent = await agent_of(rig)
    more = asyncio.Event()
    reply = stream(NOTE, more, NOTE, FINAL)
    exchange, task = await begun(agent, reply)
    exchange.gone.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    assert len(rig.parts.open_calls) == 1
    more.set()
    async with asyncio.timeout(5):
        await task
    assert exchange.body == NOTE
    (outcome,) = rig.events("call.finished")
    assert outcome.outcome is Outcome.SUCCEEDED


async def test_agent_that_leaves_before_any_reply_has_not_cancelled_either(rig: Rig) -> None:
    agent = await agent_of(rig)
    asked, more = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        asked.set()
        await more.wait()

    rig.upstream.before = wait
    exchange, task = agent.start(ACCOUNT)
    await asked.wait()
    exchange.gone.set()
    for _ in range(20):
        await asyncio.sleep(0)
    more.set()
    await task
    assert exchange.status is None
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.status) == (Outcome.SUCCEEDED, None)


@pytest.mark.requirement("MCP-2025-11-25")
@pytest.mark.requirement("cancellation-travels-up")
async def test_cancelled_call_ends_at_the_server_at_once_and_without_a_reply(rig: Rig) -> None:
    agent = await agent_of(rig)
    reply = stream(NOTE, asyncio.Event())
    exchange, task = await begun(agent, reply)
    told = await agent.tell("notifications/cancelled", {"requestId": 1, "reason": "enough"})
    assert (told.status, told.body) == (202, b"")
    async with asyncio.timeout(5):
        await task
    assert reply.is_closed
    assert (exchange.body, exchange.is_finished) == (NOTE, True)
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.CANCELLED, "cancelled")
    assert len(rig.parts.open_calls) == 0


async def test_call_cancelled_before_any_reply_gets_an_empty_stream(rig: Rig) -> None:
    agent = await agent_of(rig)
    asked = asyncio.Event()

    async def hang() -> None:
        asked.set()
        await asyncio.Event().wait()

    rig.upstream.before = hang
    exchange, task = agent.start(ACCOUNT)
    await asked.wait()
    await agent.tell("notifications/cancelled", {"requestId": 1})
    await task
    assert (exchange.status, exchange.body, exchange.is_finished) == (200, b"", True)
    assert exchange.header("content-type") == ["text/event-stream"]
    assert rig.events("call.finished")[-1].outcome is Outcome.CANCELLED


async def test_agent_that_left_can_still_cancel(rig: Rig) -> None:
    agent = await agent_of(rig)
    reply = stream(NOTE, asyncio.Event())
    exchange, task = await begun(agent, reply)
    exchange.gone.set()
    await asyncio.sleep(0)
    await agent.tell("notifications/cancelled", {"requestId": 1})
    async with asyncio.timeout(5):
        await task
    assert reply.is_closed
    assert rig.events("call.finished")[-1].outcome is Outcome.CANCELLED


@pytest.mark.requirement("trap-session-swapped")
async def test_cancellation_reaches_only_the_calls_of_its_own_session_and_id(rig: Rig) -> None:
    agent, twin, other = await agent_of(rig), await agent_of(rig), await bob(rig)
    more = asyncio.Event()
    exchange, task = await begun(agent, stream(NOTE, more, FINAL))
    for stranger, request_id in ((twin, 1), (other, 1), (agent, 2), (agent, "1")):
        told = await stranger.tell("notifications/cancelled", {"requestId": request_id})
        assert told.status == 202
    other.session = agent.session
    swapped = await other.tell("notifications/cancelled", {"requestId": 1})
    assert error_of(swapped) == (404, -32600)
    more.set()
    await task
    assert exchange.body == NOTE + FINAL
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED


@pytest.mark.requirement("trap-request-id-reuse")
async def test_two_calls_of_one_id_are_both_served_and_both_cancelled(rig: Rig) -> None:
    agent = await agent_of(rig)
    first, one = await begun(agent, stream(NOTE, asyncio.Event()))
    second, two = await begun(agent, stream(NOTE, asyncio.Event()))
    await agent.tell("notifications/cancelled", {"requestId": 1})
    async with asyncio.timeout(5):
        await asyncio.gather(one, two)
    assert (first.is_finished, second.is_finished) == (True, True)
    rig.upstream.will(rpc_reply(1, {"content": []}))
    assert (await agent.post(ACCOUNT)).json["result"] == {"content": []}


async def test_cancellation_that_comes_before_the_call_is_open_is_kept(rig: Rig) -> None:
    agent = await agent_of(rig)
    written = rig.parts.audit.intent

    async def slow(intent: object) -> None:
        await agent.tell("notifications/cancelled", {"requestId": 1})
        await written(intent)  # type: ignore[arg-type] # as the trail takes it

    object.__setattr__(rig.parts.audit, "intent", slow)
    exchange = await agent.post(ACCOUNT)
    assert (exchange.status, exchange.body) == (200, b"")
    assert not rig.upstream.requests
    assert rig.events("call.finished")[-1].outcome is Outcome.CANCELLED


async def test_deleting_the_session_cancels_its_calls_and_no_others(rig: Rig) -> None:
    agent, other = await agent_of(rig), await agent_of(rig)
    more = asyncio.Event()
    ended, one = await begun(agent, stream(NOTE, asyncio.Event()))
    kept, two = await begun(other, stream(NOTE, more, FINAL))
    assert (await agent.delete()).status == 204
    async with asyncio.timeout(5):
        await one
    more.set()
    await two
    assert (ended.body, kept.body) == (NOTE, NOTE + FINAL)


@pytest.mark.requirement("attack-28")
async def test_revocation_ends_a_legacy_call_with_an_error_it_can_read(rig: Rig) -> None:
    agent = await agent_of(rig)
    exchange, task = await begun(agent, stream(NOTE, asyncio.Event()))
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
    await task
    assert b'"category":"revoked"' in exchange.body
    assert rig.events("call.finished")[-1].outcome is Outcome.REVOKED


async def test_call_of_an_agent_that_left_ends_with_its_token(rig: Rig) -> None:
    agent = LegacyAgent(rig, token=rig.token(rig.claims(exp=int(rig.clock.now) + 1)))
    await agent.initialize()
    rig.clock.now += 0.98  # the deadline counts real time from here
    exchange, task = await begun(agent, stream(NOTE, asyncio.Event()))
    exchange.gone.set()
    async with asyncio.timeout(5):
        await task
    assert rig.events("call.finished")[-1].error_code == EndedBy.EXPIRED


async def test_principal_has_so_many_calls_in_flight_and_no_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLS_PER_HOLDER", 2)
    agents = [await agent_of(rig) for _ in range(3)]
    other = await bob(rig)
    more = asyncio.Event()
    tasks = [(await begun(agent, stream(NOTE, more, FINAL)))[1] for agent in agents[:2]]
    assert error_of(await agents[2].post(ACCOUNT)) == (429, -32600)
    assert rig.events("call.refused")[-1].status == 429
    assert (await agents[2].ask("ping")).status == 200
    tasks.append((await begun(other, stream(NOTE, more, FINAL)))[1])
    more.set()
    await asyncio.gather(*tasks)
    rig.upstream.will(rpc_reply(1, {"content": []}))
    assert (await agents[2].post(ACCOUNT)).status == 200


def test_calls_in_flight_leave_nothing_behind() -> None:
    calls = InFlightCalls()
    with calls.registered(1) as one, calls.registered(1) as same, calls.registered("1") as text:
        assert len(calls) == 3
        calls.cancel(1)
        assert [call.is_cancelled for call in (one, same, text)] == [True, True, False]
        heard: list[int] = []
        one.on_cancelled(lambda: heard.append(1))
        text.on_cancelled(lambda: heard.append(2))
        calls.cancel_all()
        assert heard == [1, 1, 2]
    assert len(calls) == 0
    calls.cancel(1)
