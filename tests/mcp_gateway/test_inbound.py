import base64
import json
from typing import Any

import msgspec
import pytest

from mcp_gateway.inbound import CAPABILITIES_KEY, PROTOCOL_VERSION, VERSION_KEY
from tests.mcp_gateway.rig import (
    Exchange,
    FakeReply,
    Rig,
    message,
    meta,
    rpc_reply,
    tool,
    tool_call,
)

pytestmark = pytest.mark.anyio


def error_of(exchange: Exchange) -> tuple[int | None, int]:
    return exchange.status, int(exchange.json["error"]["code"])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b"null", -32600),
        (json.dumps([tool_call("get_account", {})]).encode(), -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}', -32600),
        (b'{"jsonrpc":"2.0","result":{}}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"x"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
    ],
)
@pytest.mark.requirement("trap-batches-and-non-json")
async def test_body_that_is_no_single_request_is_refused_and_audited(
    rig: Rig, body: bytes, code: int
) -> None:
    exchange = await rig.post(body)
    assert error_of(exchange) == (400, code)
    assert not rig.upstream.requests
    (refused,) = rig.events("call.refused")
    assert refused.error_code == str(code)
    assert refused.agent == "support-bot"


@pytest.mark.parametrize(
    "params",
    [
        b'{"name":"refund","name":"get_account","arguments":{}}',
        b'{"name":"refund","arguments":{"amount":1,"amount":900}}',
        b'{"name":"refund","arguments":{},"arguments":{"amount":900}}',
        b'{"name":"refund","arguments":{"deep":{"a":1,"a":2}}}',
    ],
)
async def test_repeated_key_in_params_is_refused(rig: Rig, params: bytes) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + params + b"}"
    headers = {"mcp-method": "tools/call", "mcp-name": "refund"}
    assert error_of(await rig.post(body, headers=headers)) == (400, -32600)
    assert not rig.upstream.requests


@pytest.mark.requirement("trap-number-rewritten")
async def test_number_that_does_not_survive_is_refused_and_a_long_integer_forwarded_exactly(
    rig: Rig,
) -> None:
    refused = await rig.post(
        json.dumps(tool_call("get_account", {"id": "N"})).replace('"N"', "1e400").encode(),
        headers={"mcp-method": "tools/call", "mcp-name": "get_account"},
    )
    assert error_of(refused) == (400, -32602)
    accepted = await rig.call("get_account", {"id": 12345678901234567890123})
    assert accepted.status == 200
    assert b'"id":12345678901234567890123' in rig.upstream.requests[-1].body


@pytest.mark.parametrize("argument", ['"\\ud800"', "[" * 70 + "]" * 70])
async def test_surrogate_or_depth_in_arguments_is_refused(rig: Rig, argument: str) -> None:
    body = json.dumps(tool_call("get_account", {"note": "N"})).replace('"N"', argument)
    headers = {"mcp-method": "tools/call", "mcp-name": "get_account"}
    assert error_of(await rig.post(body.encode(), headers=headers)) == (400, -32602)


@pytest.mark.parametrize(
    "method",
    ["initialize", "ping", "prompts/list", "resources/read", "subscriptions/listen", "tools/Call"],
)
async def test_unknown_method_is_404_with_method_not_found(rig: Rig, method: str) -> None:
    assert error_of(await rig.post(message(method))) == (404, -32601)


@pytest.mark.parametrize("version", ["2025-03-26", "2024-11-05", "2099-01-01", "nonsense"])
async def test_other_version_is_told_what_is_supported(rig: Rig, version: str) -> None:
    older = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    exchange = await rig.post(older, headers={"mcp-protocol-version": version})
    assert error_of(exchange) == (400, -32022)
    assert exchange.json["error"]["data"] == {
        "supported": [PROTOCOL_VERSION],
        "requested": version,
    }
    modern = message("tools/list", {"_meta": {VERSION_KEY: version, CAPABILITIES_KEY: {}}})
    agreed = await rig.post(modern, headers={"mcp-protocol-version": version})
    assert error_of(agreed) == (400, -32022)


@pytest.mark.parametrize(
    "params",
    [
        {"_meta": None},
        {"_meta": {}},
        {"_meta": {VERSION_KEY: PROTOCOL_VERSION}},
        {"_meta": {CAPABILITIES_KEY: {}}},
        {"_meta": {VERSION_KEY: PROTOCOL_VERSION, CAPABILITIES_KEY: []}},
        {"_meta": meta(), "Name": "get_account"},
        {"_meta": meta(), "cursor": 7},
    ],
)
async def test_missing_meta_or_unknown_parameter_is_invalid_params(
    rig: Rig, params: dict[str, Any]
) -> None:
    assert error_of(await rig.post(message("tools/list", params))) == (400, -32602)


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp-protocol-version": None},
        {"mcp-protocol-version": "2025-11-25"},
        {"mcp-method": None},
        {"mcp-method": "tools/list"},
        {"mcp-method": "Tools/Call"},
        {"mcp-name": None},
        {"mcp-name": "refund"},
        {"mcp-name": "GET_ACCOUNT"},
        {"mcp-name": "=?base64?!!!?="},
        {"mcp-name": "=?base64?Z2V0X2FjY291bnR=?="},
    ],
)
async def test_header_that_disagrees_with_the_body_is_refused(
    rig: Rig, headers: dict[str, str | None]
) -> None:
    exchange = await rig.post(tool_call("get_account", {"id": 1}), headers=headers)
    assert error_of(exchange) == (400, -32020)
    assert not rig.upstream.requests


