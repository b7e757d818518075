"""What a server may say in its reply: this request's answer and notifications, nothing else."""

import json

import pytest

from audit_log.event import Outcome
from mcp_gateway.server_message import MAXIMUM_COLONS, said_to
from mcp_gateway.upstream.protocol import InputRequiredError, UpstreamInvalidError
from tests.mcp_gateway.legacy_agent import agent_of, call
from tests.mcp_gateway.rig import FakeReply, Rig, tool_call

BEGIN = b'{"jsonrpc":"2.0",'
ASKING = b'"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}'
COMPLETE = b'"result":{"content":[]}'
REQUESTS = [
    pytest.param(b'"id":1,' + ASKING, id="request"),
    pytest.param(b'"id":7,' + ASKING, id="request with an id of its own"),
    pytest.param(b'"id":null,' + ASKING, id="request without a usable id"),
    pytest.param(b'"id":1,' + ASKING + b"," + COMPLETE, id="request that is an answer too"),
    pytest.param(b'"id":1,' + COMPLETE + b"," + ASKING, id="answer that is a request too"),
    pytest.param(b'"id":1,' + ASKING + b',"error":{"code":1,"message":""}', id="error too"),
    pytest.param(b'"m\\u0065thod":"roots/list","id":1,' + COMPLETE, id="spelled otherwise"),
    pytest.param(b'"Method":"roots/list","id":1,' + COMPLETE, id="in another case"),
    pytest.param(b'"method":"roots/list","id":1,"method":"notifications/x"', id="named twice"),
    pytest.param(b'"id":1,"error":{"code":-32042,"code":1,"message":""}', id="error of two codes"),
    pytest.param(b'"id":1,"result":{"ResultType":"input_required"}', id="result of a type"),
]
ANSWERS_TO_NOBODY = [
    pytest.param(b'"id":1', id="neither result nor error"),
    pytest.param(b'"id":1,"error":{"code":1,"message":""},' + COMPLETE, id="both"),
    pytest.param(b'"id":1,"params":{},' + COMPLETE, id="parameters"),
    pytest.param(b'"id":2,' + COMPLETE, id="another id"),
    pytest.param(b'"id":"1",' + COMPLETE, id="an id of another type"),
    pytest.param(b'"id":true,' + COMPLETE, id="no id"),
    pytest.param(COMPLETE, id="without an id"),
    pytest.param(b'"id":2,"error":{"code":1,"message":""}', id="another request's error"),
    pytest.param(b'"id":1,"result":[]', id="a result that is no object"),
    pytest.param(b'"id":1,"error":{"message":""}', id="an error without a code"),
    pytest.param(b'"id":1,"jsonrpc":"1.0",' + COMPLETE, id="another JSON-RPC"),
]


def message(members: bytes) -> bytes:
    return BEGIN + members + b"}"


@pytest.mark.parametrize("members", [*REQUESTS, *ANSWERS_TO_NOBODY])
def test_what_is_neither_our_answer_nor_a_notification_is_refused(members: bytes) -> None:
    with pytest.raises(UpstreamInvalidError):
        said_to(1, message(members))


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        (b'"input_required"', InputRequiredError),
        (b'"complete","resultType":"input_required"', InputRequiredError),
        (b'"input_required","resultType":"complete"', UpstreamInvalidError),
        (b'"task"', UpstreamInvalidError),
        (b"null", UpstreamInvalidError),
        (b"1", UpstreamInvalidError),
    ],
)
def test_result_that_is_not_complete_is_refused(
    kind: bytes, refusal: type[UpstreamInvalidError | InputRequiredError]
) -> None:
    with pytest.raises(refusal):
        said_to(1, message(b'"id":1,"result":{"resultType":' + kind + b"}"))


def test_error_that_makes_a_client_open_an_address_is_refused() -> None:
    data = b'{"elicitations":[{"mode":"url","url":"https://evil.example/"}]}'
    error = b'{"code":-32042,"message":"","data":' + data + b"}"
    with pytest.raises(InputRequiredError):
        said_to(1, message(b'"id":1,"error":' + error))


