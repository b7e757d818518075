"""What a legacy agent may say: each refusal with its accepted twin."""

import json
from typing import Any

import pytest

from mcp_gateway.inbound import CAPABILITIES_KEY, PROTOCOL_VERSION, VERSION_KEY
from tests.mcp_gateway.legacy_agent import LATEST, OLDER, LegacyAgent, agent_of, call, request
from tests.mcp_gateway.rig import Exchange, Rig, tool_call
from tests.mcp_gateway.test_inbound import error_of

pytestmark = pytest.mark.anyio

ACCOUNT = call("get_account", {"id": 1})


def result_of(exchange: Exchange) -> dict[str, Any]:
    assert exchange.status == 200, exchange.body
    result: dict[str, Any] = exchange.json["result"]
    return result


# initialize


@pytest.mark.requirement("MCP-2025-11-25")
@pytest.mark.parametrize("version", [LATEST, OLDER])
async def test_initialize_agrees_on_the_version_and_offers_tools_alone(
    rig: Rig, version: str
) -> None:
    agent = LegacyAgent(rig, version=version)
    result = result_of(await agent.initialize())
    assert result == {
        "protocolVersion": version,
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": "crm", "version": "1"},
    }
    assert agent.session is not None
    assert all(0x21 <= ord(character) <= 0x7E for character in agent.session)
    assert (await agent.tell("notifications/initialized")).status == 202
    assert result_of(await agent.ask("ping")) == {}


@pytest.mark.requirement("MCP-2025-11-25")
@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2026-07-28", "x"])
async def test_initialize_with_a_version_we_do_not_speak_is_offered_the_latest(
    rig: Rig, version: str
) -> None:
    exchange = await LegacyAgent(rig).initialize(protocolVersion=version)
    assert result_of(exchange)["protocolVersion"] == LATEST


@pytest.mark.parametrize(
    "changes",
    [{"protocolVersion": 1}, {"capabilities": []}, {"capabilities": None}, {"extra": 1}],
)
async def test_initialize_without_its_shape_is_refused(rig: Rig, changes: dict[str, Any]) -> None:
    agent = LegacyAgent(rig)
    assert error_of(await agent.initialize(**changes)) == (200, -32602)
    assert agent.session is None
    assert len(rig.parts.sessions) == 0


async def test_initialize_without_a_token_is_challenged(rig: Rig) -> None:
    body = request("initialize", {"protocolVersion": LATEST, "capabilities": {}})
    exchange = await LegacyAgent(rig).post(body, {"authorization": None, "dpop": None})
    assert exchange.status == 401
    assert exchange.header("www-authenticate")


# The envelope


@pytest.mark.requirement("trap-batches-and-non-json")
@pytest.mark.parametrize(
    "body",
    [
        [ACCOUNT],
        [],
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": None, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
        {"jsonrpc": "1.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "Method": "tools/call"},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
        {"jsonrpc": "2.0", "id": 1, "method": 5},
    ],
    ids=str,
)
async def test_what_is_no_single_message_is_refused(rig: Rig, body: object) -> None:
    agent = await agent_of(rig)
    exchange = await agent.post(body)
    assert exchange.status == 400
    assert exchange.json["error"]["code"] in {-32600, -32602}
    assert not rig.upstream.requests
    assert rig.events("call.refused")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"id":1,"note":"\\ud800"}', -32602),
        (b'{"id":1,"id":2}', -32600),
        (b'{"id":1e400}', -32602),
        (b'{"id":0.1000000000000000055511151231257827}', -32602),
        (b'{"id":' + b"[" * 70 + b"]" * 70 + b"}", -32602),
    ],
)
async def test_arguments_two_parsers_could_read_differently_are_refused(
    rig: Rig, raw: bytes, code: int
) -> None:
    agent = await agent_of(rig)
    body = (
        json.dumps(call("get_account", {}))
        .encode()
        .replace(b'"arguments": {}', b'"arguments":' + raw)
    )
    assert error_of(await agent.post(body)) == (400, code)
    assert not rig.upstream.requests


