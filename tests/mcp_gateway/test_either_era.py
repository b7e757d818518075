"""Which era a server is spoken to in, and how little it takes to find out."""

import asyncio
import json

import pytest

from mcp_gateway.upstream.either_era import ERA_SECONDS
from mcp_gateway.upstream.probe import MAXIMUM_ANSWER_BYTES, Era, era_of
from mcp_gateway.upstream.protocol import UpstreamUnreachableError
from tests.mcp_gateway.legacy_rig import (
    CALL,
    EVENT_STREAM,
    LegacyReply,
    LegacyServer,
    Sent,
    answer,
    behind,
    events,
    json_reply,
    session_missing,
    unknown_method,
)
from tests.mcp_gateway.rig import TARGET_TOKEN, Rig

pytestmark = pytest.mark.anyio

MODERN = '{"supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{}}'


def error(code: object, **data: object) -> bytes:
    body = {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "", "data": data}}
    return json.dumps(body).encode()


def modern_server() -> LegacyServer:
    server = LegacyServer()
    server.on["server/discover"] = lambda _: json_reply(answer(1, MODERN))
    server.on["tools/call"] = lambda sent: json_reply(answer(sent.message["id"], '{"m":1}'))
    return server


@pytest.mark.requirement("era-probe")
@pytest.mark.parametrize(
    ("said", "era"),
    [
        (answer(1, MODERN), Era.MODERN),
        (answer(1, '{"supportedVersions":["2025-11-25"]}'), Era.LEGACY),
        (answer(1, '{"supportedVersions":"2026-07-28"}'), Era.LEGACY),
        (answer(1, "{}"), Era.LEGACY),
        (answer(1, "[]"), Era.LEGACY),
        (error(-32020), Era.MODERN),
        (error(-32021), Era.MODERN),
        (error(-32022, supported=["2027-01-01"]), Era.MODERN),
        (error(-32022), Era.MODERN),
        (error(-32022, supported=["2025-06-18"]), Era.LEGACY),
        (error(-32601), Era.LEGACY),
        (error(-32600), Era.LEGACY),
        (error(-32602), Era.LEGACY),
        (error(-32000), Era.LEGACY),
        (error("-32020"), Era.LEGACY),
        (error(-32020.0), Era.LEGACY),
        (b'{"error":"x"}', Era.LEGACY),
        (b"<html>", Era.LEGACY),
        (b"", Era.LEGACY),
        (b"\xff", Era.LEGACY),
        (b"[" * 100_000, Era.LEGACY),
    ],
)
def test_answer_to_discover_tells_the_eras_apart(said: bytes, era: Era) -> None:
    assert era_of(said) is era


@pytest.mark.requirement("era-probe")
async def test_modern_server_is_asked_once_and_then_spoken_to_as_ever(rig: Rig) -> None:
    server = modern_server()
    behind(rig, server)
    for _ in range(3):
        assert (await rig.post(CALL)).json["result"] == {"m": 1}
    assert server.methods() == ["server/discover"] + ["tools/call"] * 3
    probe, call = server.sent[:2]
    assert probe.headers["authorization"] == f"Bearer {TARGET_TOKEN}"
    assert probe.headers["mcp-method"] == "server/discover"
    assert "mcp-name" not in probe.headers
    assert call.headers["mcp-name"] == "get_account"


@pytest.mark.requirement("era-probe")
async def test_modern_answer_may_come_in_an_event_stream(rig: Rig) -> None:
    server = modern_server()
    server.on["server/discover"] = lambda _: events(b"", answer(1, MODERN))
    behind(rig, server)
    await rig.post(CALL)
    assert server.methods() == ["server/discover", "tools/call"]


@pytest.mark.requirement("era-probe")
@pytest.mark.parametrize(
    "reply",
    [
        LegacyReply(404, "text/html", (b"<html>",)),
        LegacyReply(405, ""),
        LegacyReply(500, "application/json", (error(-32603),)),
        LegacyReply(200, "application/json", (b" " * (MAXIMUM_ANSWER_BYTES + 1),)),
        LegacyReply(200, EVENT_STREAM, (b"data: " + b"x" * (MAXIMUM_ANSWER_BYTES - 6) + b"x",)),
        LegacyReply(200, EVENT_STREAM, (b": nothing\n\n",)),
        LegacyReply(200, "application/json", (answer(1, MODERN),), content_encoding="gzip"),
    ],
)
async def test_any_other_answer_leads_to_initialize(rig: Rig, reply: LegacyReply) -> None:
    server = LegacyServer()
    server.on["server/discover"] = lambda _: reply
    behind(rig, server)
    for _ in range(2):
        assert (await rig.post(CALL)).status == 200
    assert server.methods().count("server/discover") == 1
    assert server.methods().count("initialize") == 1


