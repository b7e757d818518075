import asyncio
import json

import pytest

from audit_log.event import Outcome
from mcp_gateway.app import watch_lease
from mcp_gateway.open_calls import EndedBy, OpenCall
from mcp_gateway.relay import LOOKED_AT_BYTES
from mcp_gateway.upstream.protocol import UpstreamUnreachableError
from mcp_gateway.upstream.server_sent_events import KEEP_ALIVE
from registry.blocks import BlockKind
from tests.mcp_gateway.rig import Exchange, FakeReply, Rig, tool_call
from tests.mcp_gateway.test_caller import revocation

pytestmark = pytest.mark.anyio

NOTE = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
FINAL = b'event: message\ndata: {"jsonrpc":"2.0","id":1,"result":{"content":[]}}\n\n'
CALL = tool_call("get_account", {"id": 1})


def stream(*body: bytes | asyncio.Event | Exception) -> FakeReply:
    return FakeReply(media_type="text/event-stream", body=body)


def last_error(exchange: Exchange) -> dict[str, object]:
    event = exchange.body.strip().rpartition(b"data: ")[2]
    error: dict[str, object] = json.loads(event)["error"]
    return error


async def opened(rig: Rig, reply: FakeReply) -> tuple[Exchange, "asyncio.Task[None]"]:
    """A call whose first event has arrived and whose stream is still open."""
    rig.upstream.will(reply)
    exchange = Exchange()
    task = rig.start(exchange, rig.http(CALL))
    await exchange.until(lambda: bool(exchange.body) or task.done())
    return exchange, task


@pytest.mark.requirement("trap-notifications-lost")
async def test_event_stream_arrives_event_by_event(rig: Rig) -> None:
    more = asyncio.Event()
    exchange, task = await opened(rig, stream(b": ping\n\n", NOTE[:9], NOTE[9:], more, FINAL))
    await exchange.until(lambda: exchange.body == KEEP_ALIVE + NOTE)
    more.set()
    await task
    assert exchange.body == KEEP_ALIVE + NOTE + FINAL
    assert exchange.is_finished
    assert exchange.header("content-type") == ["text/event-stream"]
    assert exchange.header("x-accel-buffering") == ["no"]
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED


@pytest.mark.requirement("cancellation-travels-up")
async def test_agent_that_leaves_cancels_the_call_at_the_server(rig: Rig) -> None:
    reply = stream(NOTE, asyncio.Event())
    exchange, task = await opened(rig, reply)
    exchange.gone.set()
    async with asyncio.timeout(5):
        await task
    assert reply.is_closed
    assert not exchange.is_finished
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.CANCELLED, "disconnected")
    assert len(rig.parts.open_calls) == 0


@pytest.mark.requirement("cancellation-travels-up")
async def test_agent_that_leaves_before_any_reply_cancels_too(rig: Rig) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        asked.set()
        await never.wait()

    rig.upstream.before = hang
    exchange = Exchange()
    task = rig.start(exchange, rig.http(CALL))
    await asked.wait()
    exchange.gone.set()
    await task
    assert rig.events("call.finished")[-1].outcome is Outcome.CANCELLED


@pytest.mark.requirement("attack-28")
async def test_revocation_ends_the_open_stream_with_an_error(rig: Rig) -> None:
    reply = stream(NOTE, asyncio.Event())
    exchange, task = await opened(rig, reply)
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    assert rig.parts.open_calls.recheck(rig.parts.enforcement.blocks) == 1
    async with asyncio.timeout(5):
        await task
    assert reply.is_closed
    assert exchange.is_finished
    assert exchange.body.startswith(NOTE)
    assert last_error(exchange)["data"] == {"retryable": False, "category": "revoked"}
    (outcome,) = rig.events("call.finished")
    assert outcome.outcome is Outcome.REVOKED


async def three_open(rig: Rig) -> list[tuple[Exchange, "asyncio.Task[None]"]]:
    return [await opened(rig, stream(NOTE, asyncio.Event())) for _ in range(3)]


@pytest.mark.requirement("attack-28")
async def test_call_whose_token_ends_at_that_moment_keeps_no_other_from_being_revoked(
    rig: Rig,
) -> None:
    calls = await three_open(rig)
    expiring, *_ = rig.parts.open_calls.all()
    expiring.deadline.reschedule(0)
    await asyncio.sleep(0)  # its time is over, and its task has not run since
    assert expiring.deadline.expired()
    assert not expiring.is_over
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    assert rig.parts.open_calls.recheck(rig.parts.enforcement.blocks) == 3
    async with asyncio.timeout(5):
        await asyncio.gather(*(task for _, task in calls))
    ended = sorted(str(event.error_code) for event in rig.events("call.finished"))
    assert ended == ["expired", "revoked", "revoked"]


