"""Whatever a message says: MCP's own error, and the gateway goes on serving.

Bytes on raw sockets against the real process, with a really accepted token, so that nothing but
what is wrong in the case is wrong. `test_bad_input_gateway_http` is about the HTTP around it.
"""

import contextlib
import json
import sqlite3
from typing import Final

import pytest

from compose.demo.stack import Stack
from tests.gateway_requests import (
    TARGET,
    arguments_of,
    body_of,
    changed,
    headers_for,
    params_of,
    refused,
    send,
)
from tests.stack import PROTOCOL, TestAgent, meta, tool_call
from tests.wire import request_bytes
from tests.witness import Witness

pytestmark = [
    pytest.mark.processes,
    pytest.mark.usefixtures("goes_on_serving", "same_processes"),
]

PARSE, REQUEST, METHOD, PARAMS, HEADER, VERSION = -32700, -32600, -32601, -32602, -32020, -32022


# --- the body --------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """Arguments so deep that the body as a whole has this depth."""
    inside = depth - 3  # envelope, params, arguments
    return arguments_of('{"id": 17, "x": ' + "[" * inside + "]" * inside + "}")


BODIES: Final[dict[str, tuple[bytes, int, int]]] = {
    "empty": (b"", 400, PARSE),
    "blank": (b"  \r\n ", 400, PARSE),
    "cut off": (body_of()[:-1], 400, PARSE),
    "two values": (body_of() + b"{}", 400, PARSE),
    "a comment": (b"/* */" + body_of(), 400, PARSE),
    "single quotes": (b"{'jsonrpc':'2.0'}", 400, PARSE),
    "not utf-8": (body_of().replace(b"get_account", b"get\xff"), 400, PARSE),
    "utf-16": (body_of().decode().encode("utf-16"), 400, PARSE),
    "a byte order mark": (b"\xef\xbb\xbf" + body_of(), 400, PARSE),
    "a raw NUL": (body_of().replace(b"get_account", b"get\x00account"), 400, PARSE),
    "NaN": (arguments_of('{"id": NaN}'), 400, PARSE),
    "Infinity": (arguments_of('{"id": -Infinity}'), 400, PARSE),
    "a batch": (b"[" + body_of() + b"]", 400, REQUEST),
    "an empty batch": (b"[]", 400, REQUEST),
    "null": (b"null", 400, REQUEST),
    "a text": (b'"tools/call"', 400, REQUEST),
    "a number": (b"1", 400, REQUEST),
    "nothing in it": (b"{}", 400, REQUEST),
    "a repeated key": (body_of()[:-1] + b', "method": "tools/list"}', 400, REQUEST),
    "a repeated parameter": (
        body_of().replace(b'"name": ', b'"name": "refund", "name": '),
        400,
        REQUEST,
    ),
    "a repeated argument": (arguments_of('{"id": 17, "id": 18}'), 400, REQUEST),
    "a key repeated by an escape": (arguments_of('{"id": 17, "\\u0069d": 18}'), 400, REQUEST),
    "another jsonrpc": (body_of(jsonrpc="1.0"), 400, REQUEST),
    "no jsonrpc": (body_of(jsonrpc=...), 400, REQUEST),
    "an unknown member": (body_of(extra=1), 400, REQUEST),
    "an id of null": (body_of(id=None), 400, REQUEST),
    "an id of true": (body_of(id=True), 400, REQUEST),
    "a fractional id": (body_of(id=1.5), 400, REQUEST),
    "an id as list": (body_of(id=[1]), 400, REQUEST),
    "a huge id": (body_of(id="x" * 5000), 400, REQUEST),
    "no method": (body_of(method=...), 400, REQUEST),
    "a method of 1": (body_of(method=1), 400, REQUEST),
    "params as list": (body_of(params=[1]), 400, REQUEST),
    "a posted result": (b'{"jsonrpc":"2.0","id":1,"result":{}}', 400, REQUEST),
    "a posted error": (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}',
        400,
        REQUEST,
    ),
    "no params": (body_of(params=...), 400, PARAMS),
    "no _meta": (params_of(_meta=...), 400, PARAMS),
    "_meta as text": (params_of(_meta="x"), 400, PARAMS),
    "no capabilities": (
        params_of(_meta={"io.modelcontextprotocol/protocolVersion": PROTOCOL}),
        400,
        PARAMS,
    ),
    "an unknown parameter": (params_of(Name="refund"), 400, PARAMS),
    "no name": (params_of(name=...), 400, PARAMS),
    "a name of null": (params_of(name=None), 400, PARAMS),
    "an endless name": (params_of(name="x" * 129), 400, PARAMS),
    "arguments as list": (params_of(arguments=[17]), 400, PARAMS),
    "arguments as null": (params_of(arguments=None), 400, PARAMS),
    "an argument in other case": (arguments_of('{"id": 17, "ID": 18}'), 400, PARAMS),
    "a lone surrogate": (arguments_of('{"id": 17, "x": "\\ud800"}'), 400, PARAMS),
    "a lone surrogate as key": (arguments_of('{"id": 17, "\\udfff": 1}'), 400, PARAMS),
    "too many digits": (arguments_of('{"id": 0.1000000000000000055}'), 400, PARAMS),
    "a number beyond floats": (arguments_of('{"id": 1e400}'), 400, PARAMS),
    "a number below floats": (arguments_of('{"id": 1e-400}'), 400, PARAMS),
    "an endless integer": (arguments_of('{"id": ' + "9" * 5000 + "}"), 400, PARAMS),
    "depth 65": (nested(65), 400, PARAMS),
    "depth 100000": (nested(100_000), 400, PARAMS),
    "another version in _meta": (
        params_of(_meta=meta() | {"io.modelcontextprotocol/protocolVersion": "2025-11-25"}),
        400,
        HEADER,
    ),
    "an unknown method": (body_of(method="tools/burn"), 400, HEADER),
}