@pytest.mark.requirement("era-probe")
async def test_first_calls_at_once_ask_once(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server)

    async def slowly() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    server.before["server/discover"] = server.before["initialize"] = slowly
    exchanges = await asyncio.gather(*[rig.post(CALL) for _ in range(5)])
    assert [each.status for each in exchanges] == [200] * 5
    assert server.methods().count("server/discover") == 1
    assert server.methods().count("initialize") == 1
    assert server.methods().count("tools/call") == 5


@pytest.mark.parametrize(
    ("protocol", "first"), [("modern", "tools/call"), ("legacy", "initialize")]
)
async def test_server_whose_era_is_declared_is_not_asked(
    rig: Rig, protocol: str, first: str
) -> None:
    server = LegacyServer(has_sessions=False)
    behind(rig, server, protocol=protocol)
    assert (await rig.post(CALL)).status == 200
    assert server.methods()[0] == first
    assert "server/discover" not in server.methods()


@pytest.mark.requirement("era-probe")
@pytest.mark.parametrize("status", [400, 404, 405])
async def test_server_that_became_legacy_is_asked_again_but_the_call_is_not_repeated(
    rig: Rig, status: int
) -> None:
    server = modern_server()
    behind(rig, server)
    await rig.post(CALL)

    def older(sent: Sent) -> LegacyReply:
        reply = session_missing(sent)
        reply.status = status
        return reply

    server.on |= {"tools/call": older, "server/discover": session_missing}
    await rig.post(CALL)
    assert server.methods() == ["server/discover", "tools/call", "tools/call"]
    del server.on["tools/call"]
    assert (await rig.post(CALL)).json["result"]["resultType"] == "complete"
    assert server.methods()[3:5] == ["server/discover", "initialize"]


@pytest.mark.requirement("era-probe")
async def test_server_that_became_modern_is_asked_again(rig: Rig) -> None:
    server = LegacyServer()
    behind(rig, server)
    await rig.post(CALL)
    server.sessions.clear()
    server.on["initialize"] = unknown_method
    server.on["server/discover"] = lambda _: json_reply(answer(1, MODERN))
    assert (await rig.post(CALL)).status == 502
    server.on["tools/call"] = lambda sent: json_reply(answer(sent.message["id"], '{"m":1}'))
    assert (await rig.post(CALL)).json["result"] == {"m": 1}
    assert server.methods().count("server/discover") == 2


async def test_era_is_asked_again_after_its_time(rig: Rig) -> None:
    server = modern_server()
    behind(rig, server)
    await rig.post(CALL)
    rig.monotonic.now += ERA_SECONDS + 1
    rig.parts.enforcement.heartbeat()
    await rig.post(CALL)
    assert server.methods() == ["server/discover", "tools/call"] * 2


async def test_connection_that_failed_is_followed_by_a_question(rig: Rig) -> None:
    server = modern_server()
    behind(rig, server)
    await rig.post(CALL)
    server.on["tools/call"] = lambda _: LegacyReply(200, "", (UpstreamUnreachableError(),))
    assert (await rig.post(CALL)).status == 502
    server.on = modern_server().on
    assert (await rig.post(CALL)).status == 200
    assert server.methods().count("server/discover") == 2


async def test_server_that_cannot_be_asked_is_not_taken_for_either(rig: Rig) -> None:
    server = modern_server()
    server.on["server/discover"] = lambda _: LegacyReply(0, "", (UpstreamUnreachableError(),))
    behind(rig, server)
    assert (await rig.post(CALL)).status == 502
    assert server.methods() == ["server/discover"]
    server.on = modern_server().on
    assert (await rig.post(CALL)).status == 200


@pytest.mark.parametrize(("status", "exchanges"), [(401, 2), (403, 1)])
async def test_refused_credential_says_nothing_of_the_era(
    rig: Rig, status: int, exchanges: int
) -> None:
    server = modern_server()
    server.on["server/discover"] = lambda _: LegacyReply(status, "application/json")
    behind(rig, server)
    assert (await rig.post(CALL)).status == 502
    assert server.methods() == ["server/discover"] * exchanges
    assert len(rig.authority.forms) == exchanges
