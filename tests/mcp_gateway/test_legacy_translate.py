"""A modern reply in legacy form: what the era does not have goes, everything else stays."""

import asyncio
import json

import pytest

from audit_log.event import Outcome
from mcp_gateway.eras.translate import legacy_answer, legacy_form
from mcp_gateway.upstream.protocol import UpstreamInvalidError
from mcp_gateway.upstream.server_sent_events import KEEP_ALIVE
from tests.mcp_gateway.legacy_agent import agent_of, call, request
from tests.mcp_gateway.rig import TARGET_TOKEN, FakeReply, Rig

pytestmark = pytest.mark.anyio

# Numbers, escapes and white space that a decoder would write anew.
ODD = b'{"n": 12345678901234567890123, "f": 1.10, "e":1E+2, "t": "\\u00e9\\/", "o":{ "b":1,"a":2 }}'
ACCOUNT = call("get_account", {"id": 1})


def reply(result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"


@pytest.mark.requirement("trap-number-rewritten")
@pytest.mark.requirement("trap-reply-rewritten")
def test_values_keep_their_own_bytes_in_their_order() -> None:
    content = b'[{"type":"text","text":"resultType", "_meta": {"x": 1.0}}]'
    modern = reply(
        b'{"content":' + content + b',"resultType":"complete", "structuredContent": ' + ODD
        + b',"ttlMs":5,"cacheScope":"private","isError":false,"_meta":{"own":1.50,'
        b'"io.modelcontextprotocol/serverInfo":{"name":"crm"}}}'
    )  # fmt: skip
    assert legacy_form(modern) == reply(
        b'{"content":' + content + b',"structuredContent":' + ODD
        + b',"isError":false,"_meta":{"own":1.50}}'
    )  # fmt: skip


@pytest.mark.requirement("trap-reply-rewritten")
@pytest.mark.parametrize(
    "message",
    [
        reply(b'{ "content" : [] , "n":1.0}'),
        reply(b'{"_meta":{"a":1 }, "content":[]}'),
        reply(b"[1, 2]")[:-1].replace(b"[1, 2]", b"{}") + b" }",
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":0.10}}',
        b'{"jsonrpc":"2.0", "id":1,"error":{"code":-32602,"message":"x","data":{"n":1.0}}}',
    ],
)
def test_message_that_has_nothing_modern_passes_byte_for_byte(message: bytes) -> None:
    assert legacy_form(message) is message


def test_member_whose_name_is_spelled_with_escapes_goes_too() -> None:
    modern = reply(b'{"result\\u0054ype":"complete","content":[]}')
    assert legacy_form(modern) == reply(b'{"content":[]}')


def test_meta_that_was_only_modern_goes_whole() -> None:
    modern = reply(b'{"content":[],"_meta":{"io.modelcontextprotocol/serverInfo":{}}}')
    assert legacy_form(modern) == reply(b'{"content":[]}')


@pytest.mark.parametrize("code", [-32020, -32021, -32022])
def test_modern_error_code_becomes_an_internal_error(code: int) -> None:
    modern = b'{"jsonrpc":"2.0","id":1,"error":{"code":%d,"message":"m","data":{"n":1.0}}}' % code
    assert legacy_form(modern) == modern.replace(b"%d" % code, b"-32603")


@pytest.mark.parametrize("message", [b"", b"[]", b"{", b'{"result":1}', b'{"error":[]}', b"\xff"])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(UpstreamInvalidError):
        legacy_form(message)


@pytest.mark.parametrize(
    ("message", "answers"),
    [
        (b'{"id":1,"error":{}}', True),
        (b'{"id":"","error":{}}', True),
        (b'{"id":null,"error":{}}', False),
        (b'{"error":{}}', False),
        (b'{"id":1,"result":{}}', False),
    ],
)
def test_error_that_answers_a_request_has_an_id(message: bytes, answers: bool) -> None:
    assert legacy_answer(message) == (message, answers)


# Through the gateway


@pytest.mark.requirement("trap-reply-rewritten")
async def test_list_is_the_approved_definitions_and_nothing_modern(rig: Rig) -> None:
    agent = await agent_of(rig)
    result = (await agent.ask("tools/list")).json["result"]
    assert result.keys() == {"tools"}
    modern = (await rig.post({**request("tools/list"), "params": _modern()})).json["result"]
    assert result["tools"] == modern["tools"]


def _modern() -> dict[str, object]:
    return {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    }


async def test_cursor_that_is_not_ours_is_an_error_with_status_200(rig: Rig) -> None:
    agent = await agent_of(rig)
    exchange = await agent.ask("tools/list", {"cursor": "%"})
    assert (exchange.status, exchange.json["error"]["code"]) == (200, -32602)


@pytest.mark.requirement("trap-reply-rewritten")
@pytest.mark.parametrize("parts", [1, 7, 400])
async def test_json_stays_json_whole_or_long(rig: Rig, parts: int) -> None:
    text = b'"' + b"x" * 1000 * parts + b'"'
    result = b'{"resultType":"complete","structuredContent":' + ODD + b',"content":[' + text + b"]}"
    body = reply(result)
    size = len(body) // parts + 1
    pieces = tuple(body[start : start + size] for start in range(0, len(body), size))
    rig.upstream.will(FakeReply(body=pieces))
    exchange = await (await agent_of(rig)).post(ACCOUNT)
    assert exchange.body == reply(result.replace(b'"resultType":"complete",', b""))
    assert exchange.header("content-type") == ["application/json"]
    assert exchange.header("content-length") == [str(len(exchange.body))]
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED


@pytest.mark.requirement("trap-notifications-lost")
async def test_events_arrive_one_by_one_and_only_the_answer_changes(rig: Rig) -> None:
    said = b'data: {"jsonrpc":"2.0","method":"notifications/x","params":{"n":1.0}}'
    note = b"event: message\r\n" + said + b"\r\n\r\n"
    more = asyncio.Event()
    final = b'{"resultType":"complete",\ndata: "content":[1,\ndata: 2]}'
    final = b"id: 9\ndata: " + reply(final) + b"\n\n"
    rig.upstream.will(
        FakeReply(
            media_type="text/event-stream",
            body=(b": ping\n\n", b"id: 8\nretry: 1\n" + note[:20], note[20:], more, final),
        )
    )
    agent = await agent_of(rig)
    exchange, task = agent.start(ACCOUNT)
    # Without an id no client tries to resume what cannot be resumed.
    begun = KEEP_ALIVE + b"event: message\n" + said + b"\n\n"
    await exchange.until(lambda: exchange.body == begun)
    more.set()
    await task
    answer = reply(b'{"content":[1,\ndata: 2]}')
    assert exchange.body == begun + b"event: message\ndata: " + answer + b"\n\n"
    assert exchange.is_finished


@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream"])
async def test_server_that_asks_for_input_is_an_error_the_agent_can_read(
    rig: Rig, media_type: str
) -> None:
    body = reply(b'{"resultType":"input_required","inputRequests":{}}')
    if media_type != "application/json":
        body = b"data: " + body + b"\n\n"
    rig.upstream.will(FakeReply(media_type=media_type, body=(body,)))
    exchange = await (await agent_of(rig)).post(ACCOUNT)
    assert exchange.status == 200
    error = json.loads(exchange.body.rpartition(b"data: ")[2])["error"]
    assert error["code"] == -32004
    assert "asks for input" in error["message"]
    assert b"inputRequests" not in exchange.body
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.FAILED, "input_required")