async def test_name_in_the_base64_sentinel_is_accepted(rig: Rig) -> None:
    encoded = base64.b64encode(b"get_account").decode()
    headers = {"mcp-name": f"=?base64?{encoded}?="}
    exchange = await rig.post(tool_call("get_account", {"id": 1}), headers=headers)
    assert exchange.status == 200


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name"])
async def test_repeated_routing_header_is_refused(rig: Rig, name: str) -> None:
    request = rig.http(tool_call("get_account", {"id": 1}))
    again = next(line for line in request.headers if line[0] == name.encode())
    exchange = await rig.send(request.changed(headers=(*request.headers, again)))
    assert error_of(exchange) == (400, -32020)


async def test_mirrored_parameter_must_agree_and_is_forwarded(rig: Rig) -> None:
    call = tool_call("regional", {"region": "eu"})
    assert error_of(await rig.post(call)) == (400, -32020)
    assert error_of(await rig.post(call, headers={"mcp-param-region": "us"})) == (400, -32020)
    absent = tool_call("regional", {})
    assert error_of(await rig.post(absent, headers={"mcp-param-region": "eu"})) == (400, -32020)
    assert not rig.upstream.requests
    accepted = await rig.post(call, headers={"mcp-param-region": "eu"})
    assert accepted.status == 200
    assert rig.upstream.sent_header("mcp-param-region") == "eu"


async def test_mirrored_parameter_sent_twice_is_refused(rig: Rig) -> None:
    request = rig.http(tool_call("regional", {"region": "eu"}), headers={"mcp-param-region": "eu"})
    lines = (*request.headers, (b"Mcp-Param-Region", b"us"))
    assert error_of(await rig.send(request.changed(headers=lines))) == (400, -32020)


async def test_mirrored_parameter_nobody_declared_is_not_forwarded(rig: Rig) -> None:
    call = tool_call("get_account", {"id": 1})
    exchange = await rig.post(call, headers={"mcp-param-tenant": "other"})
    assert exchange.status == 200
    assert rig.upstream.sent_header("mcp-param-tenant") is None


@pytest.mark.parametrize(
    "params",
    [
        {"name": 7, "arguments": {}},
        {"arguments": {}},
        {"name": "", "arguments": {}},
        {"name": "x" * 129, "arguments": {}},
        {"name": "get_account", "arguments": []},
        {"name": "get_account", "arguments": None},
        {"name": "get_account", "arguments": {}, "Arguments": {"id": 9}},
        {"name": "get_account", "arguments": {}, "task": {}},
    ],
)
async def test_tool_call_with_wrong_parameters_is_refused(rig: Rig, params: dict[str, Any]) -> None:
    exchange = await rig.post(message("tools/call", params))
    assert error_of(exchange) == (400, -32602)


async def test_notification_is_accepted_and_dropped(rig: Rig) -> None:
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    exchange = await rig.post(body)
    assert (exchange.status, exchange.body) == (202, b"")


async def test_notification_of_another_version_is_refused(rig: Rig) -> None:
    body = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    exchange = await rig.post(body, headers={"mcp-protocol-version": "2025-03-26"})
    assert error_of(exchange) == (400, -32022)


@pytest.mark.requirement("trap-request-id-reuse")
async def test_request_ids_reused_on_separate_posts_are_independent(rig: Rig) -> None:
    for request_id in (1, 1, "a", "a"):
        rig.upstream.will(*[_reply_to(request_id)])
        exchange = await rig.call("get_account", {"id": 1}, request_id=request_id)
        assert exchange.json["id"] == request_id


def _reply_to(request_id: int | str) -> FakeReply:
    return rpc_reply(request_id, {"resultType": "complete", "content": []})


async def test_discover_says_what_is_served(rig: Rig) -> None:
    exchange = await rig.post(message("server/discover"))
    result = exchange.json["result"]
    assert result["supportedVersions"] == [PROTOCOL_VERSION]
    assert result["capabilities"] == {"tools": {}}
    assert result["resultType"] == "complete"
    assert result["cacheScope"] == "private"
    assert result["ttlMs"] >= 0


@pytest.mark.requirement("trap-case-insensitive-reader")
@pytest.mark.parametrize(
    "arguments", [{"amount": 1, "Amount": 900}, {"AMOUNT": 900}, {"x": 1, "X": 2}]
)
async def test_argument_that_differs_only_in_case_is_refused(
    rig: Rig, arguments: dict[str, int]
) -> None:
    assert error_of(await rig.call("refund", arguments)) == (400, -32602)
    assert not rig.upstream.requests
    accepted = await rig.call("refund", {"amount": 1, "x": 1})
    assert accepted.status == 200


@pytest.mark.requirement("trap-case-insensitive-reader")
@pytest.mark.parametrize(
    "order",
    [
        {"amount": 1, "Amount": 900},
        {"AMOUNT": 900},
        {"lines": [{"x": 1, "X": 2}]},
        {"lines": [{"Price": 2}]},
        {"free": {"deep": [[{"a": 1, "A": 2}]]}},
    ],
)
async def test_member_that_differs_only_in_case_is_refused_at_any_depth(
    rig: Rig, order: dict[str, object]
) -> None:
    line = {"type": "object", "properties": {"price": {"type": "integer"}}}
    properties = {
        "amount": {"type": "integer"},
        "lines": {"type": "array", "items": line},
    }
    nested = tool("get_order", {"order": {"type": "object", "properties": properties}})
    nested = msgspec.structs.replace(nested, read_only=True)
    rig.with_server(tools=(nested,))
    assert error_of(await rig.call("get_order", {"order": order})) == (400, -32602)
    assert not rig.upstream.requests
    honest = {"amount": 1, "lines": [{"price": 2}], "free": {"AMOUNT": 1, "deep": [{"A": 1}]}}
    assert (await rig.call("get_order", {"order": honest})).status == 200
