"""Whatever is sent to the authorization server: the RFC's error, nothing hung, and it goes on.

Bytes on raw sockets against the real process. `test_bad_input_fuzz` sends what nobody thought of.
"""

import concurrent.futures
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, urlencode

import pytest

from compose.demo.stack import Stack
from tests.gateways import TestGateway
from tests.slow_clients import drip
from tests.stack import CALLBACK, TestAgent, audit_events
from tests.wire import Answer, assert_says_nothing, chunked, request_bytes, say
from token_exchange.token_types import CLIENT_ASSERTION_JWT_BEARER, GRANT_CLIENT_CREDENTIALS

pytestmark = pytest.mark.processes

FORM: Final = "application/x-www-form-urlencoded"
MAXIMUM_FORM: Final = 200_000
Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> TestGateway:
    return TestGateway.running(stack)


@pytest.fixture(autouse=True)
def goes_on_serving(gateway: TestGateway) -> Iterator[None]:
    """After each case: the next good request is served."""
    yield
    assert gateway.control_token()


@pytest.fixture(scope="module", autouse=True)
def same_processes(stack: Stack) -> Iterator[None]:
    """After all of them: the processes that were started are the ones that run."""
    yield
    started = [event["source"] for event in audit_events(stack, type="source.started")]
    assert len(started) == 2, started


def good_form(gateway: TestGateway) -> dict[str, str]:
    """A token request that is granted: the gateway's own control token."""
    return {
        "grant_type": GRANT_CLIENT_CREDENTIALS,
        "resource": f"{gateway.stack.issuer}/control/v1",
        "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
        "client_assertion": gateway.assertion(),
    }


def head(gateway: TestGateway, *, proof: bool = True) -> Headers:
    stack = gateway.stack
    lines = [("host", f"127.0.0.1:{stack.ports.issuer}"), ("connection", "close")]
    if proof:
        url = f"{stack.issuer}/oauth/token"
        now = int(time.time())  # noqa: TID251 - real processes have real time
        lines.append(("dpop", gateway.key.dpop_proof(method="POST", uri=url, now=now)))
    return lines


def post(
    gateway: TestGateway,
    body: bytes | None = None,
    *,
    kind: str | None = FORM,
    target: str = "/oauth/token",
    more: Headers = [],  # noqa: B006 - never changed
    proof: bool = True,
) -> Answer:
    """A POST to the token endpoint; the good form unless told otherwise."""
    if body is None:
        body = urlencode(good_form(gateway)).encode()
    lines = head(gateway, proof=proof) + more
    if kind is not None:
        lines.append(("content-type", kind))
    return say(gateway.stack.ports.issuer, request_bytes(target, lines, body))


def refused(answer: Answer, status: int | tuple[int, ...], code: str | None = None) -> None:
    """The expected error of RFC 6749 §5.2, and nothing else."""
    assert answer.status in ((status,) if isinstance(status, int) else status), answer
    if code is not None:
        assert answer.error == code, answer
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
    assert_says_nothing(answer)


def test_form_twin_that_is_right_is_granted(gateway: TestGateway) -> None:
    assert post(gateway).status == 200
    assert post(gateway, kind=f'{FORM}; charset="UTF-8"').status == 200


# --- the form at the token endpoint ------------------------------------------------------------

KINDS: Final = [
    None,
    "",
    "application/json",
    "text/plain",
    "multipart/form-data; boundary=x",
    f"{FORM}; charset=iso-8859-1",
    f"{FORM}; charset=utf-16",
    f"{FORM}, application/json",
]


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize("kind", KINDS)
def test_form_of_another_content_type_is_an_invalid_request(
    gateway: TestGateway, kind: str | None
) -> None:
    refused(post(gateway, kind=kind), 400, "invalid_request")