@pytest.mark.requirement("attack-28")
async def test_call_that_cannot_be_ended_keeps_no_other_open(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = await three_open(rig)
    stubborn, *_ = rig.parts.open_calls.all()
    end = OpenCall.end

    def fail_for_one(call: OpenCall, reason: EndedBy) -> None:
        if call is stubborn:
            raise RuntimeError
        end(call, reason)

    monkeypatch.setattr(OpenCall, "end", fail_for_one)
    rig.parts.open_calls.end_all(EndedBy.STALE)
    tasks = {task for _, task in calls}
    async with asyncio.timeout(5):
        while len(tasks) > 1:
            _, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert rig.parts.open_calls.all() == (stubborn,)
    monkeypatch.undo()
    stubborn.end(EndedBy.STALE)
    await asyncio.gather(*tasks)


async def test_revocation_of_someone_else_leaves_the_stream_open(rig: Rig) -> None:
    more = asyncio.Event()
    exchange, task = await opened(rig, stream(NOTE, more, FINAL))
    rig.parts.enforcement.apply(revocation(BlockKind.SUBJECT, "usr_bob"))
    assert rig.parts.open_calls.recheck(rig.parts.enforcement.blocks) == 0
    more.set()
    await task
    assert exchange.body == NOTE + FINAL


async def test_revocation_before_the_reply_is_a_challenge(rig: Rig) -> None:
    asked = asyncio.Event()

    async def hang() -> None:
        asked.set()
        await asyncio.Event().wait()

    rig.upstream.before = hang
    exchange = Exchange()
    task = rig.start(exchange, rig.http(CALL))
    await asked.wait()
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    rig.parts.open_calls.recheck(rig.parts.enforcement.blocks)
    await task
    assert exchange.status == 401
    assert exchange.json["id"] == 1
    assert rig.events("call.finished")[-1].outcome is Outcome.REVOKED


async def test_drain_lets_a_call_end_and_then_ends_the_rest(rig: Rig) -> None:
    more = asyncio.Event()
    ending, first = await opened(rig, stream(NOTE, more, FINAL))
    staying, second = await opened(rig, stream(NOTE, asyncio.Event()))
    draining = asyncio.create_task(rig.app.drain(0.05))
    more.set()
    await asyncio.gather(first, second, draining)
    assert ending.body == NOTE + FINAL
    assert last_error(staying)["code"] == -32008
    assert (await rig.post(CALL)).status == 503
    outcomes = {event.outcome for event in rig.events("call.finished")}
    assert outcomes == {Outcome.SUCCEEDED, Outcome.CANCELLED}


async def test_open_stream_ends_when_there_was_no_news_for_too_long(rig: Rig) -> None:
    exchange, task = await opened(rig, stream(NOTE, asyncio.Event()))
    watch = asyncio.create_task(watch_lease(rig.parts.enforcement, rig.parts.open_calls))
    rig.monotonic.now += 31
    async with asyncio.timeout(5):
        await task
    watch.cancel()
    assert last_error(exchange)["code"] == -32008
    assert rig.events("call.finished")[-1].error_code == EndedBy.STALE


@pytest.mark.parametrize(
    "body",
    [
        (NOTE,),
        (NOTE, UpstreamUnreachableError()),
        (NOTE, b'data: {"jsonrpc":"2.0","id":7,"method":"sampling/createMessage"}\n\n', FINAL),
        (NOTE, b'data: {"jsonrpc":"2.0","id":2,"result":{}}\n\n'),
        (NOTE, b"data: not json\n\n"),
        (NOTE, b'data: {"jsonrpc":"2.0","id":1,'),
    ],
)
async def test_stream_that_breaks_the_rules_is_ended_with_one_readable_error(
    rig: Rig, body: tuple[bytes | Exception, ...]
) -> None:
    exchange, task = await opened(rig, stream(*body))
    await task
    assert exchange.is_finished
    assert exchange.body.startswith(NOTE)
    assert exchange.body.count(b"data:") == 2
    assert last_error(exchange)["code"] == -32004
    assert rig.events("call.finished")[-1].outcome is Outcome.FAILED


async def test_of_an_event_only_its_message_is_passed_on(rig: Rig) -> None:
    """Nothing could be resumed by an id, and no other field means anything here."""
    priming, rest = b"id: 1\nretry: 5\ndata:\n\n", FINAL.partition(b"\n")[2]
    exchange, task = await opened(rig, stream(priming, b"id: 2\nevent: x\nfoo: bar\n" + rest))
    await task
    assert exchange.body == FINAL


async def test_long_json_reply_that_breaks_is_a_readable_error(rig: Rig) -> None:
    begun = b'{"jsonrpc":"2.0","id":1,"result":{"t":"' + b"x" * 300_000
    rig.upstream.will(FakeReply(body=(begun, b'"}}')))
    whole = await rig.post(CALL)
    assert whole.body == begun + b'"}}'
    assert whole.is_finished
    assert max(map(len, whole.chunks)) <= LOOKED_AT_BYTES  # each waits for a slow reader
    rig.upstream.will(FakeReply(body=(begun, UpstreamUnreachableError())))
    broken = await rig.post(CALL)
    assert (broken.status, broken.json["error"]["code"]) == (502, -32004)
    assert rig.events("call.finished")[-1].error_code == "upstream_unreachable"


REQUEST = b'{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage"}'
SPACES = b" " * 262_145


@pytest.mark.parametrize(
    "whole",
    [
        SPACES + REQUEST,
        SPACES + b'{"jsonrpc":"2.0","id":2,"result":{}}',
        SPACES + b"not json",
        b"\xef\xbb\xbf" + SPACES + b'{"jsonrpc":"2.0","id":1,"result":{}}',
    ],
)
async def test_long_json_that_is_no_answer_is_refused_and_audited_as_failed(
    rig: Rig, whole: bytes
) -> None:
    rig.upstream.will(FakeReply(body=(whole[:100_000], whole[100_000:])))
    refused = await rig.post(CALL)
    assert (refused.status, refused.json["error"]["code"]) == (502, -32004)
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.FAILED, "upstream_reply_invalid")