@pytest.mark.parametrize("status", [200, 400, 404])
async def test_error_of_the_server_arrives_with_status_200(rig: Rig, status: int) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}'
    rig.upstream.will(FakeReply(status=status, body=(body,)))
    agent = await agent_of(rig)
    exchange = await agent.post(ACCOUNT)
    assert (exchange.status, exchange.body) == (200, body)
    assert rig.events("call.finished")[-1].status == 200
    assert (await agent.ask("ping")).status == 200


async def test_denial_is_a_result_the_model_can_read(rig: Rig) -> None:
    exchange = await (await agent_of(rig)).call("refund", {"amount": 900})
    result = exchange.json["result"]
    assert result.keys() == {"content", "isError", "_meta"}
    assert result["content"][0]["text"] == "Agents may not refund more than 500."
    assert result["_meta"]["category"] == "not_permitted"


@pytest.mark.requirement("trap-challenge-missing")
async def test_challenges_keep_status_and_header(rig: Rig) -> None:
    claims = rig.claims()
    details = (claims.authorization_details or ())[0]
    narrow = type(details)(type="mcp_tool", server="crm", tools=("refund",), actions=("call",))
    agent = await agent_of(rig, authorization_details=(narrow,))
    exchange = await agent.post(ACCOUNT)
    assert exchange.status == 403
    assert "insufficient_scope" in exchange.header("www-authenticate")[0]


async def test_reply_with_the_credential_is_withheld_also_when_it_hides_in_a_removed_member(
    rig: Rig,
) -> None:
    agent = await agent_of(rig)
    for result in (
        b'{"content":["' + TARGET_TOKEN.encode() + b'"]}',
        b'{"resultType":"' + TARGET_TOKEN.encode() + b'"}',
    ):
        rig.upstream.will(FakeReply(body=(reply(result),)))
        exchange = await agent.post(ACCOUNT)
        assert exchange.json["error"]["code"] == -32007
        assert TARGET_TOKEN.encode() not in exchange.body
