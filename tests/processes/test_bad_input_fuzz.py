"""What nobody thought of: random forms, queries and JSON against every endpoint. 4xx, or as asked.

Against the real process, because what is to be found is what surprises it: a 500, a stack trace,
a connection cut without a word.
"""

import json
import random
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote_from_bytes

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose.demo.stack import Stack
from tests.gateways import TestGateway
from tests.stack import CALLBACK, audit_events
from tests.wire import Answer, assert_says_nothing, request_bytes, say

pytestmark = pytest.mark.processes

EXAMPLES: Final = 150
FUZZ: Final = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
JSON: Final = {"content-type": "application/json"}

NAMES: Final = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "code",
    "code_verifier",
    "redirect_uri",
    "resource",
    "audience",
    "scope",
    "authorization_details",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "response_type",
    "response_mode",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "prompt",
    "max_age",
    "dpop_jkt",
    "request",
    "request_uri",
    "claims",
    "login_hint",
    "id_token_hint",
    "acr_values",
    "display",
    "ui_locales",
    "interaction",
    "csrf",
    "username",
    "password",
    "identity_provider",
    "answer",
    "after",
    "reason",
    "wait",
    "limit",
    "before",
    "agent",
    "user",
    "type",
    "outcome",
]
VALUES: Final = [
    "authorization_code",
    "client_credentials",
    "refresh_token",
    "password",
    "code",
    "token",
    "none",
    "login",
    "consent",
    "urn:ietf:params:oauth:grant-type:token-exchange",
    "mcp:tools",
    "openid",
    "S256",
    "plain",
    "support-bot",
    "gateway:main",
    "countersign-cli",
    "[]",
    "{}",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "allow",
    "deny",
    "local",
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    "http://127.0.0.1/callback",
    "http://127.0.0.1:18080/callback",
    "https://evil.example/",
    "javascript:alert(1)",
    "a.b.c",
    "e30.e30.e30",
    "eyJhbGciOiJub25lIn0.e30.",
    "alice",
    "query",
    "fragment",
    "form_post",
]
DETAILS: Final = (
    '[{"type":"mcp_tool","server":"crm","tools":["get_*"],"actions":["call"]}]',
    '[{"type":"mcp_tool_call","server":"crm","tool":"x","args_sha256":"x","decision":"x"}]',
    '[{"type":1}]',
    '{"type":"mcp_tool"}',
    "[" * 2_000,
    '[{"type":"mcp_tool","server":"crm","tools":["' + "a" * 3_000 + '"]}]',
)

raw = st.binary(max_size=40)
names = st.sampled_from(NAMES) | st.text(max_size=10)
values = st.one_of(st.sampled_from(VALUES), st.sampled_from(DETAILS), st.text(max_size=40), raw)
pairs = st.lists(st.tuples(names, values), max_size=20)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(st.characters(), max_size=20),
    st.sampled_from(VALUES),
)
members = st.sampled_from(
    [
        "code",
        "jwk",
        "kty",
        "crv",
        "x",
        "y",
        "d",
        "worker",
        "sequence",
        "version",
        "applied_at_ms",
        "source",
        "high_water",
        "events",
        "server",
        "tools",
        "name",
        "objects",
        "kind",
        "spec",
        "id",
        "reason",
        "sealed",
        "username",
        "password",
        "groups",
        "identity_provider",
        "event_id",
        "timestamp",
        "type",
        "outcome",
        "inputSchema",
        "description",
    ]
)
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(members | st.text(max_size=6), inner, max_size=6)
    ),
    max_leaves=20,
)


def encoded(given_pairs: list[tuple[str, str | bytes]]) -> str:
    def part(value: str | bytes) -> str:
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return quote_from_bytes(data, safe="")

    return "&".join(f"{part(name)}={part(value)}" for name, value in given_pairs)


def judged(answer: httpx2.Response, *, allowed: tuple[int, ...] = ()) -> None:
    """A client error that says nothing of ours; never a 500, never a stack trace."""
    if answer.status_code in allowed:
        return
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
    assert_says_nothing(Answer(answer.status_code, dict(answer.headers), answer.content))
    if answer.headers["content-type"] == "application/json":
        assert isinstance(answer.json()["error"], str)


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> TestGateway:
    return TestGateway.running(stack)


@pytest.fixture(scope="module")
def control_token(gateway: TestGateway) -> str:
    """One control token for all cases."""
    return gateway.control_token()