# What the form of a good request becomes. `G` stands for the good form.
FORMS: Final[dict[str, tuple[str, str]]] = {
    "empty": ("", "invalid_request"),
    "json": ('{"grant_type":"client_credentials"}', "invalid_request"),
    "a NUL, escaped": ("G&scope=a%00b", "invalid_request"),
    "a NUL in a name": ("G&a%00b=c", "invalid_request"),
    "a NUL, raw": ("G&scope=a\x00b", "invalid_request"),
    "a line break": ("G&scope=a%0d%0ab", "invalid_request"),
    "bytes that are not utf-8": ("G&scope=%ff%fe", "invalid_request"),
    "a lone surrogate": ("G&scope=%ed%a0%80", "invalid_request"),
    "an overlong encoding": ("G&scope=%c0%af", "invalid_request"),
    "raw bytes": ("G&scope=\xff\xfe", "invalid_request"),
    "10000 parameters": ("G&" + "&".join(f"a{n}=1" for n in range(10_000)), "invalid_request"),
    "65 parameters": ("G&" + "&".join(f"a{n}=1" for n in range(65)), "invalid_request"),
    "grant_type twice": ("G&grant_type=client_credentials", "invalid_request"),
    "grant_type in two spellings": ("G&grant%5ftype=client_credentials", "invalid_request"),
    "client_assertion twice": ("G&client_assertion=x", "invalid_request"),
    "an unknown parameter twice": ("G&x=1&x=2", "invalid_request"),
    "nine resources": ("G" + "&resource=https%3A%2F%2Fa.example" * 9, "invalid_target"),
    "two resources": ("G&resource=https%3A%2F%2Fa.example", "invalid_target"),
    "the resource by another name": ("G&audience=https%3A%2F%2Fa.example", "invalid_target"),
    "no grant_type": ("client_id=x", "invalid_request"),
    "an empty grant_type": ("grant_type=&client_id=x", "invalid_request"),
    "an unknown grant_type": ("grant_type=password&client_id=x", "unsupported_grant_type"),
    "no client": ("grant_type=client_credentials", "invalid_client"),
    "a secret instead": (
        "grant_type=client_credentials&client_id=support-bot&client_secret=x",
        "invalid_client",
    ),
    "two authentications": ("G&client_secret=x", "invalid_request"),
}


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize("what", FORMS)
def test_form_that_is_wrong_is_refused_with_the_code_of_the_rfc(
    gateway: TestGateway, what: str
) -> None:
    text, code = FORMS[what]
    good = urlencode(good_form(gateway))
    body = text.replace("G", good, 1) if text.startswith("G") else text
    answer = post(gateway, body.encode("latin-1"))
    refused(answer, 401 if code == "invalid_client" else 400, code)


@pytest.mark.requirement("attack-19")
def test_form_too_large_is_refused(gateway: TestGateway) -> None:
    body = b"scope=" + b"a" * MAXIMUM_FORM
    refused(post(gateway, body), 400, "invalid_request")


@pytest.mark.requirement("attack-19")
def test_form_with_parameters_in_the_query_is_refused(gateway: TestGateway) -> None:
    for query in ("scope=mcp", urlencode(good_form(gateway))):
        refused(post(gateway, target=f"/oauth/token?{query}"), 400, "invalid_request")
    everything = f"/oauth/token?{urlencode(good_form(gateway))}"
    refused(post(gateway, b"", target=everything), 400, "invalid_request")


@pytest.mark.requirement("attack-18")
def test_form_with_an_authorization_header_beside_it_is_refused(gateway: TestGateway) -> None:
    for value in ("Basic YTpi", "Bearer x", "Basic", "", "Basic " + "a" * 10_000):
        answer = post(gateway, more=[("authorization", value)])
        refused(answer, (400, 401))
        assert answer.error in {"invalid_request", "invalid_client"}


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize("value", ["", " ", "x", "a.b.c", "a" * 10_000, "\xff"])
def test_form_with_a_proof_that_is_none_is_refused(gateway: TestGateway, value: str) -> None:
    answer = post(gateway, more=[("dpop", value)], proof=False)
    refused(answer, 400, "invalid_dpop_proof")


