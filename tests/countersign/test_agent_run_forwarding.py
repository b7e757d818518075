"""What passes the loopback endpoint, in both directions."""

import json
from http import HTTPStatus

import pytest

from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.forwarding import (
    RUN_REFUSED,
    Header,
    Turned,
    admitted,
    error_body,
    sent_back,
    sent_on,
)

CRM = Endpoint("crm", "https://gw.example.com/crm/mcp")
BY_PATH = {CRM.path: CRM}
HOST: Header = ("host", "127.0.0.1:4711")


def judged(
    method: str = "POST", target: bytes = b"/crm/mcp", headers: tuple[Header, ...] = (HOST,)
) -> Endpoint | Turned:
    return admitted(method, target, headers, BY_PATH, 4711)


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("host", ["127.0.0.1:4711", "localhost:4711"])
def test_request_for_an_endpoint_of_the_run_is_admitted(method: str, host: str) -> None:
    assert judged(method, headers=(("host", host),)) == CRM


@pytest.mark.requirement("attack-25")
@pytest.mark.parametrize(
    "headers",
    [
        (),
        (HOST, HOST),
        (("host", "127.0.0.1:4712"),),
        (("host", "127.0.0.1"),),
        (("host", "evil.example.com:4711"),),
        (("host", "127.0.0.1.nip.io:4711"),),
        (HOST, ("origin", "http://127.0.0.1:4711")),
        (HOST, ("origin", "null")),
    ],
)
def test_another_host_or_any_page_is_refused(headers: tuple[Header, ...]) -> None:
    refused = judged(headers=headers)
    assert isinstance(refused, Turned)
    assert refused.status is HTTPStatus.FORBIDDEN


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/crm/mcp/",
        b"/crm/mcp?x=1",
        b"/crm%2Fmcp",
        b"//crm/mcp",
        b"/notes/mcp",
        b"/.well-known/oauth-protected-resource/crm/mcp",
        b"/.well-known/oauth-authorization-server",
        b"http://gw.example.com/crm/mcp",
    ],
)
def test_nothing_but_the_endpoints_is_there(target: bytes) -> None:
    refused = judged(target=target)
    assert isinstance(refused, Turned)
    assert refused.status is HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "HEAD", "CONNECT"])
def test_other_methods_are_refused(method: str) -> None:
    refused = judged(method)
    assert isinstance(refused, Turned)
    assert refused.status is HTTPStatus.METHOD_NOT_ALLOWED


def test_what_the_agent_says_of_itself_is_dropped_and_the_rest_is_not() -> None:
    kept: list[Header] = [
        ("accept", "application/json, text/event-stream"),
        ("mcp-session-id", "s"),
        ("mcp-protocol-version", "2026-07-28"),
        ("last-event-id", "7"),
        ("x-one", "1"),
        ("x-one", "2"),
    ]
    dropped: list[Header] = [
        HOST,
        ("authorization", "Bearer x"),
        ("dpop", "x"),
        ("cookie", "x"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("connection", "keep-alive, X-Hop"),
        ("x-hop", "1"),
        ("proxy-authorization", "x"),
        ("upgrade", "h2c"),
        ("expect", "100-continue"),
    ]
    assert sent_on([*dropped, *kept]) == kept


def test_challenges_nonces_cookies_and_page_permissions_do_not_come_back() -> None:
    kept: list[Header] = [
        ("content-type", "text/event-stream"),
        ("content-length", "3"),
        ("content-encoding", "gzip"),
        ("mcp-session-id", "s"),
    ]
    dropped: list[Header] = [
        ("www-authenticate", 'Bearer resource_metadata="x"'),
        ("dpop-nonce", "n"),
        ("set-cookie", "x"),
        ("location", "https://elsewhere.example.com"),
        ("access-control-allow-origin", "*"),
        ("connection", "close"),
        ("date", "x"),
        ("server", "x"),
    ]
    assert sent_back([*dropped, *kept]) == kept


@pytest.mark.parametrize(
    ("request_body", "request_id"),
    [
        (b'{"id": 7}', 7),
        (b'{"id": "a"}', "a"),
        (b'{"id": true}', None),
        (b'{"id": 1.5}', None),
        (b"[]", None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
)
def test_error_answers_the_message_that_was_sent(
    request_body: bytes, request_id: int | str | None
) -> None:
    said = json.loads(error_body(Turned(HTTPStatus.FORBIDDEN, "No.", True), request_body))
    error = {"code": RUN_REFUSED, "message": "No.", "data": {"retryable": True}}
    assert said == {"jsonrpc": "2.0", "id": request_id, "error": error}