# Headers


@pytest.mark.parametrize("version", ["2025-03-26", "2024-11-05", "x", ""])
async def test_version_header_we_do_not_serve_is_refused(rig: Rig, version: str) -> None:
    agent = await agent_of(rig)
    exchange = await agent.post(ACCOUNT, {"mcp-protocol-version": version})
    assert error_of(exchange) == (400, -32600)


@pytest.mark.requirement("MCP-2025-11-25")
async def test_version_header_other_than_agreed_is_refused(rig: Rig) -> None:
    agent = await agent_of(rig)
    exchange = await agent.post(ACCOUNT, {"mcp-protocol-version": OLDER})
    assert error_of(exchange) == (400, -32600)
    assert (await agent.call("get_account", {"id": 1})).status == 200


@pytest.mark.parametrize("name", ["mcp-session-id", "mcp-protocol-version"])
async def test_header_sent_twice_is_refused(rig: Rig, name: str) -> None:
    agent = await agent_of(rig)
    sent = agent.http(ACCOUNT)
    value = dict(sent.headers)[name.encode()]
    twice = sent.changed(headers=(*sent.headers, (name.encode(), value)))
    assert error_of(await rig.send(twice)) == (400, -32600)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"mcp-method": "tools/call", "mcp-name": "get_account"}, 200),
        ({"mcp-method": "tools/list"}, 400),
        ({"mcp-name": "refund"}, 400),
        ({"mcp-param-region": "eu"}, 400),
    ],
)
async def test_header_of_the_other_era_must_not_contradict_the_body(
    rig: Rig, headers: dict[str, str], status: int
) -> None:
    agent = await agent_of(rig)
    assert (await agent.post(ACCOUNT, headers)).status == status


async def test_version_header_may_be_absent_in_a_session(rig: Rig) -> None:
    agent = await agent_of(rig)
    exchange = await agent.post(ACCOUNT, {"mcp-protocol-version": None})
    assert exchange.status == 200


async def test_message_that_mixes_the_eras_is_the_modern_ladders_to_refuse(rig: Rig) -> None:
    agent = await agent_of(rig)
    modern = {VERSION_KEY: PROTOCOL_VERSION, CAPABILITIES_KEY: {}}
    mixed = request("tools/list", {"_meta": modern})
    assert error_of(await agent.post(mixed)) == (400, -32020)
    in_body_only = request("tools/list", {"_meta": {VERSION_KEY: LATEST, CAPABILITIES_KEY: {}}})
    assert error_of(await agent.post(in_body_only, {"mcp-method": "tools/list"})) == (400, -32022)


async def test_modern_call_with_a_stray_session_id_is_a_modern_call(rig: Rig) -> None:
    for session in ("x", (await agent_of(rig)).session):
        modern = tool_call("get_account", {"id": 1})
        exchange = await rig.post(modern, headers={"mcp-session-id": session})
        assert result_of(exchange)["resultType"] == "complete"


# Methods and parameters


@pytest.mark.requirement("MCP-2025-11-25")
@pytest.mark.parametrize(
    "method",
    [
        "resources/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "logging/setLevel",
        "completion/complete",
        "tasks/list",
        "server/discover",
        "roots/list",
        "Tools/call",
    ],
)
async def test_method_we_do_not_serve_is_not_found_and_the_session_lives(
    rig: Rig, method: str
) -> None:
    agent = await agent_of(rig)
    assert error_of(await agent.ask(method)) == (200, -32601)  # 404 would end the session
    assert rig.events("call.refused")[-1].error_code == "-32601"
    assert result_of(await agent.ask("ping")) == {}