@pytest.mark.requirement("attack-15")
def test_form_with_two_proofs_is_refused(gateway: TestGateway) -> None:
    refused(post(gateway, more=head(gateway)[-1:]), 400, "invalid_dpop_proof")


# --- methods, paths, hosts --------------------------------------------------------------------

PATHS: Final = {
    "/oauth/token": {"POST"},
    "/oauth/authorize": {"GET", "POST"},
    "/oauth/login": {"GET", "POST"},
    "/oauth/login/corp": {"GET"},
    "/oauth/callback/corp": {"GET"},
    "/oauth/consent": {"GET", "POST"},
    "/oauth/jwks": {"GET"},
    "/.well-known/openid-configuration": {"GET"},
    "/.well-known/oauth-authorization-server": {"GET"},
    "/control/v1/enrol": {"POST"},
    "/control/v1/snapshot": {"GET"},
    "/control/v1/events": {"GET"},
    "/control/v1/acks": {"POST"},
    "/control/v1/audit": {"POST"},
    "/control/v1/catalogue": {"POST"},
    "/admin/v1/objects": {"GET", "POST"},
    "/admin/v1/blocks": {"GET", "POST"},
    "/healthz": {"GET"},
}


@pytest.mark.parametrize("path", PATHS)
def test_method_we_do_not_serve_is_405_and_says_which(gateway: TestGateway, path: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        if method in PATHS[path]:
            continue
        data = request_bytes(path, head(gateway, proof=False), b"", method=method)
        answer = say(gateway.stack.ports.issuer, data, method=method)
        refused(answer, 405)
        allowed = {name.strip() for name in answer.headers["allow"].split(",")}
        assert PATHS[path] <= allowed <= PATHS[path] | {"HEAD"}, path


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/oauth",
        "/oauth/token/",
        "/oauth//token",
        "/OAUTH/TOKEN",
        "/oauth/token;x",
        "/..",
        "/%00",
    ],
)
def test_path_that_we_do_not_have_is_not_found(gateway: TestGateway, target: str) -> None:
    refused(post(gateway, target=target), 404)


def test_host_and_forwarded_headers_change_nothing_that_is_said(gateway: TestGateway) -> None:
    stack = gateway.stack
    for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
        lines = [
            ("host", "evil.example"),
            ("connection", "close"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "host=evil.example"),
        ]
        answer = say(stack.ports.issuer, request_bytes(path, lines, method="GET", length=False))
        assert answer.status == 200
        assert answer.json["issuer"] == stack.issuer
        assert b"evil" not in answer.body


def test_proof_for_another_host_is_refused_whatever_the_host_header_says(
    gateway: TestGateway,
) -> None:
    url = "http://evil.example/oauth/token"
    now = int(time.time())  # noqa: TID251
    proof = gateway.key.dpop_proof(method="POST", uri=url, now=now)
    lines = [("host", "evil.example"), ("dpop", proof), ("content-type", FORM)]
    body = urlencode(good_form(gateway)).encode()
    answer = say(gateway.stack.ports.issuer, request_bytes("/oauth/token", lines, body))
    refused(answer, 400, "invalid_dpop_proof")


# --- HTTP itself -----------------------------------------------------------------------------