@pytest.mark.parametrize(
    "members",
    [
        b'"error":{"code":-32042,"code":1,"message":""}',
        b'"error":{"code":1,"message":"","code":1}',
        b'"error":{"code":1,"\\u0063ode":-32043,"message":""}',
        b'"error":{"code":1,"Code":-32042,"message":""}',
        b'"error":{"Code":-32042,"message":""}',
        b'"error":{"code":1,"message":"","data":1,"DATA":{"url":"https://evil.example/"}}',
        b'"result":{"resultType":"complete","ResultType":"input_required"}',
        b'"result":{"ResultType":"input_required"}',
        b'"result":{"re\xc5\xbfultType":"input_required"}',  # what Go's readers fold as well
        b'"result":{"IsError":true}',
        b'"result":{"isError":true,"isError":false}',
        b'"result":{"content":[{"a":":"}],"content":[]}',
        b'"result":{"ab:":1,"ab\\u003a":1}',
        b'"result":{"x":1,"X":1}',
    ],
)
def test_result_or_error_that_two_readers_could_read_in_two_ways_is_refused(members: bytes) -> None:
    with pytest.raises(UpstreamInvalidError):
        said_to(1, message(b'"id":1,' + members))


@pytest.mark.parametrize(
    "members",
    [
        b'"error":{"data":{"code":-32042,"Code":":","code":1},"code":1,"message":"a: b\\u003a"}',
        b'"result":{ "content" : [{"x":":","X":1,"x":2}] , "_meta":{"a:b":1}}',
        b'"result":{"a\\u003a":1,"resultTypes":"","resultType":"complete","\xc3\xa9":"::"}',
    ],
)
def test_values_of_a_result_or_error_may_name_what_they_like(members: bytes) -> None:
    assert members in said_to(1, message(b'"id":1,' + members)).message


@pytest.mark.parametrize("code", [-(2**31), 2**31 - 1])
def test_code_of_an_error_has_the_range_every_reader_has(code: int) -> None:
    def answer(code: object) -> bytes:
        return message(b'"id":1,"error":{"code":%s,"message":""}' % str(code).encode())

    ending = said_to(1, answer(code)).ending
    assert ending is not None
    assert ending.error_code == str(code)
    beyond = code - 1 if code < 0 else code + 1
    for wrong in (beyond, "9" * 4000, f"{code}.5", f'"{code}"', "true", "1e999"):
        with pytest.raises(UpstreamInvalidError):
            said_to(1, answer(wrong))


@pytest.mark.parametrize(
    "members",
    [
        b'"method":"notifications/x","params":{"x":"%s"}',
        b'"id":1,"result":{"content":["%s"]}',
        b'"id":1,"result":{"%s":1}',
        b'"id":1,"error":{"code":1,"message":"","data":"%s"}',
    ],
)
def test_message_is_utf_8_to_its_last_value(members: bytes) -> None:
    good = members % "€😀".encode()
    assert good.rpartition(b'"id":1,')[2] in said_to(1, message(good)).message
    for bad in (b"\xed\xa0\x80", b"\xff", b"\xc0\xaf", b"\xe2\x82"):
        with pytest.raises(UpstreamInvalidError):
            said_to(1, message(members % bad))


def test_members_of_a_result_are_as_few_as_can_be_compared_and_what_a_tool_says_is_not() -> None:
    def result(count: int) -> bytes:
        return b"{" + b",".join(b'"%x":1' % number for number in range(count)) + b"}"

    many = result(10 * MAXIMUM_COLONS)
    said = b'{"content":[' + many + b'],"structuredContent":' + many + b"}"
    assert said in said_to(1, message(b'"id":1,"result":' + said)).message
    assert said_to(1, message(b'"id":1,"result":' + result(MAXIMUM_COLONS))).ending
    with pytest.raises(UpstreamInvalidError, match="too many members"):
        said_to(1, message(b'"id":1,"result":' + result(MAXIMUM_COLONS + 1)))


@pytest.mark.parametrize(
    ("members", "ending"),
    [
        (COMPLETE, (Outcome.SUCCEEDED, None)),
        (b'"result":{"resultType":"complete"}', (Outcome.SUCCEEDED, None)),
        (b'"result":{"isError": true }', (Outcome.FAILED, "tool_error")),
        (b'"error":{"code":-32602,"message":"","data":1.0}', (Outcome.FAILED, "-32602")),
    ],
)
@pytest.mark.parametrize("own_id", [1, "1", "é"])
def test_answer_keeps_its_bytes_in_an_envelope_of_ours(
    members: bytes, ending: tuple[Outcome, str | None], own_id: int | str
) -> None:
    encoded = json.dumps(own_id, ensure_ascii=False).encode()
    said = said_to(own_id, b" { " + members + b', "id": ' + encoded + b' , "jsonrpc":"2.0"}\n')
    assert said.message == message(b'"id":' + encoded + b"," + members)
    assert said.ending is not None
    assert (said.ending.outcome, said.ending.error_code) == ending


