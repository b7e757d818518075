"""What an agent sees of a legacy server's replies: its own ids and modern results only."""

import asyncio
import json
from typing import Any

import pytest

from audit_log.event import Outcome
from tests.mcp_gateway.legacy_rig import (
    CALL,
    EVENT_STREAM,
    LegacyReply,
    Sent,
    answer,
    call_with,
    data_of,
    events,
    json_reply,
    legacy_server,
    progress,
)
from tests.mcp_gateway.rig import TARGET_TOKEN, Exchange, Rig

pytestmark = pytest.mark.anyio
QUESTION = b'{"jsonrpc":"2.0","id":"q-1","method":"%b","params":{}}'


@pytest.mark.requirement("trap-notifications-lost")
async def test_stream_arrives_event_by_event_with_the_agents_own_progress_token(rig: Rig) -> None:
    server, more = legacy_server(rig), asyncio.Event()

    def streamed(sent: Sent) -> LegacyReply:
        number = sent.message["id"]
        assert sent.message["params"]["_meta"]["progressToken"] == number
        return LegacyReply(
            200,
            EVENT_STREAM,
            (
                b"id: 1\nretry: 5\ndata:\n\n",
                b"id: 2\nevent: message\ndata: " + progress(number) + b"\n\n: ping\n\n",
                b"data: " + progress(99) + b"\n\n",
                b'data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n',
                more,
                b"id: 3\ndata: " + answer(number) + b"\n\n",
            ),
        )

    server.on["tools/call"] = streamed
    exchange = Exchange()
    task = rig.start(exchange, rig.http(call_with(progressToken="mine")))
    await exchange.until(lambda: b"0.5" in exchange.body)
    assert not task.done()
    more.set()
    await task
    (first, last) = data_of(exchange)
    assert first["params"] == {"progressToken": "mine", "progress": 0.5}
    assert last == {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", "content": []}}
    assert b"id: " not in exchange.body
    assert b"retry" not in exchange.body
    assert exchange.header("content-type") == [EVENT_STREAM]
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED
    assert "notifications/cancelled" not in server.methods()


async def test_keep_alive_of_the_server_keeps_the_agents_connection_alive(rig: Rig) -> None:
    server, more = legacy_server(rig), asyncio.Event()

    def streamed(sent: Sent) -> LegacyReply:
        final = b"data: " + answer(sent.message["id"]) + b"\n\n"
        return LegacyReply(200, EVENT_STREAM, (b": ping\n\n", more, final))

    server.on["tools/call"] = streamed
    exchange = Exchange()
    task = rig.start(exchange, rig.http(CALL))
    await exchange.until(lambda: exchange.body == b": \n\n")
    more.set()
    await task
    assert len(data_of(exchange)) == 1


@pytest.mark.parametrize(
    ("asked", "heard"), [(None, []), ("warning", ["error"]), ("info", ["info", "error"])]
)
async def test_log_messages_pass_only_from_the_level_the_agent_asked_for(
    rig: Rig, asked: str | None, heard: list[str]
) -> None:
    server = legacy_server(rig)

    def noted(level: str) -> bytes:
        params = {"level": level, "data": "x"}
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": params}
        return json.dumps(note).encode()

    server.on["tools/call"] = lambda sent: events(
        noted("info"), noted("error"), noted("shouting"), answer(sent.message["id"])
    )
    extra = {} if asked is None else {"io.modelcontextprotocol/logLevel": asked}
    exchange = await rig.post(call_with(**extra))
    assert [each["params"]["level"] for each in data_of(exchange)[:-1]] == heard


@pytest.mark.requirement("legacy-server-requests")
@pytest.mark.parametrize(
    "method", [b"sampling/createMessage", b"elicitation/create", b"roots/list", b"tasks/get"]
)
async def test_request_of_the_server_is_refused_to_it_and_never_seen_by_the_agent(
    rig: Rig, method: bytes
) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda sent: events(QUESTION % method, answer(sent.message["id"]))
    exchange = await rig.post(CALL)
    assert len(data_of(exchange)) == 1
    assert method not in exchange.body
    (refusal,) = [sent for sent in server.sent if "error" in sent.message]
    assert refusal.message["id"] == "q-1"
    assert refusal.message["error"]["code"] == -32601
    assert refusal.session == "session-1"
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED


async def test_ping_of_the_server_is_answered(rig: Rig) -> None:
    server = legacy_server(rig, timeout_seconds=30.0)
    server.on["tools/call"] = lambda sent: events(QUESTION % b"ping", answer(sent.message["id"]))
    assert len(data_of(await rig.post(CALL))) == 1
    (pong,) = [sent for sent in server.sent if "result" in sent.message]
    assert pong.message == {"jsonrpc": "2.0", "id": "q-1", "result": {}}
    assert pong.timeout_seconds == 5  # a server that does not listen holds no call up for long
    assert server.of("tools/call")[0].timeout_seconds == 30


async def test_server_that_asks_without_end_is_cut_off(rig: Rig) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda sent: events(
        *[QUESTION % b"ping"] * 100, answer(sent.message["id"])
    )
    await rig.post(CALL)
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_invalid"
    assert len([sent for sent in server.sent if "result" in sent.message]) == 32


@pytest.mark.parametrize(
    "message",
    [
        b'{"jsonrpc":"2.0","id":99,"result":{}}',
        b'{"jsonrpc":"2.0","id":"1","result":{}}',
        b'{"jsonrpc":"2.0","id":1.0,"result":{}}',
        b'{"jsonrpc":"2.0","id":99,"error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":1,"result":"x"}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":[1],"method":"ping"}',
        b"[]",
        b"not json",
        b"\xff",
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
async def test_what_is_not_the_answer_is_refused(rig: Rig, message: bytes, is_stream: bool) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda _: events(message) if is_stream else json_reply(message)
    exchange = await rig.post(CALL)
    assert exchange.status == (200 if is_stream else 502)
    assert b"-32004" in exchange.body
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_invalid"


async def test_json_that_is_a_request_is_no_answer(rig: Rig) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda _: json_reply(QUESTION % b"sampling/createMessage")
    exchange = await rig.post(CALL)
    assert exchange.status == 502
    assert b"sampling" not in exchange.body


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("{}", {}),
        ('{"resultType":"input_required","inputRequests":{}}', {"inputRequests": {}}),
        ('{"result\\u0054ype":"input_required","x":1e2}', {"x": 100.0}),
        ('{"resultType":"complete"}', {}),
        ('{"content":[],"isError":true}', {"content": [], "isError": True}),
    ],
)
async def test_result_is_complete_whatever_the_server_says_of_its_type(
    rig: Rig, result: str, expected: dict[str, Any]
) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda sent: json_reply(answer(sent.message["id"], result))
    exchange = await rig.post(CALL)
    assert exchange.json["result"] == {"resultType": "complete", **expected}
    assert exchange.body.count(b"ype") == 1


@pytest.mark.parametrize("request_id", ["null", "1"])
async def test_error_keeps_its_code_and_data_and_is_the_agents(rig: Rig, request_id: str) -> None:
    server = legacy_server(rig)
    error = '{"code":-32602,"message":"m","data":{"n":1.50}}'
    body = f'{{"jsonrpc":"2.0","id":{request_id},"error":{error}}}'
    server.on["tools/call"] = lambda _: json_reply(body.encode())
    exchange = await rig.call("get_account", {"id": 1}, request_id="seven")
    assert exchange.body == f'{{"jsonrpc":"2.0","id":"seven","error":{error}}}'.encode()
    assert rig.events("call.finished")[-1].error_code == "-32602"


@pytest.mark.parametrize("is_stream", [True, False])
async def test_long_answer_is_taken_apart_and_whole(rig: Rig, is_stream: bool) -> None:
    server = legacy_server(rig, maximum_response_bytes=2_000_000)
    result = '{"t":"' + "x" * 400_000 + '"}'

    def long(sent: Sent) -> LegacyReply:
        body = answer(sent.message["id"], result)
        return events(body) if is_stream else json_reply(body)

    server.on["tools/call"] = long
    exchange = await rig.post(CALL)
    assert exchange.is_finished
    found = data_of(exchange)[0] if is_stream else exchange.json
    assert found["result"] == {"resultType": "complete", "t": "x" * 400_000}


async def test_line_ends_inside_the_json_of_an_event_stay_inside_it(rig: Rig) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda sent: LegacyReply(
        200,
        EVENT_STREAM,
        (
            b'data: {"jsonrpc":"2.0","id":%d,\ndata: "result":{\ndata: "a":1}}\n\n'
            % sent.message["id"],
        ),
    )
    exchange = await rig.post(CALL)
    (event,) = exchange.body.strip().split(b"\n\n")
    lines = [line.removeprefix(b"data: ") for line in event.split(b"\n")[1:]]
    assert json.loads(b"\n".join(lines))["result"] == {"resultType": "complete", "a": 1}


@pytest.mark.parametrize("is_stream", [True, False])
async def test_credential_in_a_legacy_reply_is_withheld(rig: Rig, is_stream: bool) -> None:
    server = legacy_server(rig)

    def leaking(sent: Sent) -> LegacyReply:
        body = answer(sent.message["id"], json.dumps({"t": TARGET_TOKEN}))
        return events(body) if is_stream else json_reply(body)

    server.on["tools/call"] = leaking
    exchange = await rig.post(CALL)
    assert TARGET_TOKEN.encode() not in exchange.body
    assert rig.events("call.finished")[-1].error_code == "credential_echoed"


@pytest.mark.parametrize("status", [202, 204, 403, 500])
async def test_other_statuses_are_the_upstreams_trouble(rig: Rig, status: int) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda _: LegacyReply(status, "application/json", (b"{}",))
    assert (await rig.post(CALL)).status == 502


async def test_compressed_reply_is_not_read(rig: Rig) -> None:
    server = legacy_server(rig)

    def compressed(sent: Sent) -> LegacyReply:
        reply = json_reply(answer(sent.message["id"]))
        reply.content_encoding = "gzip"
        return reply

    server.on["tools/call"] = compressed
    assert (await rig.post(CALL)).status == 502
