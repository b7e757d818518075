"""What a legacy server behind the gateway is sent, and how a session with it begins."""

from typing import Any

import pytest

from audit_log.event import Outcome
from tests.mcp_gateway.legacy_rig import (
    CALL,
    LegacyReply,
    LegacyServer,
    Sent,
    answer,
    behind,
    call_with,
    events,
    json_reply,
    legacy_server,
)
from tests.mcp_gateway.rig import TARGET_TOKEN, Rig, tool_call

pytestmark = pytest.mark.anyio


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
    server = legacy_server(rig)
    info = {"name": "inspector", "version": "9"}
    await rig.post(call_with(**{"io.modelcontextprotocol/clientInfo": info}))
    (begun,) = server.of("initialize")
    assert begun.message["params"]["clientInfo"] == info
    assert begun.message["params"]["capabilities"] == {}
    assert {"mcp-session-id", "mcp-protocol-version"}.isdisjoint(begun.headers)


async def test_client_info_that_lacks_what_older_revisions_require_is_ours(rig: Rig) -> None:
    server = legacy_server(rig)
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
    server = legacy_server(rig)
    server.on["tools/call"] = lambda sent: json_reply(answer(sent.message["id"], result))
    exchange = await rig.call("get_account", {"id": 12345678901234567890123, "note": "é"})
    assert b'"arguments":{"id":12345678901234567890123,"note":"\xc3\xa9"}' in (
        server.of("tools/call")[0].body
    )
    expected = '{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete",' + result[1:] + "}"
    assert exchange.body == expected.encode()


async def test_argument_headers_of_the_modern_era_do_not_reach_a_legacy_server(rig: Rig) -> None:
    server = legacy_server(rig)
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
    server = legacy_server(rig)

    def odd(sent: Sent) -> LegacyReply:
        reply = server.initialized(sent)
        reply.headers["mcp-session-id"] = session_id
        return reply

    server.on["initialize"] = odd
    assert (await rig.post(CALL)).status == 502
    assert server.methods() == ["initialize"]


async def test_initialize_may_be_answered_in_an_event_stream(rig: Rig) -> None:
    server = legacy_server(rig)

    def streamed(sent: Sent) -> LegacyReply:
        whole = server.initialized(sent)
        note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
        body = whole.body[0]
        assert isinstance(body, bytes)
        return events(b"", note, body, **whole.headers)

    server.on["initialize"] = streamed
    assert (await rig.post(CALL)).status == 200
    assert server.of("tools/call")[0].session == "session-1"
