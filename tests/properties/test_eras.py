"""The two forms of one call are judged as one call, and a reply only loses what it must."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway import inbound
from mcp_gateway.eras.legacy import LegacyMessage
from mcp_gateway.eras.recognition import understand
from mcp_gateway.eras.sealed_session import SessionSeal
from mcp_gateway.eras.translate import legacy_form
from mcp_gateway.http_message import Headers
from mcp_gateway.inbound import (
    CAPABILITIES_KEY,
    PROTOCOL_VERSION,
    VERSION_KEY,
    Rejection,
    ToolCall,
)
from mcp_gateway.routing_headers import encode_header_value
from mcp_gateway.run_context import declared_run


def _object(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in members.items()) + "}"


# What readers differ about, as text: no encoder would write most of it.
ODD = st.sampled_from(
    [
        "12345678901234567890123",
        "1.10",
        "1e400",
        "-0",
        "1E2",
        "0.1000000000000000055511151231257827",
        "NaN",
        '"\\ud800"',
        '{"a":1,"a":2}',
        '{"a":1,"A":2}',
        "[" * 70 + "]" * 70,
        "01",
        '"\\u0000"',
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
TEXT = JSON.map(json.dumps) | ODD
NAME = (
    st.sampled_from(["get_account", "refund", "", "x" * 129, "naïve tool"]).map(json.dumps) | TEXT
)
MEMBERS = st.fixed_dictionaries(
    {"name": NAME},
    optional={
        "arguments": st.dictionaries(st.text(max_size=4), TEXT, max_size=3).map(_object) | TEXT,
        "Arguments": TEXT,
        "inputResponses": TEXT,
    },
)
ID = st.sampled_from(["1", '"a"', "0", "1.5", "null", "true", "-3", '"' + "i" * 1025 + '"'])
RUN = st.dictionaries(st.sampled_from(["task", "model", "step", "other"]), JSON, max_size=3)


def body_of(members: dict[str, str], meta: dict[str, Any], request_id: str) -> bytes:
    params = _object(members | {"_meta": json.dumps(meta)})
    text = _object(
        {"jsonrpc": '"2.0"', "id": request_id, "method": '"tools/call"', "params": params}
    )
    return text.encode()


def routing(name_text: str) -> list[tuple[bytes, bytes]]:
    lines = [(b"mcp-method", b"tools/call")]
    try:
        name = encode_header_value(json.loads(name_text))
    except (ValueError, TypeError, AttributeError):  # no name that a header could carry
        return lines
    return [*lines, (b"mcp-name", name.encode("latin-1"))]


@pytest.mark.requirement("eras-judged-alike")
@settings(max_examples=400, deadline=None)
@given(members=MEMBERS, run=RUN, request_id=ID)
def test_modern_and_legacy_form_of_a_call_are_one_call(
    members: dict[str, str], run: dict[str, Any], request_id: str
) -> None:
    own = {"countersign/run": run, "progressToken": 7}
    modern = understand(
        Headers([(b"mcp-protocol-version", PROTOCOL_VERSION.encode()), *routing(members["name"])]),
        body_of(members, {VERSION_KEY: PROTOCOL_VERSION, CAPABILITIES_KEY: {}} | own, request_id),
    )
    legacy = understand(
        Headers([(b"mcp-protocol-version", b"2025-11-25"), (b"mcp-session-id", b"x")]),
        body_of(members, own, request_id),
    )
    said = legacy.said if isinstance(legacy, LegacyMessage) else legacy
    if isinstance(modern, ToolCall):
        assert isinstance(said, ToolCall)
        assert (said.id, said.name) == (modern.id, modern.name)
        assert repr(said.arguments) == repr(modern.arguments)  # 1, 1.0 and true are not one
        assert declared_run(said.meta) == declared_run(modern.meta)
        assert said.meta == modern.meta
    else:
        assert isinstance(modern, Rejection)
        assert isinstance(said, Rejection)
        if modern.code != inbound.HEADER_MISMATCH:
            assert said.code == modern.code


RAW = JSON.map(json.dumps).filter(lambda text: "Infinity" not in text) | st.sampled_from(
    ["1.10", "12345678901234567890123", '{ "a" :1e2 }']
)
RESULT = st.dictionaries(
    st.sampled_from(["content", "structuredContent", "isError", "ttlMs", "cacheScope", "x", "é"]),
    RAW,
)


@pytest.mark.requirement("trap-reply-rewritten")
@settings(max_examples=200, deadline=None)
@given(result=RESULT, is_modern=st.booleans())
def test_translated_reply_keeps_the_bytes_of_every_value(
    result: dict[str, str], is_modern: bool
) -> None:
    members = result | ({"resultType": '"complete"'} if is_modern else {})
    message = _object({"jsonrpc": '"2.0"', "id": "1", "result": _object(members)}).encode()
    kept = {
        name: text
        for name, text in members.items()
        if name not in {"resultType", "ttlMs", "cacheScope"}
    }
    translated = legacy_form(message)
    if kept == members:
        assert translated is message
        return
    expected = "{" + ",".join(
        f"{json.dumps(name, ensure_ascii=False)}:{text}" for name, text in kept.items()
    )
    assert translated == b'{"jsonrpc":"2.0","id":1,"result":' + expected.encode() + b"}}"


MESSAGE = st.dictionaries(
    st.sampled_from(["jsonrpc", "id", "method", "params", "result", "Method", "error"]),
    st.sampled_from(
        [
            '"2.0"',
            "1",
            "null",
            "[]",
            "{}",
            '"initialize"',
            '"ping"',
            '"tools/call"',
            '"notifications/cancelled"',
            '{"requestId":1}',
            '{"protocolVersion":"2025-11-25","capabilities":{}}',
            '{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}',
        ]
    )
    | TEXT,
).map(_object)
VALUE = st.sampled_from([b"2025-11-25", b"2025-06-18", b"2026-07-28", b"", b"x", b"\xff"])
LINES = st.lists(
    st.tuples(
        st.sampled_from([b"mcp-protocol-version", b"mcp-session-id", b"mcp-name", b"mcp-param-x"]),
        VALUE,
    ),
    max_size=3,
)


@settings(max_examples=400, deadline=None)
@given(lines=LINES, text=MESSAGE | TEXT | st.text(max_size=20))
def test_every_message_has_an_answer_and_no_legacy_refusal_says_404(
    lines: list[tuple[bytes, bytes]], text: str
) -> None:
    message = understand(Headers(lines), text.encode("utf-8", "surrogatepass"))
    said = message.said if isinstance(message, LegacyMessage) else message
    if isinstance(message, LegacyMessage) and isinstance(said, Rejection):
        assert said.status != 404  # to the client it would mean that its session is gone


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")))
def test_no_text_but_a_sealed_one_opens(text: str) -> None:
    assert SessionSeal(bytes(32), bytes).open(text) is None
