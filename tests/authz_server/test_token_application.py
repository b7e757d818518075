"""The application around the endpoints, and the HTTP it refuses before they see it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from uvicorn import Config
from uvicorn.server import ServerState

from authz_server.app import create_app
from authz_server.http_protocol import PublicHttpProtocol
from tests.authz_server.back_half import Authority, error_of

pytestmark = pytest.mark.anyio


async def status_of(authority: Authority, **changes: Any) -> int:
    """The status for one GET of /healthz with the scope changed."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/healthz",
        "raw_path": b"/healthz",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8700")],
        "server": ("127.0.0.1", 8700),
        "client": ("127.0.0.1", 1),
    }
    await authority.app({**scope, **changes}, receive, send)
    return statuses[0]


@pytest.mark.requirement("attack-25")
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"http_version": "1.0"}, 200),
        ({"http_version": "3.7"}, 505),
        ({"headers": [(b"transfer-encoding", b"chunked")]}, 411),
        ({"headers": [(b"transfer-encoding", b"identity")]}, 411),
        ({"headers": [(b"trailer", b"authorization")]}, 411),
        ({"headers": [(b"content-length", b"1"), (b"content-length", b"2")]}, 400),
        ({"headers": [(b"host", b"a"), (b"host", b"b")]}, 400),
        ({"headers": []}, 200),
        ({"query_string": b"x" * 20_000}, 414),
        ({"path": "/nowhere"}, 404),
    ],
)
async def test_token_application_refuses_odd_requests(
    authority: Authority, changes: dict[str, Any], status: int
) -> None:
    assert await status_of(authority, **changes) == status


async def test_token_application_says_when_its_picture_is_stale(authority: Authority) -> None:
    assert await status_of(authority) == 200
    authority.clock.now += 60
    assert await status_of(authority) == 503
    await authority.parts.live.refresh()
    assert await status_of(authority) == 200


async def test_token_application_serves_what_is_mounted(authority: Authority) -> None:
    async def hello(_request: Any) -> PlainTextResponse:
        return PlainTextResponse("hello")

    admin = Starlette(routes=[Route("/whoami", hello)])
    authority.app = create_app(authority.parts, mounts=[Mount("/admin/v1", admin)])
    assert await status_of(authority, path="/admin/v1/whoami") == 200
    assert await status_of(authority, path="/admin/v1/other") == 404


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def spoken(data: bytes, split: Callable[[bytes], list[bytes]] = lambda data: [data]) -> bytes:
    """What the strict protocol answers to these bytes."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append([name for name, _ in scope["headers"]])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    config = Config(app, log_config=None, access_log=False, lifespan="off")
    config.load()
    wire = Wire()
    protocol = PublicHttpProtocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(wire)  # type: ignore[arg-type] # as much of one as is used
    for part in split(data):
        if not wire.closed:
            protocol.data_received(part)
        for _ in range(20):
            await asyncio.sleep(0)
    if protocol.timeout_keep_alive_task is not None:
        protocol.timeout_keep_alive_task.cancel()
    assert all(b"authorization" not in names for names in seen)
    return wire.written.partition(b"\r\n")[0]


CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
BOTH_LENGTHS = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.requirement("attack-25")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", b"200"),
        (CHUNKED + b"\r\n", b"200"),
        (CHUNKED + b"Authorization: DPoP stolen\r\n\r\n", b"400"),
        (b"GET http://evil.example/x HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /x HTTP/7.3\r\nHost: a\r\n\r\n", b"400"),
        (BOTH_LENGTHS + b"\r\n0\r\n\r\n", b"400"),
    ],
)
async def test_token_application_speaks_strict_http(data: bytes, status: bytes) -> None:
    assert status in await spoken(data)
    assert status in await spoken(data, lambda data: [data[:40], data[40:]])


@pytest.mark.requirement("stale-issues-nothing")
async def test_token_endpoint_issues_nothing_on_a_stale_picture(authority: Authority) -> None:
    """A block may have been made that this process has not heard of."""
    gateway = await authority.enrolled()
    assert (await gateway.ask_control()).status_code == 200
    authority.clock.now += 60  # nobody has read the database since
    refused = await gateway.ask_control()
    assert (refused.status_code, error_of(refused)) == (503, "temporarily_unavailable")
    assert authority.refusals()[-1].reasons == ("token.stale",)
    await authority.parts.live.refresh()
    assert (await gateway.ask_control()).status_code == 200