@pytest.mark.parametrize("what", BODIES)
def test_body_that_is_wrong_is_refused_with_the_code_of_the_specification(
    agent: TestAgent, what: str
) -> None:
    body, status, code = BODIES[what]
    answer = send(agent, request_bytes(TARGET, headers_for(agent), body))
    refused(agent, answer, status, code)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body_of(id="a text"), id="a textual id"),
        pytest.param(body_of(id=12345678901234567890123), id="an id of 23 digits"),
        pytest.param(nested(64), id="depth 64"),
        pytest.param(arguments_of('{"id": 17, "x": "\\ud83d\\ude00"}'), id="a surrogate pair"),
        pytest.param(arguments_of('{"id": 17, "x": "\\u0000"}'), id="an escaped NUL"),
        pytest.param(arguments_of('{"id": 17, "x": 0.1}'), id="a float that survives"),
        pytest.param(arguments_of('{"id": 17, "x": 5e-324}'), id="the smallest float"),
        pytest.param(b" \n" + body_of() + b"\r\n\t", id="white space around it"),
    ],
)
def test_body_twin_that_is_unusual_but_right_is_served(agent: TestAgent, body: bytes) -> None:
    answer = send(agent, request_bytes(TARGET, headers_for(agent), body))
    assert answer.status == 200, answer
    assert b"Ada Lovelace" in answer.body
    assert answer.json["id"] == json.loads(body)["id"]


def test_number_of_23_digits_reaches_the_server_unchanged(stack: Stack, agent: TestAgent) -> None:
    digits = "12345678901234567890123"
    body = arguments_of(f'{{"id": {digits}}}')
    answer = send(agent, request_bytes(TARGET, headers_for(agent), body))
    assert answer.status == 200, answer
    assert b"error" not in answer.body or answer.json["result"]["isError"]  # SQLite takes 64 bits
    with contextlib.closing(sqlite3.connect(stack.directory / "crm.db")) as crm:
        seen = crm.execute("SELECT arguments FROM calls WHERE arguments LIKE '%2345678%'")
        assert [row[0] for row in seen] == [f'{{"id": {digits}}}']


def test_float_that_survives_reaches_the_server_unchanged(stack: Stack, agent: TestAgent) -> None:
    body = json.dumps(tool_call("refund", {"id": 999, "amount": 0.1})).encode()
    answer = send(agent, request_bytes(TARGET, headers_for(agent, name="refund"), body))
    assert answer.status == 200, answer
    with contextlib.closing(sqlite3.connect(stack.directory / "crm.db")) as crm:
        seen = crm.execute("SELECT arguments FROM calls WHERE tool = 'refund'").fetchall()
    assert seen == [('{"amount": 0.1, "id": 999}',)]


# --- headers that mirror the body ---------------------------------------------------------------