@pytest.mark.parametrize(
    "params",
    [
        {"name": "get_account", "arguments": {}, "extra": 1},
        {"name": "get_account", "Arguments": {}},
        {"name": "get_account", "arguments": []},
        {"name": "", "arguments": {}},
        {"name": 1},
        {"arguments": {}},
        {"name": "get_account", "_meta": 1},
        {"name": "get_account", "inputResponses": {}},
        {"name": "get_account", "arguments": {"id": 1, "ID": 2}},
    ],
    ids=str,
)
async def test_call_with_another_shape_is_refused(rig: Rig, params: dict[str, Any]) -> None:
    agent = await agent_of(rig)
    assert error_of(await agent.ask("tools/call", params)) == (200, -32602)
    assert not rig.upstream.requests
    assert rig.events("call.refused")


async def test_task_augmentation_is_ignored_and_not_forwarded(rig: Rig) -> None:
    agent = await agent_of(rig)
    params = {"name": "get_account", "arguments": {"id": 1}, "task": {"ttl": 60}}
    assert (await agent.ask("tools/call", params)).status == 200
    assert rig.upstream.sent()["params"].keys() == {"name", "arguments", "_meta"}


@pytest.mark.parametrize(
    "params", [{}, {"requestId": None}, {"requestId": 1.5}, {"requestId": 1, "Reason": "x"}]
)
async def test_cancellation_of_nothing_in_particular_is_refused(
    rig: Rig, params: dict[str, Any]
) -> None:
    agent = await agent_of(rig)
    assert error_of(await agent.tell("notifications/cancelled", params)) == (400, -32602)
    told = await agent.tell("notifications/cancelled", {"requestId": 99, "reason": "x"})
    assert (told.status, told.body) == (202, b"")


@pytest.mark.parametrize("method", ["notifications/roots/list_changed", "notifications/progress"])
async def test_other_notification_is_accepted_and_dropped(rig: Rig, method: str) -> None:
    agent = await agent_of(rig)
    told = await agent.tell(method, {"progressToken": 1, "progress": 1})
    assert (told.status, told.body) == (202, b"")
    assert not rig.upstream.requests


# What is forwarded


@pytest.mark.requirement("trap-number-rewritten")
async def test_call_is_forwarded_as_a_modern_one_with_what_the_client_said_of_itself(
    rig: Rig,
) -> None:
    agent = await agent_of(rig)
    number = 12345678901234567890123
    await agent.ask(
        "tools/call",
        {
            "name": "get_account",
            "arguments": {"id": number},
            "_meta": {
                "progressToken": "p",
                "traceparent": "00-a-b-01",
                "io.modelcontextprotocol/logLevel": "debug",
                "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
                "other": 1,
            },
        },
    )
    sent = rig.upstream.sent()
    assert sent["params"]["arguments"] == {"id": number}
    assert sent["params"]["_meta"] == {
        VERSION_KEY: PROTOCOL_VERSION,
        CAPABILITIES_KEY: {},
        "io.modelcontextprotocol/clientInfo": {"name": "old-agent", "version": "7"},
        "progressToken": "p",
        "traceparent": "00-a-b-01",
    }
    assert rig.upstream.sent_header("mcp-protocol-version") == PROTOCOL_VERSION
    assert rig.upstream.sent_header("mcp-name") == "get_account"
    assert rig.upstream.sent_header("mcp-session-id") is None


async def test_argument_that_a_modern_call_mirrors_is_mirrored_upstream(rig: Rig) -> None:
    agent = await agent_of(rig)
    assert (await agent.call("regional", {"region": "eu"})).status == 200
    assert rig.upstream.sent_header("mcp-param-region") == "eu"


@pytest.mark.parametrize("info", [None, [], {"name": "x"}, {"name": "x" * 65, "version": "1"}])
async def test_client_info_that_is_odd_is_left_out(rig: Rig, info: object) -> None:
    agent = LegacyAgent(rig)
    await agent.initialize(clientInfo=info)
    await agent.call("get_account", {"id": 1})
    assert "io.modelcontextprotocol/clientInfo" not in rig.upstream.sent()["params"]["_meta"]
