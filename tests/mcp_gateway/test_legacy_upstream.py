"""Legacy servers behind the gateway: what they are sent, and what of theirs an agent sees."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from audit_log.event import Outcome
from mcp_gateway.credential import Credential
from mcp_gateway.discovery import DiscoveryError, observed_tools
from mcp_gateway.upstream.legacy_session import IDLE_SECONDS
from mcp_gateway.upstream.protocol import (
    UpstreamRequest,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from registry.blocks import BlockKind, Subject
from registry.snapshot import CredentialProviderEntry
from tests.mcp_gateway.legacy_rig import (
    EVENT_STREAM,
    LegacyReply,
    LegacyServer,
    Pauses,
    Sent,
    answer,
    behind,
    events,
    json_reply,
    unknown_method,
)
from tests.mcp_gateway.rig import TARGET_TOKEN, Exchange, Rig, meta, server_entry, tool_call
from tests.mcp_gateway.test_caller import revocation
from token_exchange.claims import Actor

pytestmark = pytest.mark.anyio

CALL = tool_call("get_account", {"id": 1})
OTHER = Actor("https://as.example", "other", "ai_agent", "other-bot")
QUESTION = b'{"jsonrpc":"2.0","id":"q-1","method":"%b","params":{}}'


def call_with(**extra: object) -> dict[str, Any]:
    message = tool_call("get_account", {"id": 1})
    message["params"]["_meta"] = meta(**extra)
    return message


def progress(token: object) -> bytes:
    params = {"progressToken": token, "progress": 0.5}
    return json.dumps(
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    ).encode()


def data_of(exchange: Exchange) -> list[Any]:
    return [
        json.loads(event.partition(b"data: ")[2])
        for event in exchange.body.split(b"\n\n")
        if b"data: " in event
    ]


def number_of(server: LegacyServer) -> int:
    return int(server.of("tools/call")[-1].message["id"])


# What is sent


@pytest.mark.requirement("legacy-upstream")
async def test_modern_call_reaches_a_legacy_server_and_its_answer_comes_back_modern(
    rig: Rig,
) -> None:
    server = LegacyServer()
    behind(rig, server)
    exchange = await rig.post(CALL)
    assert exchange.status == 200
    assert exchange.json == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"resultType": "complete", "content": []},
    }
    assert server.methods() == [
        "server/discover",
        "initialize",
        "notifications/initialized",
        "tools/call",
    ]
    (call,) = server.of("tools/call")
    assert call.session == "session-1"
    assert call.headers["mcp-protocol-version"] == "2025-11-25"
    assert call.headers["authorization"] == f"Bearer {TARGET_TOKEN}"
    assert not {"mcp-method", "mcp-name"} & call.headers.keys()
    assert call.message["params"] == {"name": "get_account", "arguments": {"id": 1}}
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED


@pytest.mark.requirement("trap-client-info-replaced")
async def test_agents_own_client_info_is_what_the_server_is_told(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    info = {"name": "inspector", "version": "9"}
    await rig.post(call_with(**{"io.modelcontextprotocol/clientInfo": info}))
    (begun,) = server.of("initialize")
    assert begun.message["params"]["clientInfo"] == info
    assert begun.message["params"]["capabilities"] == {}
    assert {"mcp-session-id", "mcp-protocol-version"}.isdisjoint(begun.headers)


async def test_client_info_that_lacks_what_older_revisions_require_is_ours(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    await rig.post(call_with(**{"io.modelcontextprotocol/clientInfo": {"name": "inspector"}}))
    assert server.of("initialize")[0].message["params"]["clientInfo"]["name"] == (
        "countersign-gateway"
    )


@pytest.mark.requirement("trap-number-rewritten")
@pytest.mark.requirement("trap-reply-rewritten")
async def test_numbers_structure_and_meta_cross_both_ways_byte_for_byte(rig: Rig) -> None:
    result = (
        '{ "content" : [],"structuredContent":{"n":12345678901234567890123,"f":1.10,"e":1E400,'
        '"\\u0061":"\\u00e9"},"_meta":{"x":[ 1 ,2]} }'
    )
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["tools/call"] = lambda sent: json_reply(answer(sent.message["id"], result))
    exchange = await rig.call("get_account", {"id": 12345678901234567890123, "note": "é"})
    assert b'"arguments":{"id":12345678901234567890123,"note":"\xc3\xa9"}' in (
        server.of("tools/call")[0].body
    )
    expected = '{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete",' + result[1:] + "}"
    assert exchange.body == expected.encode()


async def test_argument_headers_of_the_modern_era_do_not_reach_a_legacy_server(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    message = tool_call("regional", {"region": "eu"})
    assert (await rig.post(message, headers={"mcp-param-region": "eu"})).status == 200
    sent = server.of("tools/call")[0].headers
    assert not [name for name in sent if name.startswith("mcp-param")]


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18"])
async def test_negotiated_version_is_said_from_then_on(rig: Rig, version: str) -> None:
    server = LegacyServer(version)
    behind(rig, server, protocol="legacy")
    assert (await rig.post(CALL)).status == 200
    for sent in (server.of("notifications/initialized")[0], server.of("tools/call")[0]):
        assert sent.headers["mcp-protocol-version"] == version


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2026-07-28", "", 7])
async def test_version_we_do_not_speak_is_the_end(rig: Rig, version: Any) -> None:
    server = LegacyServer(version)
    behind(rig, server, protocol="legacy")
    assert (await rig.post(CALL)).status == 502
    assert server.of("tools/call") == []
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_invalid"


async def test_server_without_sessions_is_served_without(rig: Rig) -> None:
    server = LegacyServer(has_sessions=False)
    upstream = behind(rig, server, protocol="legacy")
    for _ in range(2):
        assert (await rig.post(CALL)).status == 200
    assert server.methods().count("initialize") == 1
    assert all(sent.session is None for sent in server.sent)
    await upstream.aclose()
    assert server.of("DELETE") == []


@pytest.mark.parametrize("session_id", ["a b", "a\tb", "", "é", "x" * 1025])
async def test_session_id_with_forbidden_characters_is_refused(rig: Rig, session_id: str) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")

    def odd(sent: Sent) -> LegacyReply:
        reply = server.initialized(sent)
        reply.headers["mcp-session-id"] = session_id
        return reply

    server.on["initialize"] = odd
    assert (await rig.post(CALL)).status == 502
    assert server.methods() == ["initialize"]


async def test_initialize_may_be_answered_in_an_event_stream(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")

    def streamed(sent: Sent) -> LegacyReply:
        whole = server.initialized(sent)
        note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
        body = whole.body[0]
        assert isinstance(body, bytes)
        return events(b"", note, body, **whole.headers)

    server.on["initialize"] = streamed
    assert (await rig.post(CALL)).status == 200
    assert server.of("tools/call")[0].session == "session-1"


# What comes back


@pytest.mark.requirement("trap-notifications-lost")
async def test_stream_arrives_event_by_event_with_the_agents_own_progress_token(rig: Rig) -> None:
    server, more = LegacyServer(), asyncio.Event()
    behind(rig, server, protocol="legacy")

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
    server, more = LegacyServer(), asyncio.Event()
    behind(rig, server, protocol="legacy")

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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")

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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
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
    server = LegacyServer()
    behind(rig, server, protocol="legacy", timeout_seconds=30.0)
    server.on["tools/call"] = lambda sent: events(QUESTION % b"ping", answer(sent.message["id"]))
    assert len(data_of(await rig.post(CALL))) == 1
    (pong,) = [sent for sent in server.sent if "result" in sent.message]
    assert pong.message == {"jsonrpc": "2.0", "id": "q-1", "result": {}}
    assert pong.timeout_seconds == 5  # a server that does not listen holds no call up for long
    assert server.of("tools/call")[0].timeout_seconds == 30


async def test_server_that_asks_without_end_is_cut_off(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["tools/call"] = lambda _: events(message) if is_stream else json_reply(message)
    exchange = await rig.post(CALL)
    assert exchange.status == (200 if is_stream else 502)
    assert b"-32004" in exchange.body
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_invalid"


async def test_json_that_is_a_request_is_no_answer(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["tools/call"] = lambda sent: json_reply(answer(sent.message["id"], result))
    exchange = await rig.post(CALL)
    assert exchange.json["result"] == {"resultType": "complete", **expected}
    assert exchange.body.count(b"ype") == 1


@pytest.mark.parametrize("request_id", ["null", "1"])
async def test_error_keeps_its_code_and_data_and_is_the_agents(rig: Rig, request_id: str) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    error = '{"code":-32602,"message":"m","data":{"n":1.50}}'
    body = f'{{"jsonrpc":"2.0","id":{request_id},"error":{error}}}'
    server.on["tools/call"] = lambda _: json_reply(body.encode())
    exchange = await rig.call("get_account", {"id": 1}, request_id="seven")
    assert exchange.body == f'{{"jsonrpc":"2.0","id":"seven","error":{error}}}'.encode()
    assert rig.events("call.finished")[-1].error_code == "-32602"


@pytest.mark.parametrize("is_stream", [True, False])
async def test_long_answer_is_taken_apart_and_whole(rig: Rig, is_stream: bool) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy", maximum_response_bytes=2_000_000)
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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")

    def leaking(sent: Sent) -> LegacyReply:
        body = answer(sent.message["id"], json.dumps({"t": TARGET_TOKEN}))
        return events(body) if is_stream else json_reply(body)

    server.on["tools/call"] = leaking
    exchange = await rig.post(CALL)
    assert TARGET_TOKEN.encode() not in exchange.body
    assert rig.events("call.finished")[-1].error_code == "credential_echoed"


@pytest.mark.parametrize("status", [202, 204, 403, 500])
async def test_other_statuses_are_the_upstreams_trouble(rig: Rig, status: int) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["tools/call"] = lambda _: LegacyReply(status, "application/json", (b"{}",))
    assert (await rig.post(CALL)).status == 502


async def test_compressed_reply_is_not_read(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")

    def compressed(sent: Sent) -> LegacyReply:
        reply = json_reply(answer(sent.message["id"]))
        reply.content_encoding = "gzip"
        return reply

    server.on["tools/call"] = compressed
    assert (await rig.post(CALL)).status == 502


# Sessions


@pytest.mark.requirement("legacy-session-per-principal")
@pytest.mark.requirement("trap-cross-user")
@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "usr_bob"},
        {"inv": "inv_2"},
        {"sid": "ses_2"},
        {"gid": "grt_2"},
        {"client_id": "other-client"},
        {"txn": "txn_2"},
        {"act": Actor("https://as.example", "b", "ai_agent", "support-bot", OTHER)},
    ],
)
async def test_nobody_shares_a_session_with_another_principal(
    rig: Rig, changes: dict[str, Any]
) -> None:
    server = LegacyServer()
    behind(rig, server)
    await rig.post(CALL)
    await rig.post(CALL, token=rig.token(rig.claims(jti="tok_2", iat=rig.claims().iat + 5)))
    await rig.post(CALL, token=rig.token(rig.claims(**changes)))
    sessions = [sent.session for sent in server.of("tools/call")]
    assert sessions == ["session-1", "session-1", "session-2"]


@pytest.mark.requirement("legacy-session-per-principal")
async def test_people_do_not_share_a_session_even_with_one_credential(rig: Rig) -> None:
    """The fake authority gives everybody the same token, as a static secret would be."""
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    first, second = server.of("tools/call")
    assert first.headers["authorization"] == second.headers["authorization"]
    assert first.session != second.session


async def test_provider_that_changed_is_another_identity(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    newer = CredentialProviderEntry("crm-token", "issued_token", "run", 300, 2)
    rig.with_server(protocol="legacy", credential=newer)
    await rig.post(CALL)
    assert [sent.session for sent in server.of("tools/call")] == ["session-1", "session-2"]


@pytest.mark.requirement("trap-request-id-reuse")
async def test_calls_of_one_session_run_side_by_side_under_one_agents_id(rig: Rig) -> None:
    server, both = LegacyServer(), asyncio.Event()
    behind(rig, server, protocol="legacy")

    async def wait_for_both() -> None:
        if len(server.of("tools/call")) == 2:
            both.set()
        await both.wait()

    server.before["tools/call"] = wait_for_both
    server.on["tools/call"] = lambda sent: json_reply(
        answer(sent.message["id"], json.dumps({"echo": sent.message["params"]["arguments"]}))
    )
    calls = [rig.call("get_account", {"id": number}, request_id=7) for number in (1, 2)]
    exchanges = await asyncio.gather(*calls)
    assert [each.json["id"] for each in exchanges] == [7, 7]
    assert [each.json["result"]["echo"]["id"] for each in exchanges] == [1, 2]
    assert server.methods().count("initialize") == 1
    assert len({sent.message["id"] for sent in server.of("tools/call")}) == 2


@pytest.mark.requirement("legacy-session-renewed-once")
async def test_session_the_server_forgot_is_begun_again_and_the_call_sent_once_more(
    rig: Rig,
) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    server.sessions.clear()
    exchange = await rig.post(CALL)
    assert exchange.status == 200
    assert [sent.session for sent in server.of("tools/call")] == [
        "session-1",
        "session-1",
        "session-2",
    ]
    assert server.of("DELETE") == []


@pytest.mark.requirement("legacy-session-renewed-once")
async def test_session_that_is_forgotten_at_once_again_is_an_error(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["tools/call"] = lambda _: LegacyReply(404, "text/plain")
    assert (await rig.post(CALL)).status == 502
    assert len(server.of("tools/call")) == 2


async def test_session_refused_with_400_is_not_tried_again_but_not_used_again_either(
    rig: Rig,
) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    usual = server.on.pop("server/discover")
    server.on["tools/call"] = usual
    refused = await rig.post(CALL)
    assert (refused.status, refused.json["error"]["code"]) == (400, -32000)
    del server.on["tools/call"]
    assert (await rig.post(CALL)).status == 200
    assert [sent.session for sent in server.of("tools/call")] == [
        "session-1",
        "session-1",
        "session-2",
    ]


async def test_error_with_400_that_is_the_tools_own_keeps_the_session(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    error = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32602,"message":""}}'
    server.on["tools/call"] = lambda _: json_reply(error, 400)
    assert (await rig.post(CALL)).status == 400
    await rig.post(CALL)
    assert server.methods().count("initialize") == 1


@pytest.mark.requirement("legacy-session-ends")
async def test_idle_session_is_ended_at_the_server(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    upstream._legacy.sweep()
    rig.monotonic.now += IDLE_SECONDS + 1
    rig.parts.enforcement.heartbeat()
    await rig.post(CALL)
    await server.until(lambda: len(server.of("DELETE")) == 1)
    rig.monotonic.now += IDLE_SECONDS + 1
    upstream._legacy.sweep()
    await server.until(lambda: len(server.of("DELETE")) == 2)
    assert [sent.session for sent in server.of("DELETE")] == ["session-1", "session-2"]
    assert server.of("DELETE")[0].headers["authorization"] == f"Bearer {TARGET_TOKEN}"


@pytest.mark.requirement("legacy-session-ends")
async def test_sessions_are_bounded_and_the_oldest_is_ended(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    upstream._legacy._sessions._capacity = 2
    for person in ("usr_a", "usr_b", "usr_c"):
        await rig.post(CALL, token=rig.token(rig.claims(sub=person)))
    await server.until(lambda: bool(server.of("DELETE")))
    assert [sent.session for sent in server.of("DELETE")] == ["session-1"]
    assert len(upstream._legacy._sessions) == 2


@pytest.mark.requirement("trap-one-starves-all")
async def test_sessions_of_one_principal_make_room_for_their_own_first(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    upstream._legacy._sessions._share = 2
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    for run in ("inv_1", "inv_2", "inv_3"):
        await rig.post(CALL, token=rig.token(rig.claims(sub="usr_mallory", inv=run)))
    await server.until(lambda: bool(server.of("DELETE")))
    assert [sent.session for sent in server.of("DELETE")] == ["session-2"]
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    assert server.of("tools/call")[-1].session == "session-1"


@pytest.mark.requirement("trap-one-starves-all")
async def test_sessions_at_work_are_taken_from_nobody_and_more_are_refused(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    upstream._legacy._sessions._share = 1
    seen: list[int | None] = []

    async def another() -> None:
        server.before.clear()
        mallory = rig.token(rig.claims(sub="usr_mallory", inv="inv_2"))
        answer = await rig.post(CALL, token=mallory)
        seen.append(answer.status)
        assert "Too many sessions" in answer.json["error"]["message"]
        assert rig.events()[-1].error_code == "too_many_sessions"
        seen.append((await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))).status)

    server.before["tools/call"] = another
    mine = await rig.post(CALL, token=rig.token(rig.claims(sub="usr_mallory", inv="inv_1")))
    assert [mine.status, *seen] == [200, 503, 200]
    assert not server.of("DELETE")


@pytest.mark.requirement("legacy-session-ends")
async def test_revocation_ends_the_persons_session_and_no_other(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    rig.parts.upstream.forget(revocation(BlockKind.SUBJECT, "usr_bob"))
    await server.until(lambda: bool(server.of("DELETE")))
    assert [sent.session for sent in server.of("DELETE")] == ["session-2"]
    await rig.post(CALL)
    assert server.of("tools/call")[-1].session == "session-1"


async def test_revocation_while_a_session_begins_keeps_nothing(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")

    async def revoke() -> None:
        upstream.forget(revocation(BlockKind.SUBJECT, "usr_somebody"))

    server.before["initialize"] = revoke
    assert (await rig.post(CALL)).status == 200
    await server.until(lambda: bool(server.of("DELETE")))
    assert len(upstream._legacy._sessions) == 0


async def test_shutdown_ends_every_session(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    for person in ("usr_a", "usr_b"):
        await rig.post(CALL, token=rig.token(rig.claims(sub=person)))
    await upstream.aclose()
    assert {sent.session for sent in server.of("DELETE")} == {"session-1", "session-2"}


async def test_refused_credential_gets_one_fresh_one_also_for_initialize(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    answers = [LegacyReply(401, "application/json")]
    server.on["initialize"] = lambda sent: answers.pop() if answers else server.initialized(sent)
    assert (await rig.post(CALL)).status == 200
    assert len(rig.authority.forms) == 2
    server.on["initialize"] = lambda _: LegacyReply(401, "application/json")
    refused = await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    assert refused.status == 502
    assert refused.header("www-authenticate") == []


async def test_credential_refused_at_the_call_is_renewed_within_the_session(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    answers = [LegacyReply(401, "application/json")]
    server.on["tools/call"] = lambda sent: (
        answers.pop() if answers else json_reply(answer(sent.message["id"]))
    )
    assert (await rig.post(CALL)).status == 200
    assert len(rig.authority.forms) == 2
    assert [sent.session for sent in server.of("tools/call")] == ["session-1", "session-1"]
    assert server.of("notifications/cancelled") == []


def test_static_secret_that_was_replaced_is_another_identity() -> None:
    first = Credential("x-api-key", "first-secret", None, (), is_secret=True)
    second = replace(first, value="second-secret")
    token = replace(first, is_secret=False)
    subjects = frozenset[Subject]()
    sessions = [each.for_sessions_of("alice", subjects).session for each in (first, second)]
    assert sessions[0] != sessions[1]
    assert token.for_sessions_of("alice", subjects) != first.for_sessions_of("alice", subjects)
    renewed = replace(token, value="renewed-token").for_sessions_of("alice", subjects)
    assert renewed.session == token.for_sessions_of("alice", subjects).session


async def test_renewed_credential_goes_on_in_the_same_session(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    rig.authority.answer["access_token"] = TARGET_TOKEN[:-6] + "uvwxyz"
    rig.clock.now += 290
    await rig.post(CALL)
    first, second = server.of("tools/call")
    assert first.headers["authorization"] != second.headers["authorization"]
    assert first.session == second.session


@pytest.mark.parametrize(
    "reply",
    [
        LegacyReply(500, "text/html"),
        LegacyReply(200, "text/html", (b"<html>",)),
        LegacyReply(200, "application/json", (b"{}",)),
        LegacyReply(200, EVENT_STREAM, (b": nothing\n\n",)),
        LegacyReply(200, "application/json", (b" " * 1_048_577,)),
        LegacyReply(200, EVENT_STREAM, (b"data: " + b"x" * 1_048_577,)),
    ],
)
async def test_initialize_that_is_not_answered_properly_is_the_end(
    rig: Rig, reply: LegacyReply
) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["initialize"] = lambda _: reply
    assert (await rig.post(CALL)).status == 502
    assert server.of("tools/call") == []


# Cancellation


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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
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
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
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


# Streams that are taken up again


@pytest.mark.requirement("legacy-stream-resumed")
@pytest.mark.parametrize("ending", [(), (UpstreamUnreachableError(),)])
async def test_stream_closed_before_the_answer_is_taken_up_again_not_the_call(
    rig: Rig, ending: tuple[Exception, ...]
) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    pauses = Pauses()
    upstream._legacy._pause = pauses
    server.on["tools/call"] = lambda _: LegacyReply(
        200, EVENT_STREAM, (b"id: e-1\nretry: 250\ndata:\n\ndata: {half", *ending)
    )
    server.on["GET"] = lambda _: LegacyReply(
        200, EVENT_STREAM, (b"id: e-2\ndata: " + answer(1) + b"\n\n",)
    )
    exchange = await rig.post(CALL)
    assert [each["id"] for each in data_of(exchange)] == [1]
    (resumed,) = server.of("GET")
    assert resumed.headers["last-event-id"] == "e-1"
    assert resumed.headers["accept"] == EVENT_STREAM
    assert resumed.session == "session-1"
    assert "content-type" not in resumed.headers
    assert pauses.seconds == [0.25]
    assert len(server.of("tools/call")) == 1
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED


@pytest.mark.requirement("legacy-stream-resumed")
async def test_stream_that_brings_nothing_is_not_taken_up_for_ever(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    primed = LegacyReply(200, EVENT_STREAM, (b"id: e-1\nretry: 0\ndata:\n\n",))
    server.on["tools/call"] = lambda _: primed
    server.on["GET"] = lambda _: primed
    exchange = await rig.post(CALL)
    assert b"-32004" in exchange.body
    assert len(server.of("GET")) == 5
    await server.until(lambda: bool(server.of("notifications/cancelled")))


@pytest.mark.parametrize(
    "priming",
    [
        b"id: e-1\nretry: 60001\ndata:\n\n",
        b"id: " + b"x" * 1025 + b"\ndata:\n\n",
        b"id: \xc3\xa9\ndata:\n\n",
        b"id: a\tb\ndata:\n\n",
        b"id: unfinished\n",
        b"data:\n\n",
    ],
)
async def test_stream_that_cannot_be_taken_up_again_is_an_error(rig: Rig, priming: bytes) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["tools/call"] = lambda _: LegacyReply(200, EVENT_STREAM, (priming,))
    exchange = await rig.post(CALL)
    assert b"-32004" in exchange.body
    assert server.of("GET") == []


@pytest.mark.parametrize("status", [400, 404, 405, 500])
async def test_server_that_does_not_resume_is_an_error(rig: Rig, status: int) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy")
    server.on["tools/call"] = lambda _: LegacyReply(200, EVENT_STREAM, (b"id: 1\ndata:\n\n",))
    server.on["GET"] = lambda _: LegacyReply(status, "application/json")
    await rig.post(CALL)
    assert rig.events("call.finished")[-1].error_code == "upstream_unreachable"


async def test_resumed_streams_share_one_limit_of_bytes(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server, protocol="legacy", maximum_response_bytes=1024)
    filled = LegacyReply(200, EVENT_STREAM, (b"id: 1\ndata:\n\n" + b": filling\n" * 60,))
    server.on["tools/call"] = lambda _: filled
    server.on["GET"] = lambda _: filled
    await rig.post(CALL)
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_too_large"


# Discovery


def listing(*names: str, cursor: str | None = None) -> str:
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
    return json.dumps({"tools": tools} | ({"nextCursor": cursor} if cursor else {}))


@pytest.mark.requirement("legacy-upstream")
async def test_tools_of_a_legacy_server_are_seen_with_the_discovery_credential(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server)
    pages = [listing("a", "b", cursor="2"), listing("c")]
    server.on["tools/list"] = lambda sent: json_reply(answer(sent.message["id"], pages.pop(0)))
    tools = await observed_tools(server_entry(), "own", rig.parts.exchange, upstream)
    assert [tool["name"] for tool in tools] == ["a", "b", "c"]
    first, second = server.of("tools/list")
    assert first.message.get("params") == {}
    assert second.message["params"] == {"cursor": "2"}
    assert first.session == second.session == "session-1"
    await rig.post(CALL)
    assert server.of("tools/call")[0].session == "session-2"


async def test_list_says_how_long_and_for_whom_it_is_good(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    listed = '{"tools":[],"ttlMs":99999,"cacheScope":"public"}'
    server.on["tools/list"] = lambda sent: json_reply(answer(sent.message["id"], listed))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta()}}
    request = UpstreamRequest(
        "http://old.example/mcp", (), msgspec.json.encode(body), 5.0, 1_000_000, "legacy"
    )
    async with upstream.post(request) as reply:
        seen = [chunk async for chunk in reply.chunks()]
    assert json.loads(b"".join(seen))["result"] == {
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "tools": [],
    }


async def test_discovery_credential_that_is_refused_is_said(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server)
    server.on["initialize"] = lambda _: LegacyReply(401, "application/json")
    with pytest.raises(DiscoveryError, match="401"):
        await observed_tools(server_entry(), "own", rig.parts.exchange, upstream)


async def test_unknown_method_is_a_legacy_servers_answer_too(rig: Rig) -> None:
    server = LegacyServer(has_sessions=False)
    behind(rig, server)
    server.on["server/discover"] = unknown_method
    assert (await rig.post(CALL)).status == 200