MIRRORS: Final[dict[str, tuple[dict[str, str | list[str] | None], int]]] = {
    "no Mcp-Method": ({"mcp_method": None}, HEADER),
    "another Mcp-Method": ({"mcp_method": "tools/list"}, HEADER),
    "Mcp-Method in other case": ({"mcp_method": "Tools/Call"}, HEADER),
    "Mcp-Method twice": ({"mcp_method": ["tools/call", "tools/call"]}, HEADER),
    "no Mcp-Name": ({"mcp_name": None}, HEADER),
    "another Mcp-Name": ({"mcp_name": "refund"}, HEADER),
    "Mcp-Name twice": ({"mcp_name": ["get_account", "refund"]}, HEADER),
    "a broken base64 Mcp-Name": ({"mcp_name": "=?base64?Z2V0X2FjY291bnR=?="}, HEADER),
    "no version": ({"mcp_protocol_version": None}, HEADER),
    "an older version": ({"mcp_protocol_version": "2025-11-25"}, HEADER),
    "versions twice": ({"mcp_protocol_version": [PROTOCOL, "2025-11-25"]}, HEADER),
}


@pytest.mark.parametrize("what", MIRRORS)
def test_header_that_does_not_mirror_the_body_is_refused(agent: TestAgent, what: str) -> None:
    changes, code = MIRRORS[what]
    headers = changed(headers_for(agent), **changes)
    refused(agent, send(agent, request_bytes(TARGET, headers, body_of())), 400, code)


def test_header_twin_the_name_in_base64_is_accepted(agent: TestAgent) -> None:
    headers = changed(headers_for(agent), mcp_name="=?base64?Z2V0X2FjY291bnQ=?=")
    assert send(agent, request_bytes(TARGET, headers, body_of())).status == 200


@pytest.mark.parametrize("method", ["tools/burn", "ping", "logging/setLevel", "initialize", "x/y"])
def test_method_we_do_not_serve_is_not_found(agent: TestAgent, method: str) -> None:
    headers = headers_for(agent, method, None)
    body = body_of(method=method, params={"_meta": meta()})
    refused(agent, send(agent, request_bytes(TARGET, headers, body)), 404, METHOD)


@pytest.mark.parametrize("version", ["2025-11-25", "2099-01-01", "x", ""])
def test_version_we_do_not_serve_is_refused_and_ours_is_named(
    agent: TestAgent, version: str
) -> None:
    headers = changed(headers_for(agent, "tools/list", None), mcp_protocol_version=version)
    own = meta() | {"io.modelcontextprotocol/protocolVersion": version}
    body = body_of(method="tools/list", params={"_meta": own})
    answer = send(agent, request_bytes(TARGET, headers, body))
    refused(agent, answer, 400, VERSION)
    assert answer.json["error"]["data"]["supported"] == [PROTOCOL]


@pytest.mark.parametrize(
    ("asked", "agreed"), [("2025-06-18", "2025-06-18"), ("2024-11-05", "2025-11-25")]
)
def test_older_client_gets_its_version_or_the_latest_of_its_era(
    agent: TestAgent, asked: str, agreed: str
) -> None:
    headers = changed(headers_for(agent), mcp_protocol_version=None, mcp_method=None, mcp_name=None)
    params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "x"}}
    body = body_of(method="initialize", params=params)
    answer = send(agent, request_bytes(TARGET, headers, body))
    assert (answer.status, answer.json["result"]["protocolVersion"]) == (200, agreed)


def test_notification_is_taken_without_a_word(agent: TestAgent) -> None:
    body = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    headers = headers_for(agent, "notifications/initialized", None)
    answer = send(agent, request_bytes(TARGET, headers, body))
    assert (answer.status, answer.body) == (202, b"")


@pytest.mark.parametrize(
    "tool", ["burn", "delete_account", "../notes/search", "get_*", "Get_Account"]
)
def test_unknown_tool_is_denied_and_audited_and_not_told_what_exists(
    stack: Stack, agent: TestAgent, tool: str
) -> None:
    witness = Witness(stack)
    body = json.dumps(tool_call(tool, {})).encode()
    answer = send(agent, request_bytes(TARGET, headers_for(agent, name=tool), body))
    assert answer.status == 200, answer
    assert answer.json["result"]["isError"]
    assert b"delete_account" not in answer.body.replace(tool.encode(), b"")
    # What is no tool name is text of the agent's choosing: the audit does not repeat it.
    witness.event("call.refused", tool="(not a tool name)" if "*" in tool else tool)