CHUNKED: Final = ("transfer-encoding", "chunked")
MESSAGES: Final[dict[str, tuple[str, Headers, bool]]] = {
    # first line, headers beside the good ones, whether the body is chunked
    "HTTP/0.9": ("GET /healthz", [], False),
    "HTTP/1.2": ("POST /oauth/token HTTP/1.2", [], False),
    "HTTP/2.0": ("POST /oauth/token HTTP/2.0", [], False),
    "an unknown method": ("BURN /oauth/token HTTP/1.1", [], False),
    "a method in lower case": ("post /oauth/token HTTP/1.1", [], False),
    "an absolute target": ("POST http://evil.example/oauth/token HTTP/1.1", [], False),
    "an authority as target": ("CONNECT evil.example:443 HTTP/1.1", [], False),
    "a NUL in the target": ("POST /oauth/token\x00 HTTP/1.1", [], False),
    "a space in the target": ("POST /oauth/ token HTTP/1.1", [], False),
    "chunks": ("POST /oauth/token HTTP/1.1", [CHUNKED], True),
    "chunks and a length": ("POST /oauth/token HTTP/1.1", [("content-length", "5"), CHUNKED], True),
    "two lengths": ("POST /oauth/token HTTP/1.1", [("content-length", "5")], False),
    "a sign before the length": ("POST /oauth/token HTTP/1.1", [("content-length", "+5")], False),
    "an unknown coding": ("POST /oauth/token HTTP/1.1", [("transfer-encoding", "x")], False),
    "two hosts": ("POST /oauth/token HTTP/1.1", [("host", "evil.example")], False),
    "a NUL in a header": ("POST /oauth/token HTTP/1.1", [("x-a", "b\x00c")], False),
    "a space before the colon": ("POST /oauth/token HTTP/1.1", [("x-a ", "b")], False),
    "a folded header": ("POST /oauth/token HTTP/1.1", [("x-a", "b\r\n c")], False),
    "trailers announced": ("POST /oauth/token HTTP/1.1", [("trailer", "dpop")], False),
}


@pytest.mark.requirement("attack-25")
@pytest.mark.parametrize("what", MESSAGES)
def test_message_that_is_not_plain_http_is_refused_or_cut(gateway: TestGateway, what: str) -> None:
    first, more, in_chunks = MESSAGES[what]
    body = urlencode(good_form(gateway)).encode()
    lines = [*head(gateway), ("content-type", FORM), *more]
    if not in_chunks and "transfer-encoding" not in dict(more):
        lines.append(("content-length", str(len(body))))
    text = "".join(f"{name}: {value}\r\n" for name, value in lines)
    sent = chunked(body, trailers={"dpop": "x"}) if in_chunks else body
    data = f"{first}\r\n{text}\r\n".encode("latin-1") + sent
    answer = say(gateway.stack.ports.issuer, data, half_close=True)
    refused(answer, (0, 400, 404, 405, 411, 505))
    assert b"access_token" not in answer.body


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([("x-long", "a" * 300_000)], id="one long header"),
        pytest.param([(f"x-{number}", "a") for number in range(20_000)], id="20000 headers"),
    ],
)
def test_head_that_is_too_large_is_refused(gateway: TestGateway, lines: Headers) -> None:
    refused(post(gateway, more=lines), (0, 400, 431))


def test_head_with_an_endless_line_is_cut(gateway: TestGateway) -> None:
    answer = say(gateway.stack.ports.issuer, b"GET /" + b"a" * 1_000_000)
    refused(answer, (0, 400, 414, 431))
    assert answer.seconds < 5


def test_query_that_is_too_long_is_refused(gateway: TestGateway) -> None:
    target = "/oauth/authorize?" + "a=" + "a" * 20_000
    data = request_bytes(target, head(gateway, proof=False), method="GET", length=False)
    refused(say(gateway.stack.ports.issuer, data), (400, 414))


# --- the pages -------------------------------------------------------------------------------


def authorize_query(stack: Stack, **changes: str) -> str:
    url, _ = TestAgent(stack).authorization_url("crm", ["get_account"], **changes)
    return url.partition("?")[2]


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize(
    "query",
    [
        "",
        "client_id=support-bot",
        "client_id=nobody&redirect_uri=https%3A%2F%2Fevil.example",
        "client_id=%00",
        "client_id=%ff",
        "%ff=%ff",
        "&".join(f"a{number}=1" for number in range(10_000)),
        "a=" + "a" * 17_000,
    ],
)
def test_authorization_request_that_cannot_be_read_is_a_page_and_no_redirect(
    gateway: TestGateway, query: str
) -> None:
    for method in ("GET", "POST"):
        lines = head(gateway, proof=False)
        target, body = f"/oauth/authorize?{query}", b""
        if method == "POST":
            target, body = "/oauth/authorize", query.encode()
            lines.append(("content-type", FORM))
        answer = say(
            gateway.stack.ports.issuer,
            request_bytes(target, lines, body, method=method, length=method == "POST"),
        )
        refused(answer, (400, 414))
        assert "location" not in answer.headers


