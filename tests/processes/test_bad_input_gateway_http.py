"""Whatever HTTP brings: the right status, nothing hung, and the gateway goes on serving.

Bytes on raw sockets against the real process, with a really accepted token, so that nothing but
what is wrong in the case is wrong. `test_bad_input_gateway` is about the messages inside.
"""

import concurrent.futures
import json
import socket
import time
from collections.abc import Callable
from typing import Final

import pytest

from compose.demo.stack import Stack
from tests.gateway_requests import (
    CHUNKED,
    TARGET,
    Headers,
    body_of,
    changed,
    headers_for,
    is_served,
    refused,
    send,
)
from tests.slow_clients import drip
from tests.stack import TestAgent, tool_call
from tests.wire import chunked, request_bytes
from tests.witness import Witness

pytestmark = [
    pytest.mark.processes,
    pytest.mark.usefixtures("goes_on_serving", "same_processes"),
]

HTTP_REFUSED: Final = -32009
MAXIMUM_BODY: Final = 1024 * 1024


# --- the form of the request -----------------------------------------------------------------

FORMS: Final[dict[str, tuple[dict[str, str | list[str] | None], int]]] = {
    "no content type": ({"content_type": None}, 415),
    "a form": ({"content_type": "application/x-www-form-urlencoded"}, 415),
    "a text": ({"content_type": "text/plain"}, 415),
    "json by another name": ({"content_type": "text/json"}, 415),
    "latin-1": ({"content_type": "application/json; charset=iso-8859-1"}, 415),
    "utf-16": ({"content_type": "application/json; charset=utf-16"}, 415),
    "two content types": ({"content_type": ["application/json", "text/plain"]}, 415),
    "gzip": ({"content_encoding": "gzip"}, 415),
    "accepts no stream": ({"accept": "application/json"}, 406),
    "accepts html": ({"accept": "text/html"}, 406),
    "a wrong host": ({"host": "evil.example"}, 403),
    "the right host on another port": ({"host": "127.0.0.1:1"}, 403),
    "a host that begins like ours": ({"host": "127.0.0.1.evil.example"}, 403),
    "an empty host": ({"host": ""}, 403),
    "a wrong origin": ({"origin": "https://evil.example"}, 403),
    "the origin null": ({"origin": "null"}, 403),
    "two origins": ({"origin": ["https://a.example", "https://b.example"]}, 403),
    "no token": ({"authorization": None, "dpop": None}, 401),
    "an empty token": ({"authorization": ""}, 401),
    "a scheme alone": ({"authorization": "DPoP"}, 400),
    "another scheme": ({"authorization": "Basic YTpi"}, 401),
    "an empty proof": ({"dpop": ""}, 401),
    "no proof": ({"dpop": None}, 401),
    "a proof that is none": ({"dpop": "a.b.c"}, 401),
    "an endless proof": ({"dpop": "a" * 20_000}, 401),
    "an endless token": ({"authorization": "DPoP " + "a" * 40_000}, 400),
}


@pytest.mark.parametrize("what", FORMS)
def test_request_whose_headers_are_wrong_is_refused(agent: TestAgent, what: str) -> None:
    changes, status = FORMS[what]
    headers = changed(headers_for(agent), **changes)
    answer = send(agent, request_bytes(TARGET, headers, body_of()))
    refused(agent, answer, status)
    assert ("www-authenticate" in answer.headers) == (status in {400, 401})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"content_type": "application/json; charset=utf-8"}, id="utf-8 said"),
        pytest.param({"content_type": "Application/JSON"}, id="other case"),
        pytest.param({"accept": "*/*"}, id="accepts all"),
        pytest.param({"cookie": "a=b", "x-forwarded-host": "evil.example"}, id="forwarded"),
    ],
)
def test_request_twin_whose_headers_are_unusual_but_right_is_served(
    agent: TestAgent, changes: dict[str, str]
) -> None:
    headers = changed(headers_for(agent), **changes)
    assert send(agent, request_bytes(TARGET, headers, body_of())).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_http_method_we_do_not_serve_is_405_and_says_which(agent: TestAgent, method: str) -> None:
    data = request_bytes(TARGET, headers_for(agent), b"", method=method)
    answer = send(agent, data, method=method)
    refused(agent, answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/crm",
        "/crm/mcp/",
        "/crm//mcp",
        "/%63rm/mcp",
        "/crm/mcp;x",
        "/x/../crm/mcp",
        "/CRM/mcp",
    ],
)
def test_path_that_is_not_an_endpoint_byte_for_byte_is_not_found(
    agent: TestAgent, target: str
) -> None:
    refused(agent, send(agent, request_bytes(target, headers_for(agent), body_of())), 404)


