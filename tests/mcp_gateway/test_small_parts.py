from itertools import pairwise
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_gateway.bounded_memory import LeastRecentlyUsed
from mcp_gateway.proof_memory import ProofMemory, ProofsUnavailableError, ProofUse
from mcp_gateway.routing_headers import (
    decode_header_value,
    encode_header_value,
    parameter_headers,
)
from mcp_gateway.run_context import declared_run
from mcp_gateway.upstream.server_sent_events import (
    EventReader,
    EventTooLargeError,
    ServerSentEvent,
    event_of,
)

STREAM = (
    b": comment\r\n\r\nevent: revocation\r\ndata: one\r\ndata: two\r\n\r\n"
    b"id: 7\ndata:bare\n\nretry: 5\n\ndata\n\nevent: x\rdata: cr\r\r"
)
EVENTS = [
    ServerSentEvent("revocation", b"one\ntwo"),
    ServerSentEvent("message", b"bare"),
    ServerSentEvent("message", b""),
    ServerSentEvent("x", b"cr"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = EventReader()
    found: list[ServerSentEvent] = []
    for start, end in pairwise(edges):
        found.extend(reader.feed(STREAM[start:end]))
    assert found == EVENTS


LINES = [b"\r", b"\n", b"\r\n", b"data", b"data: ", b"event: e", b"id: 1", b"x", b":", b" ", b"{}"]
STREAMS = st.lists(st.lists(st.sampled_from(LINES), max_size=6).map(b"".join), max_size=12)


@given(STREAMS)
@example([b"data: a\r", b"\n", b"\n", b"data: b\r", b"", b"\n", b"\n"])
def test_events_are_those_another_client_sees(chunks: list[bytes]) -> None:
    chunks = [*chunks, b"\n\n"]
    reader = EventReader()
    found = [event for chunk in chunks for event in reader.feed(chunk)]
    assert found == list(EventReader().feed(b"".join(chunks)))
    request = httpx2.Request("POST", "http://127.0.0.1/")
    headers = {"content-type": "text/event-stream"}
    response = httpx2.Response(200, headers=headers, content=iter(chunks), request=request)
    seen = [(event.event, event.data.encode()) for event in httpx2.EventSource(response)]
    # Events without data say nothing; that client also makes one of an id alone.
    assert [(event.name, event.data) for event in found if event.data] == [
        event for event in seen if event[1]
    ]


@given(st.binary())
def test_message_written_as_an_event_is_read_as_that_message(text: bytes) -> None:
    message = msgspec.json.encode(text.hex()) + b"\r\n " + msgspec.json.encode(len(text))
    for whole in (message, message.replace(b"\r\n", b"\r"), message.replace(b"\r\n", b"\n")):
        (event,) = EventReader().feed(event_of(whole))
        assert event == ServerSentEvent("message", message.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize(
    "stream", [b"data: " + b"x" * 200, b"data: x\n" * 200, b"y" * 200, b"data\n" * 100_001]
)
def test_event_over_the_cap_is_refused(stream: bytes) -> None:
    reader = EventReader(maximum_event_bytes=100)
    with pytest.raises(EventTooLargeError):
        list(reader.feed(stream))


@given(st.text(st.characters(codec="utf-8")))
def test_header_value_survives_the_trip(value: str) -> None:
    encoded = encode_header_value(value)
    assert encoded.isascii()
    assert "\n" not in encoded
    assert decode_header_value(encoded) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": ""}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "a b"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": 7}}},
        {"type": "string", "x-mcp-header": "A"},
        {"properties": {"l": {"items": {"type": "string", "x-mcp-header": "A"}}}},
        {"$defs": {"a": {"type": "string", "x-mcp-header": "A"}}},
        {"anyOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}]},
        {
            "properties": {
                "a": {"type": "string", "x-mcp-header": "A"},
                "b": {"type": "string", "x-mcp-header": "a"},
            }
        },
    ],
)
def test_annotation_that_is_invalid_takes_the_tool_away(schema: dict[str, Any]) -> None:
    assert parameter_headers(schema) is None


def test_annotation_on_a_nested_property_is_found_and_data_is_not_entered() -> None:
    schema = {
        "properties": {
            "a": {"properties": {"b": {"type": "boolean", "x-mcp-header": "B"}}},
            "c": {"type": "string", "default": {"x-mcp-header": "no"}},
        }
    }
    (found,) = parameter_headers(schema) or ()
    assert (found.path, found.name, found.type) == (("a", "b"), "B", "boolean")
    assert parameter_headers(None) == ()


@pytest.mark.anyio
async def test_proof_is_remembered_until_it_would_be_too_old_and_a_full_memory_refuses() -> None:
    memory = ProofMemory(capacity=2)
    assert await memory.use("a", 1, 10, now=1) is ProofUse.FIRST
    assert await memory.use("a", 1, 10, now=9) is ProofUse.REPLAYED
    assert await memory.use("b", 9, 20, now=9) is ProofUse.FIRST
    with pytest.raises(ProofsUnavailableError):  # nobody used it: that is not to be said
        await memory.use("c", 9, 20, now=9)
    assert await memory.use("b", 9, 20, now=9) is ProofUse.REPLAYED
    assert await memory.use("c", 9, 20, now=10) is ProofUse.FIRST


def test_cache_keeps_what_was_used_last() -> None:
    cache: LeastRecentlyUsed[str, int] = LeastRecentlyUsed(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert cache.drop_where(lambda value: value == 1) == 1
    cache.drop("c")
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (
            {"task": "analysis", "model": "m", "step": "1"},
            {"task": "analysis", "model": "m", "step": "1"},
        ),
        ({"task": 7, "other": "x", "model": "y" * 300}, {}),
        ("text", {}),
        (None, {}),
    ],
)
def test_declared_run_takes_known_short_words_only(declared: object, expected: object) -> None:
    assert declared_run({"countersign/run": declared}) == expected