@pytest.mark.requirement("attack-8")
def test_authorization_request_with_anything_twice_is_refused(gateway: TestGateway) -> None:
    stack = gateway.stack
    query = authorize_query(stack)
    for name in ("client_id", "redirect_uri", "state", "scope", "code_challenge", "response_type"):
        again = quote("https://evil.example/callback", safe="")
        data = request_bytes(
            f"/oauth/authorize?{query}&{name}={again}",
            head(gateway, proof=False),
            method="GET",
            length=False,
        )
        answer = say(stack.ports.issuer, data)
        assert answer.status in {303, 400}, (name, answer)
        if answer.status == 303:
            location = answer.headers["location"]
            assert location.startswith(f"{CALLBACK}?error=invalid_request"), location


@pytest.mark.parametrize("page", ["login", "consent"])
@pytest.mark.parametrize(
    "form",
    ["", "interaction=x", "interaction=%00", "interaction=x&interaction=y", "a" * 20_000, "%ff=1"],
)
def test_page_form_that_is_nobodys_is_refused(gateway: TestGateway, page: str, form: str) -> None:
    answer = post(gateway, form.encode(), target=f"/oauth/{page}", proof=False)
    refused(answer, (400, 403))
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


# --- slow clients and a locked database ---------------------------------------------------------


def test_slow_clients_are_cut_in_time_and_hold_up_nobody(gateway: TestGateway) -> None:
    port = gateway.stack.ports.issuer
    line = [("content-length", "1000"), ("content-type", FORM)]
    slow_body = request_bytes("/oauth/token", head(gateway) + line, b"", length=False)
    slow_json = request_bytes(
        "/control/v1/enrol",
        [*head(gateway), ("content-length", "1000"), ("content-type", "application/json")],
        b"",
        length=False,
    )
    openings = {
        "nothing": (b"", b""),
        "a slow head": (b"POST /oauth/tok", b"e"),
        "slow header lines": (b"POST /oauth/token HTTP/1.1\r\n", b"x-a: b\r\n"),
        "a slow form": (slow_body, b"a"),
        "a slow json": (slow_json, b" "),
    }
    with concurrent.futures.ThreadPoolExecutor(25) as clients:
        slow = {
            clients.submit(drip, port, first, piece, 15): what
            for what, (first, piece) in openings.items()
            for _ in range(3)
        }
        for _ in range(5):
            started = time.monotonic()
            assert gateway.control_token()
            assert time.monotonic() - started < 5
            time.sleep(1)
        late = {
            what: (received[:40], round(seconds, 1))
            for future, what in slow.items()
            for received, seconds in [future.result()]
            if seconds >= 14
            or (what in {"a slow form", "a slow json"} and b" 400 " not in received)
        }
    assert not late


def test_database_that_is_locked_is_unavailable_for_a_while_and_nothing_is_lost(
    gateway: TestGateway,
) -> None:
    stack = gateway.stack
    path = stack.directory / "data" / "countersign.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = post(gateway)
        other.execute("ROLLBACK")
    assert answer.status == 503, answer
    assert answer.json["error"] == "temporarily_unavailable"
    assert_nothing_inside(answer)
    deadline = time.monotonic() + 10
    while post(gateway).status != 200:
        assert time.monotonic() < deadline
    assert audit_events(stack)


def assert_nothing_inside(answer: Answer) -> None:
    assert_says_nothing(Answer(400, answer.headers, answer.body))