# --- HTTP itself -----------------------------------------------------------------------------


def raw(first: str, headers: Headers, rest: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{first}\r\n{lines}\r\n".encode("latin-1") + rest


def first_line(text: str) -> Callable[[TestAgent], bytes]:
    def build(agent: TestAgent) -> bytes:
        length = [("content-length", str(len(body_of())))]
        return raw(text, headers_for(agent) + length, body_of())

    return build


def extra(*lines: tuple[str, str], body: bytes | None = None) -> Callable[[TestAgent], bytes]:
    """A request with these headers instead of a Content-Length."""

    def build(agent: TestAgent) -> bytes:
        rest = body_of() if body is None else body
        return raw(f"POST {TARGET} HTTP/1.1", headers_for(agent) + list(lines), rest)

    return build


LENGTH: Final = ("content-length", str(len(body_of())))

MESSAGES: Final[dict[str, Callable[[TestAgent], bytes]]] = {
    "HTTP/0.9": lambda _agent: b"GET /crm/mcp\r\n\r\n",
    "HTTP/1.2": first_line(f"POST {TARGET} HTTP/1.2"),
    "HTTP/2.0": first_line(f"POST {TARGET} HTTP/2.0"),
    "HTTP/1.10": first_line(f"POST {TARGET} HTTP/1.10"),
    "HTTP/9": first_line(f"POST {TARGET} HTTP/9"),
    "lower-case http": first_line(f"POST {TARGET} http/1.1"),
    "the HTTP/2 preface": lambda _agent: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": lambda _agent: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "an unknown method": first_line(f"BURN {TARGET} HTTP/1.1"),
    "a method in lower case": first_line(f"post {TARGET} HTTP/1.1"),
    "no target": first_line("POST HTTP/1.1"),
    "spaces in the target": first_line("POST /crm/mcp x HTTP/1.1"),
    "NUL in the target": first_line("POST /crm/mcp\x00 HTTP/1.1"),
    "CL and TE": extra(LENGTH, CHUNKED, body=chunked(body_of())),
    "TE and CL": extra(CHUNKED, LENGTH, body=chunked(body_of())),
    "two lengths": extra(LENGTH, ("content-length", "5")),
    "a list of lengths": extra(("content-length", f"{LENGTH[1]}, {LENGTH[1]}")),
    "a negative length": extra(("content-length", "-1")),
    "a length with a sign": extra(("content-length", f"+{LENGTH[1]}")),
    "a length in hexadecimal": extra(("content-length", "0x10")),
    "a length beyond 64 bits": extra(("content-length", "9" * 30)),
    "an unknown transfer coding": extra(("transfer-encoding", "xchunked")),
    "chunked, then another coding": extra(("transfer-encoding", "chunked, gzip")),
    "a chunk size that is none": extra(CHUNKED, body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk size beyond 64 bits": extra(CHUNKED, body=b"f" * 20 + b"\r\n{}\r\n0\r\n\r\n"),
    "a chunk longer than it says": extra(CHUNKED, body=b"1\r\n{}\r\n0\r\n\r\n"),
    "NUL in a header": extra(LENGTH, ("x-a", "b\x00c")),
    "a control character in a header": extra(LENGTH, ("x-a", "b\x01c")),
    "a space before the colon": extra(LENGTH, ("x-a ", "b")),
    "a folded header": extra(LENGTH, ("x-a", "b\r\n c")),
    "a header without a name": extra(LENGTH, ("", "b")),
    "two hosts": extra(LENGTH, ("host", "evil.example")),
}


@pytest.mark.parametrize("what", MESSAGES)
def test_message_that_is_not_plain_http_is_refused_or_cut(agent: TestAgent, what: str) -> None:
    answer = send(agent, MESSAGES[what](agent), half_close=True)
    refused(agent, answer, (0, 400, 403, 405, 411, 413))
    assert b"Ada" not in answer.body


@pytest.mark.parametrize("missing", ["host"])
def test_message_without_a_host_is_refused(agent: TestAgent, missing: str) -> None:
    headers = changed(headers_for(agent), **{missing: None})
    refused(agent, send(agent, request_bytes(TARGET, headers, body_of())), (400, 403))


def test_message_in_chunks_is_served_and_its_trailers_are_nothing(agent: TestAgent) -> None:
    trailers = {"mcp-name": "refund", "authorization": "Bearer x", "x-a": "b"}
    headers = [*headers_for(agent), CHUNKED]
    data = request_bytes(TARGET, headers, chunked(body_of(), trailers=trailers), length=False)
    answer = send(agent, data)
    assert answer.status == 200, answer
    assert b"Ada Lovelace" in answer.body


def test_message_with_an_absolute_target_counts_for_the_host_in_it(agent: TestAgent) -> None:
    ours = f"http://127.0.0.1:{agent.stack.ports.gateway}{TARGET}"
    assert send(agent, request_bytes(ours, headers_for(agent), body_of())).status == 200
    for target in (
        f"http://evil.example{TARGET}",
        ours.replace("http:", "https:"),
        ours.replace("127.0.0.1", "user@127.0.0.1"),
    ):
        answer = send(agent, request_bytes(target, headers_for(agent), body_of()))
        refused(agent, answer, (400, 403))


def test_message_after_message_on_one_connection_is_answered_in_order(agent: TestAgent) -> None:
    one = changed(headers_for(agent), connection="keep-alive")
    two = headers_for(agent)
    data = request_bytes(TARGET, one, body_of(id=1)) + request_bytes(TARGET, two, body_of(id=2))
    with socket.create_connection(("127.0.0.1", agent.stack.ports.gateway), 10) as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200") == 2
    assert received.index(b'"id":1,') < received.index(b'"id":2,')


def test_expectation_of_100_continue_is_met(agent: TestAgent) -> None:
    headers = [*headers_for(agent), ("expect", "100-continue")]
    assert send(agent, request_bytes(TARGET, headers, body_of())).status == 200


# --- sizes -----------------------------------------------------------------------------------


def test_body_that_says_it_is_too_large_is_refused_unread(agent: TestAgent) -> None:
    headers = [*headers_for(agent), ("content-length", str(MAXIMUM_BODY + 1))]
    answer = send(agent, request_bytes(TARGET, headers, b"{", length=False))
    refused(agent, answer, 413, HTTP_REFUSED)
    assert answer.seconds < 5


def test_body_in_chunks_that_grows_too_large_is_refused(agent: TestAgent) -> None:
    headers = [*headers_for(agent), CHUNKED]
    data = chunked(b" " * (MAXIMUM_BODY + 70_000), size=65_536)
    refused(agent, send(agent, request_bytes(TARGET, headers, data, length=False)), (0, 413))


def test_body_twin_of_almost_the_limit_is_served(agent: TestAgent) -> None:
    body = b" " * (MAXIMUM_BODY - 1000) + body_of()
    answer = send(agent, request_bytes(TARGET, headers_for(agent), body))
    assert answer.status == 200, answer


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([("x-long", "a" * 200_000)], id="one long header"),
        pytest.param([(f"x-{number}", "a") for number in range(10_000)], id="10000 headers"),
        pytest.param([("x-same", "a")] * 10_000, id="one header 10000 times"),
    ],
)
def test_head_that_is_too_large_is_refused(agent: TestAgent, lines: Headers) -> None:
    answer = send(agent, request_bytes(TARGET, headers_for(agent) + lines, body_of()))
    refused(agent, answer, (0, 400, 431))