def test_of_two_members_with_one_name_only_the_judged_one_is_left() -> None:
    tool_error = b'"result":{"isError":true}'
    said = said_to(1, message(b'"id":2,"id":1,' + tool_error + b"," + COMPLETE))
    assert said.message == message(b'"id":1,' + COMPLETE)
    assert said.ending is not None
    assert said.ending.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("own_id", [b"", b'"id":null,'])
def test_error_of_a_server_that_could_not_read_the_id_is_this_request_s(own_id: bytes) -> None:
    error = b'"error":{"code":-32700,"message":""}'
    said = said_to("x", message(own_id + error), 400)
    assert said.message == message(b'"id":"x",' + error)


def test_result_with_an_error_s_status_is_refused() -> None:
    with pytest.raises(UpstreamInvalidError):
        said_to(1, message(b'"id":1,' + COMPLETE), 404)


@pytest.mark.parametrize("rest", [b"", b',"params":{"progress":0.10 , "total":1e2}'])
def test_notification_passes_with_its_parameters_as_they_are(rest: bytes) -> None:
    note = b'{"jsonrpc":"2.0","method":"notifications/progress"' + rest + b"}"
    assert said_to(1, note).message == note
    assert said_to(1, note).ending is None


# Through the gateway, to agents of both eras


@pytest.mark.anyio
@pytest.mark.parametrize("members", REQUESTS)
@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream"])
async def test_request_of_a_server_reaches_no_agent(
    rig: Rig, members: bytes, media_type: str
) -> None:
    body = message(members) if media_type == "application/json" else _event(message(members))
    legacy = await agent_of(rig)
    rig.upstream.will(FakeReply(media_type=media_type, body=(body,)))
    for exchange in (
        await rig.post(tool_call("get_account", {"id": 1})),
        await legacy.post(call("get_account", {"id": 1})),
    ):
        error = json.loads(exchange.body.rpartition(b"data: ")[2])["error"]
        assert error["code"] == -32004
        assert b"sampling" not in exchange.body
        assert b"roots/list" not in exchange.body
    finished = rig.events("call.finished")
    assert len(finished) == 2
    assert {event.outcome for event in finished} == {Outcome.FAILED}
    assert {event.error_code for event in finished} == {"upstream_reply_invalid"}


@pytest.mark.anyio
@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream"])
async def test_server_that_asks_for_input_is_an_error_a_modern_agent_can_read(
    rig: Rig, media_type: str
) -> None:
    body = message(b'"id":1,"result":{"resultType":"input_required","inputRequests":{}}')
    body = body if media_type == "application/json" else _event(body)
    rig.upstream.will(FakeReply(media_type=media_type, body=(body,)))
    exchange = await rig.post(tool_call("get_account", {"id": 1}))
    error = json.loads(exchange.body.rpartition(b"data: ")[2])["error"]
    assert (error["code"], "asks for input" in error["message"]) == (-32004, True)
    assert b"inputRequests" not in exchange.body
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.FAILED, "input_required")


@pytest.mark.anyio
async def test_request_hidden_by_line_ends_cut_apart_reaches_no_agent(rig: Rig) -> None:
    """A CR, a LF and a LF in chunks of their own are two line ends."""
    begun = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"data":'
    body = (begun + b"\r", b"\n", b"\n", b"data: " + message(b'"id":7,' + ASKING) + b"\r")
    final = message(b'"id":1,' + COMPLETE)
    rest = (b"\n", b"\n", b"data: }}\n\n", _event(final))
    rig.upstream.will(FakeReply(media_type="text/event-stream", body=(*body, *rest)))
    exchange = await rig.post(tool_call("get_account", {"id": 1}))
    assert b"sampling" not in exchange.body
    assert rig.events("call.finished")[-1].outcome is Outcome.FAILED


def _event(text: bytes) -> bytes:
    return b"data: " + text + b"\n\n"
