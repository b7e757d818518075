"""A legacy stream that closes before its answer is taken up again; the call is never repeated."""

import pytest

from audit_log.event import Outcome
from mcp_gateway.upstream.protocol import UpstreamUnreachableError
from tests.mcp_gateway.legacy_rig import (
    CALL,
    EVENT_STREAM,
    LegacyReply,
    LegacyServer,
    Pauses,
    answer,
    behind,
    data_of,
    legacy_server,
)
from tests.mcp_gateway.rig import Rig

pytestmark = pytest.mark.anyio


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
    server = legacy_server(rig)
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
    server = legacy_server(rig)
    server.on["tools/call"] = lambda _: LegacyReply(200, EVENT_STREAM, (priming,))
    exchange = await rig.post(CALL)
    assert b"-32004" in exchange.body
    assert server.of("GET") == []


@pytest.mark.parametrize("status", [400, 404, 405, 500])
async def test_server_that_does_not_resume_is_an_error(rig: Rig, status: int) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda _: LegacyReply(200, EVENT_STREAM, (b"id: 1\ndata:\n\n",))
    server.on["GET"] = lambda _: LegacyReply(status, "application/json")
    await rig.post(CALL)
    assert rig.events("call.finished")[-1].error_code == "upstream_unreachable"


async def test_resumed_streams_share_one_limit_of_bytes(rig: Rig) -> None:
    server = legacy_server(rig, maximum_response_bytes=1024)
    filled = LegacyReply(200, EVENT_STREAM, (b"id: 1\ndata:\n\n" + b": filling\n" * 60,))
    server.on["tools/call"] = lambda _: filled
    server.on["GET"] = lambda _: filled
    await rig.post(CALL)
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_too_large"