async def test_long_json_error_is_passed_on_and_audited_as_failed(rig: Rig) -> None:
    whole = SPACES + b'{"jsonrpc":"2.0","id":1,"result":{"isError":true,"content":[]}}'
    rig.upstream.will(FakeReply(body=(whole,)))
    exchange = await rig.post(CALL)
    assert (exchange.body, exchange.is_finished) == (whole.strip(), True)
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.FAILED, "tool_error")


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
async def test_byte_order_mark_hides_no_request_and_breaks_no_answer(rig: Rig, cut: int) -> None:
    hiding = b"\xef\xbb\xbfdata: " + REQUEST + b"\n\n"
    exchange, task = await opened(rig, stream(hiding[:cut], hiding[cut:], FINAL))
    await task
    assert last_error(exchange)["code"] == -32004
    assert b"sampling" not in exchange.body
    honest = b"\xef\xbb\xbf" + FINAL
    exchange, task = await opened(rig, stream(honest[:cut], honest[cut:]))
    await task
    assert exchange.body == FINAL
    doubled = b"\xef\xbb\xbf" * 2 + FINAL.partition(b"\n")[2]
    exchange, task = await opened(rig, stream(doubled))
    await task
    assert last_error(exchange)["code"] == -32004  # of which no reader sees an answer


@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(
    "filling", [b"\\u0061", b"\\u003c/p", b"1.5,", b"data:\n", b"[]\n,", b"\\\\"]
)
async def test_large_reply_lets_other_calls_through(
    rig: Rig, media_type: str, filling: bytes
) -> None:
    rig.with_server(maximum_response_bytes=20_000_000)
    begun = b'data: {"jsonrpc":"2.0","id":1,"result":{"x":["'
    body = (filling * (4_000_000 // len(filling)), b'"]}}\n\n')
    rig.upstream.will(FakeReply(media_type=media_type, body=(begun, *body)))
    turns = 0
    exchange = Exchange()
    task = rig.start(exchange, rig.http(CALL))
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 4_000_000 // 65_536 // 8  # with the dearest filling it is given up at an eighth


async def test_task_that_is_cancelled_from_outside_still_leaves_an_outcome(rig: Rig) -> None:
    _, task = await opened(rig, stream(NOTE, asyncio.Event()))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.CANCELLED, "cancelled")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r"])
async def test_event_stream_cut_anywhere_is_the_same_stream(rig: Rig, end: bytes) -> None:
    note = b'data: {"jsonrpc":"2.0","method":"notifications/progress"}'
    final = b'data: {"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
    whole = note + end + b": ping" + end + final + end
    for cut in range(len(note), len(whole), 3):
        exchange, task = await opened(rig, stream(whole[:cut], whole[cut:]))
        await task
        assert exchange.body.replace(KEEP_ALIVE, b"") == NOTE + FINAL
        assert exchange.is_finished


async def test_stream_that_ends_within_an_event_is_refused(rig: Rig) -> None:
    _, task = await opened(rig, stream(NOTE, FINAL, b"data: {"))
    await task
    assert rig.events("call.finished")[-1].outcome is Outcome.FAILED


@pytest.mark.parametrize("after", [FINAL, NOTE])
async def test_message_after_the_answer_is_refused_and_not_passed_on(
    rig: Rig, after: bytes
) -> None:
    exchange, task = await opened(rig, stream(NOTE, FINAL, after))
    await task
    assert exchange.body == NOTE + FINAL
    assert exchange.is_finished
    assert rig.events("call.finished")[-1].outcome is Outcome.FAILED