@pytest.fixture(scope="module")
def socket(stack: Stack) -> Iterator[httpx2.Client]:
    """The admin socket: the operator's own mistakes, past authentication."""
    transport = httpx2.HTTPTransport(uds=str(stack.admin_socket))
    with httpx2.Client(transport=transport, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def same_processes(stack: Stack, gateway: TestGateway) -> Iterator[None]:
    """After all of them: the same processes run, and serve."""
    yield
    assert gateway.control_token()
    assert len(audit_events(stack, type="source.started")) == 2


@FUZZ
@given(given_pairs=pairs, with_proof=st.booleans())
def test_fuzzed_forms_at_the_token_endpoint_are_client_errors(
    stack: Stack, gateway: TestGateway, given_pairs: list[Any], with_proof: bool
) -> None:
    url = f"{stack.issuer}/oauth/token"
    now = int(time.time())  # noqa: TID251 - real processes have real time
    proof = {"dpop": gateway.key.dpop_proof(method="POST", uri=url, now=now)} if with_proof else {}
    judged(stack.http.post(url, content=encoded(given_pairs), headers=FORM | proof))


@FUZZ
@given(given_pairs=pairs, with_assertion=st.booleans())
def test_fuzzed_exchanges_of_a_real_gateway_are_client_errors(
    gateway: TestGateway, given_pairs: list[Any], with_assertion: bool
) -> None:
    """Past client authentication, where the grants begin to read."""
    own = {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": gateway.assertion() if with_assertion else "e30.e30.e30",
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    }
    rest = [pair for pair in given_pairs if pair[0] not in own]
    answer = gateway.stack.http.post(
        f"{gateway.stack.issuer}/oauth/token",
        content=encoded([*own.items(), *rest]),
        headers=FORM,
    )
    judged(answer)


@FUZZ
@given(given_pairs=pairs, post=st.booleans(), real=st.booleans())
def test_fuzzed_authorization_requests_are_pages_or_errors_to_the_clients_own_uri(
    stack: Stack, given_pairs: list[Any], post: bool, real: bool
) -> None:
    own = [("client_id", "support-bot"), ("redirect_uri", CALLBACK)] if real else []
    text = encoded([*own, *given_pairs])
    url = f"{stack.issuer}/oauth/authorize"
    if post:
        answer = stack.http.post(url, content=text, headers=FORM)
    else:
        answer = stack.http.get(f"{url}?{text}")
    if answer.status_code == 303:
        target = answer.headers["location"]
        assert target.startswith((f"{CALLBACK}?error=", "http://127.0.0.1/callback?error=")), target
    else:
        judged(answer)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@FUZZ
@given(given_pairs=pairs, page=st.sampled_from(["login", "consent"]), post=st.booleans())
def test_fuzzed_page_forms_are_client_errors(
    stack: Stack, given_pairs: list[Any], page: str, post: bool
) -> None:
    url, text = f"{stack.issuer}/oauth/{page}", encoded(given_pairs)
    if post:
        judged(stack.http.post(url, content=text, headers=FORM))
    else:
        judged(stack.http.get(f"{url}?{text}"))


def body_of(document: object, noise: int) -> bytes:
    """The document as JSON; sometimes with a byte changed."""
    body = bytearray(json.dumps(document).encode())
    if noise % 3 == 0 and body:
        body[noise % len(body)] = noise % 256
    return bytes(body)


@FUZZ
@given(
    document=documents,
    noise=st.integers(0, 10_000),
    path=st.sampled_from(["enrol", "acks", "audit", "catalogue"]),
    proved=st.booleans(),
)
def test_fuzzed_json_at_the_control_channel_is_a_client_error(
    stack: Stack,
    gateway: TestGateway,
    control_token: str,
    *,
    document: object,
    noise: int,
    path: str,
    proved: bool,
) -> None:
    url = f"{stack.issuer}/control/v1/{path}"
    headers = dict(JSON)
    if proved:
        headers |= control_headers(gateway, control_token, "POST", url)
    judged(stack.http.post(url, content=body_of(document, noise), headers=headers))


def control_headers(gateway: TestGateway, token: str, method: str, url: str) -> dict[str, str]:
    now = int(time.time())  # noqa: TID251 - real processes have real time
    proof = gateway.key.dpop_proof(method=method, uri=url, now=now, access_token=token)
    return {"authorization": f"DPoP {token}", "dpop": proof}


@pytest.mark.parametrize(
    "after", ["-1", "x", "9" * 19, "%00", "%d9%a1%d9%a2", "1.0", "0x1", "%201"]
)
def test_fuzzed_place_in_the_control_events_is_a_client_error(
    stack: Stack, gateway: TestGateway, control_token: str, after: str
) -> None:
    url = f"{stack.issuer}/control/v1/events"
    headers = control_headers(gateway, control_token, "GET", url)
    judged(stack.http.get(f"{url}?after={after}", headers=headers))


ADMIN: Final = [
    ("POST", "/setup"),
    ("POST", "/objects"),
    ("POST", "/objects?dry_run=true"),
    ("GET", "/objects/{x}"),
    ("GET", "/objects/{x}/{x}"),
    ("DELETE", "/objects/{x}/{x}"),
    ("GET", "/objects/{x}/{x}/history"),
    ("POST", "/blocks"),
    ("DELETE", "/blocks/{x}/{x}"),
    ("GET", "/blocks/acks/{x}"),
    ("GET", "/catalogue/{x}"),
    ("POST", "/catalogue/{x}/approve"),
    ("POST", "/gateways/{x}/join"),
    ("GET", "/policies/status"),
    ("GET", "/audit"),
    ("GET", "/audit/decisions/{x}"),
    ("PUT", "/secrets/{x}"),
    ("POST", "/accounts"),
    ("POST", "/explain"),
    ("GET", "/persons?name={x}"),
]


@FUZZ
@given(
    operation=st.sampled_from(ADMIN),
    document=documents,
    noise=st.integers(0, 10_000),
    given_pairs=st.lists(st.tuples(names, values), max_size=3),
    part=st.text(min_size=1, max_size=20) | st.sampled_from(["Agent", "crm", "agent", "0"]),
)
def test_fuzzed_admin_requests_of_the_operator_are_client_errors(
    stack: Stack,
    socket: httpx2.Client,
    *,
    operation: tuple[str, str],
    document: object,
    noise: int,
    given_pairs: list[Any],
    part: str,
) -> None:
    """Past authentication. What happens to be right is done, and that is right."""
    method, path = operation
    filled = path.replace("{x}", encoded([(part, "")])[:-1])
    query = "" if noise % 4 else ("&" if "?" in filled else "?") + encoded(given_pairs)
    url = f"{stack.issuer}/admin/v1{filled}{query}"
    content = body_of(document, noise) if method in {"POST", "PUT"} else None
    answer = socket.request(method, url, content=content, headers=JSON if content else {})
    judged(answer, allowed=(200,))


@FUZZ
@given(operation=st.sampled_from(ADMIN), document=documents, authorization=st.text(max_size=30))
def test_fuzzed_admin_requests_of_strangers_are_client_errors(
    stack: Stack, operation: tuple[str, str], document: object, authorization: str
) -> None:
    method, path = operation
    url = f"{stack.issuer}/admin/v1{path.replace('{x}', 'x')}"
    # What no client can send: ends of lines, and spaces around a value.
    value = authorization.encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"")
    value = value.strip(b" \t\x0b\x0c\x00")
    headers = [(b"content-type", b"application/json")]
    if is_header_value(value):
        headers.append((b"authorization", b"DPoP " + value))
    answer = stack.http.request(method, url, json=document_for(document), headers=headers)
    judged(answer)


def is_header_value(value: bytes) -> bool:
    return bool(value.strip()) and all(byte >= 0x20 and byte != 0x7F for byte in value)


def document_for(document: object) -> object:
    """As JSON can carry it: httpx refuses NaN by itself."""
    return json.loads(
        json.dumps(document, default=str).replace("NaN", "0").replace("Infinity", "0")
    )


def test_fuzzed_bytes_on_both_listeners_never_hang_or_end_a_process(stack: Stack) -> None:
    """Not even HTTP: seeded random bytes, and good requests with random bytes in them."""
    points = random.Random(7)  # noqa: S311 - the same bytes each time
    for port, target in ((stack.ports.issuer, "/oauth/token"), (stack.ports.gateway, "/crm/mcp")):
        good = request_bytes(target, {"host": f"127.0.0.1:{port}", **FORM}, b"a=b")
        for _ in range(150):
            data = bytearray(good)
            for _ in range(points.randint(1, 8)):
                data[points.randrange(len(data))] = points.randrange(256)
            answer = say(port, bytes(data), half_close=True)
            assert answer.status == 0 or 400 <= answer.status < 500, (bytes(data), answer)
            assert_says_nothing(answer)