def test_head_with_an_endless_line_is_cut(agent: TestAgent) -> None:
    answer = send(agent, b"POST /" + b"a" * 300_000)
    refused(agent, answer, (0, 400, 431))
    assert answer.seconds < 5


@pytest.mark.parametrize("count", [10_000])
def test_query_of_many_parameters_is_not_an_endpoint_of_another_meaning(
    agent: TestAgent, count: int
) -> None:
    target = TARGET + "?" + "&".join(f"a{number}=1" for number in range(count))
    refused(agent, send(agent, request_bytes(target, headers_for(agent), body_of())), (0, 400, 431))


# --- slow and vanishing clients ------------------------------------------------------------------


def test_slow_clients_are_cut_in_time_and_hold_up_nobody(agent: TestAgent) -> None:
    port = agent.stack.ports.gateway
    whole = request_bytes(TARGET, headers_for(agent), body_of())
    head = request_bytes(
        TARGET, [*headers_for(agent), ("content-length", "1000")], b"", length=False
    )
    openings = {
        "nothing": (b"", b""),
        "a slow head": (whole[:30], b"a"),
        "slow header lines": (b"POST /crm/mcp HTTP/1.1\r\n", b"x-a: b\r\n"),
        "a slow body": (head, b" "),
        "a slow chunk": (
            request_bytes(TARGET, [*headers_for(agent), CHUNKED], b"1\r\n", length=False),
            b"",
        ),
    }
    with concurrent.futures.ThreadPoolExecutor(25) as clients:
        slow = {
            clients.submit(drip, port, first, piece, 15): what
            for what, (first, piece) in openings.items()
            for _ in range(5 if what in {"nothing", "slow header lines"} else 1)
        }
        for _ in range(5):
            started = time.monotonic()
            assert is_served(agent)
            assert time.monotonic() - started < 5
            time.sleep(1)
        for future, what in slow.items():
            received, seconds = future.result()
            assert seconds < 14, what
            if "body" in what or "chunk" in what:
                assert received.startswith(b"HTTP/1.1 408 "), (what, received[:100])


