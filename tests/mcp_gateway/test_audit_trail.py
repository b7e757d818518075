"""What a stranger's text may do to the audit: nothing."""

import pytest

from mcp_gateway.audit_trail import MAXIMUM_DETAIL_LENGTH
from mcp_gateway.discovery import look
from mcp_gateway.errors import MAXIMUM_MESSAGE_LENGTH
from tests.mcp_gateway.legacy_rig import LegacyReply, LegacyServer, behind
from tests.mcp_gateway.rig import FakeReply, HttpCall, Rig, tool_call

pytestmark = pytest.mark.anyio

CALL = tool_call("get_account", {"id": 1})


@pytest.mark.requirement("audit-durable")
@pytest.mark.parametrize("text", ["text/\udcff", "\ud800", "a\0\x1b[2J\u202e\n", "x" * 70_000])
async def test_reply_of_any_media_type_has_an_outcome(rig: Rig, text: str) -> None:
    rig.upstream.will(FakeReply(media_type=text, body=(b"x",)))
    exchange = await rig.post(CALL)
    assert exchange.status == 502
    (outcome,) = rig.events("call.finished")
    assert outcome.error_code == "upstream_reply_invalid"
    assert outcome.detail is not None
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= MAXIMUM_DETAIL_LENGTH


async def test_detail_of_a_refusal_is_cut_and_the_number_before_it_stays(rig: Rig) -> None:
    for _ in range(60):
        rig.parts.audit.not_accepted("POST", "/", 404, "\ud800" * 1000)
    rig.clock.now += 1
    rig.parts.audit.not_accepted("POST", "/", 404, "\ud800" * 1000)
    *_, last = rig.events("call.refused")
    assert last.detail == "?" * MAXIMUM_DETAIL_LENGTH + " (and 10 refusals before it)"


async def test_path_of_any_characters_is_refused_and_recorded(rig: Rig) -> None:
    request = HttpCall(rig.http(CALL).headers, path="/\x7f\xff\x00")
    assert (await rig.send(request)).status == 404
    (refused,) = rig.events("call.refused")
    assert refused.request_path is not None
    assert refused.request_path.isprintable()


@pytest.mark.parametrize("length", [20_000, 20])
async def test_header_name_of_any_length_makes_neither_answer_nor_event_long(
    rig: Rig, length: int
) -> None:
    name = b"mcp-param-" + b"a" * length
    request = rig.http(CALL)
    twice = ((name, b"x"), (name, b"y"))
    exchange = await rig.send(request.changed(headers=(*request.headers, *twice)))
    assert (exchange.status, exchange.json["error"]["code"]) == (400, -32020)
    (refused,) = rig.events("call.refused")
    message = f"{name.decode()} appears more than once."
    assert exchange.json["error"]["message"] == message[:MAXIMUM_MESSAGE_LENGTH]
    assert refused.detail == message[:MAXIMUM_DETAIL_LENGTH]


SECRET = "sk-live-0c0ffee0c0ffee"


@pytest.mark.requirement("credential-never-echoed")
@pytest.mark.parametrize(
    ("media_type", "told"),
    [(f"text/{SECRET}", "another type"), ("text/html", "text/html"), ("", "no type")],
)
async def test_media_type_is_written_down_only_if_it_is_a_known_one(
    rig: Rig, media_type: str, told: str
) -> None:
    rig.upstream.will(FakeReply(media_type=media_type, body=(b"",)))
    await rig.post(CALL)
    server = LegacyServer()
    server.on["initialize"] = lambda _: LegacyReply(200, media_type, (b"",))
    behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    of_call, of_handshake = (event.detail for event in rig.events("call.finished"))
    assert of_call == f"status 200, {told}"
    assert of_handshake == f"the reply has {told}"


@pytest.mark.requirement("credential-never-echoed")
@pytest.mark.parametrize(
    ("media_type", "told"), [(f"text/{SECRET}", "another type"), ("text/html", "text/html")]
)
async def test_media_type_of_a_listing_is_told_only_if_it_is_a_known_one(
    rig: Rig, media_type: str, told: str
) -> None:
    rig.upstream.will(FakeReply(media_type=media_type, body=(b"",)))
    found = await look(rig.view.servers[0], "control-token", rig.parts.exchange, rig.upstream)
    assert found.error == f"tools/list was answered with {told}"