def test_client_that_leaves_in_the_middle_of_its_request_is_forgotten(agent: TestAgent) -> None:
    whole = request_bytes(TARGET, headers_for(agent), body_of())
    for cut in (1, 20, len(whole) // 2, len(whole) - 1):
        with socket.create_connection(("127.0.0.1", agent.stack.ports.gateway), 5) as connection:
            connection.sendall(whole[:cut])
    unfinished = request_bytes(TARGET, headers_for(agent), body_of())[:-1]
    refused(agent, send(agent, unfinished, half_close=True), (0, 400))


def test_client_that_leaves_a_stream_cancels_the_call(stack: Stack, agent: TestAgent) -> None:
    witness = Witness(stack)
    name = "watch_account"
    for number in range(10):
        call = tool_call(name, {"id": 17, "seconds": 30})
        call["params"]["_meta"]["progressToken"] = number
        data = request_bytes(TARGET, headers_for(agent, name=name), json.dumps(call).encode())
        with socket.create_connection(("127.0.0.1", stack.ports.gateway), 10) as connection:
            connection.sendall(data)
            received = b""
            while b"notifications/progress" not in received:
                received += connection.recv(65536)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ended = [event for event in witness.news() if event["type"] == "call.finished"]
        outcomes = [event["outcome"] for event in ended if event.get("tool") == name]
        if len(outcomes) == 10:
            break
    assert outcomes == ["cancelled"] * 10


def test_unreachable_server_at_run_time_is_a_clear_error_and_is_used_again_when_back(
    stack: Stack, agent: TestAgent
) -> None:
    """The upstream dies and comes back; the gateway says so, and loses nothing."""
    crm = next(process for process in stack.processes if process.name == "crm")
    crm.popen.kill()
    crm.popen.wait()
    witness = Witness(stack)
    answer = agent.call("crm", "get_account", {"id": 17})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == -32004
    assert answer.json()["error"]["data"]["retryable"]
    witness.event("call.finished", outcome="failed")
    stack.start_crm()
    deadline = time.monotonic() + 5
    while not is_served(agent):
        assert time.monotonic() < deadline


def test_answers_that_are_no_calls_are_right_on_both_well_known_paths(stack: Stack) -> None:
    root = stack.http.get(f"{stack.base_url}/.well-known/oauth-protected-resource")
    own = stack.http.get(f"{stack.base_url}/.well-known/oauth-protected-resource/crm/mcp")
    other = stack.http.post(f"{stack.base_url}/.well-known/oauth-protected-resource/crm/mcp")
    assert (root.status_code, own.status_code, other.status_code) == (404, 200, 405)
    assert own.json()["resource"] == stack.endpoint("crm")
