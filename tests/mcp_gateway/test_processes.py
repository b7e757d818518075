"""The gateway on real sockets: our uvicorn protocol in front, aiohttp to a real uvicorn behind."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import uvicorn

from audit_log.event import Outcome
from mcp_gateway.asgi import Receive, Scope, Send
from mcp_gateway.upstream.http import HttpUpstream
from mcp_gateway.upstream.protocol import (
    UpstreamRequest,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnreachableError,
)
from mcp_gateway.web_server import GatewayServer, new_server
from tests.mcp_gateway.rig import TARGET_TOKEN, Rig, tool_call

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

CALL = tool_call("get_account", {"id": 1})
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
NOTE = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'


class McpServer:
    """A bare MCP server: what it answers is chosen by the test."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.is_cut = asyncio.Event()
        self.answer: Callable[[Send], Awaitable[None]] = self.result

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive()).get("more_body") or not body:
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.seen.append({"path": scope["path"], "headers": headers, "body": body})
        serving = asyncio.ensure_future(self.answer(send))
        gone = asyncio.ensure_future(receive())
        await asyncio.wait({serving, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            serving.cancel()
            self.is_cut.set()
        gone.cancel()
        await asyncio.gather(serving, gone, return_exceptions=True)

    async def reply(
        self, send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]
    ) -> None:
        lines = [(b"content-type", b"application/json"), *headers]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": body})

    async def result(self, send: Send) -> None:
        cookie = (b"set-cookie", b"session=1")
        await self.reply(send, 200, RESULT, cookie, (b"www-authenticate", b"Basic"))

    async def redirect(self, send: Send) -> None:
        await self.reply(send, 307, b"{}", (b"location", b"http://127.0.0.1:1/elsewhere"))

    async def silence(self, _send: Send) -> None:
        await asyncio.Event().wait()

    async def events(self, send: Send) -> None:
        lines = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": lines})
        await send({"type": "http.response.body", "body": NOTE, "more_body": True})
        await asyncio.Event().wait()


class Stack:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.server = McpServer()
        self.port = 0
        self.target = ""
        self.gateway: GatewayServer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/crm/mcp"

    def head(self, body: bytes, **changes: str | None) -> bytes:
        """The head of a raw request to this gateway; a header of None is left out."""
        request = self.rig.http(
            CALL, headers={name.replace("_", "-"): value for name, value in changes.items()}
        )
        lines = [name + b": " + value for name, value in request.headers]
        return b"\r\n".join([b"POST /crm/mcp HTTP/1.1", *lines, b"", b""]) + body

    async def raw(self, data: bytes) -> bytes:
        """Send bytes, read until the server closes or has answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(5):
                return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def served(server: uvicorn.Server) -> AsyncIterator[int]:
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        async with asyncio.timeout(20):
            await task


@asynccontextmanager
async def stack(rig: Rig) -> AsyncIterator[Stack]:
    built = Stack(rig)
    config = uvicorn.Config(built.server, port=0, log_config=None, lifespan="off", ws="none")
    async with served(uvicorn.Server(config)) as port, HttpUpstream() as upstream:
        built.target = f"http://127.0.0.1:{port}/mcp"
        object.__setattr__(rig.parts, "upstream", upstream)
        rig.with_server(url=built.target, timeout_seconds=0.5, maximum_response_bytes=100_000)
        built.gateway = new_server(rig.app, host="127.0.0.1", port=0, drain_seconds=0.1)
        async with served(built.gateway) as gateway_port:
            built.port = gateway_port
            yield built


def post(rig: Rig, built: Stack) -> httpx2.Request:
    request = rig.http(CALL)
    return httpx2.Request("POST", built.url, headers=list(request.headers), content=request.body[0])


async def test_call_over_real_connections_arrives_with_the_credential_alone(rig: Rig) -> None:
    async with stack(rig) as built, httpx2.AsyncClient() as client:
        for _ in range(3):
            response = await client.send(post(rig, built))
            assert response.status_code == 200
            assert response.content == RESULT
        assert "set-cookie" not in response.headers
        assert "www-authenticate" not in response.headers
        assert "server" not in response.headers
        seen = built.server.seen[-1]
    assert seen["headers"]["authorization"] == f"Bearer {TARGET_TOKEN}"
    assert "cookie" not in seen["headers"]
    assert "dpop" not in seen["headers"]
    assert json.loads(seen["body"])["params"]["arguments"] == {"id": 1}


async def test_redirect_of_the_server_is_not_followed(rig: Rig) -> None:
    async with stack(rig) as built, httpx2.AsyncClient() as client:
        built.server.answer = built.server.redirect
        assert (await client.send(post(rig, built))).status_code == 502
        assert len(built.server.seen) == 1


async def test_server_that_stays_silent_times_out(rig: Rig) -> None:
    async with stack(rig) as built, httpx2.AsyncClient() as client:
        built.server.answer = built.server.silence
        assert (await client.send(post(rig, built))).status_code == 504
        async with asyncio.timeout(5):
            await built.server.is_cut.wait()


async def test_reply_over_the_limit_is_an_error(rig: Rig) -> None:
    async def large(send: Send) -> None:
        await built.server.reply(send, 200, b"[" + b" " * 200_000 + b"]")

    async with stack(rig) as built, httpx2.AsyncClient() as client:
        built.server.answer = large
        assert (await client.send(post(rig, built))).status_code == 502
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_too_large"


async def test_agent_that_closes_its_connection_closes_the_servers(rig: Rig) -> None:
    async with stack(rig) as built, httpx2.AsyncClient() as client:
        built.server.answer = built.server.events
        rig.with_server(url=built.target, timeout_seconds=30.0)
        response = await client.send(post(rig, built), stream=True)
        chunks = response.aiter_raw()
        assert await anext(chunks) == NOTE
        await response.aclose()
        async with asyncio.timeout(5):
            await built.server.is_cut.wait()
    assert rig.events("call.finished")[-1].outcome is Outcome.CANCELLED


async def test_shutdown_with_an_open_stream_ends_it_and_the_process(rig: Rig) -> None:
    async with httpx2.AsyncClient() as client, stack(rig) as built:
        built.server.answer = built.server.events
        rig.with_server(url=built.target, timeout_seconds=30.0)
        response = await client.send(post(rig, built), stream=True)
        chunks = response.aiter_raw()
        assert await anext(chunks) == NOTE
        built.gateway.should_exit = True
        rest = b"".join([chunk async for chunk in chunks])
        assert b'"code":-32008' in rest
        await response.aclose()
    assert rig.events("call.finished")[-1].error_code == "shutdown"


async def test_upstream_that_is_not_there_is_unreachable() -> None:
    request = UpstreamRequest("http://127.0.0.1:1/mcp", (), b"{}", 1.0, 1000)
    async with HttpUpstream() as upstream:
        with pytest.raises(UpstreamUnreachableError):
            async with upstream.post(request):
                pass


@pytest.mark.requirement("trailers-never-authenticate")
async def test_trailer_never_authenticates_and_a_chunked_body_is_served(rig: Rig) -> None:
    body = json.dumps(CALL).encode()
    chunked = b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    token = rig.token()
    async with stack(rig) as built:
        head = built.head(b"", content_length=None, transfer_encoding="chunked", authorization=None)
        trailer = f"authorization: DPoP {token}\r\n\r\n".encode()
        assert b" 401 " in await built.raw(head + chunked + trailer)
        head = built.head(b"", content_length=None, transfer_encoding="chunked")
        assert b" 200 " in await built.raw(head + chunked + b"\r\n")
        head = built.head(b"", content_length=None, transfer_encoding="chunked")
        assert b" 200 " in await built.raw(head + chunked + b"authorization: x\r\n\r\n")


async def test_absolute_form_target_is_checked_against_our_host(rig: Rig) -> None:
    body = json.dumps(CALL).encode()
    async with stack(rig) as built:
        for target, status in (
            (b"http://evil.example/crm/mcp", b" 403 "),
            (b"http://127.0.0.1:8701/crm/mcp", b" 200 "),
        ):
            request = built.head(body).replace(b"POST /crm/mcp", b"POST " + target)
            assert status in await built.raw(request)


async def test_odd_protocol_version_and_oversized_head_are_refused(rig: Rig) -> None:
    body = json.dumps(CALL).encode()
    async with stack(rig) as built:
        for version in (b"HTTP/2.0", b"HTTP/0.9"):
            assert b" 400 " in await built.raw(built.head(body).replace(b"HTTP/1.1", version, 1))
        assert b" 400 " in await built.raw(built.head(body, x_padding="a" * 70_000))


async def test_head_that_never_ends_closes_the_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("listeners.bounded_heads.FIRST_HEAD_SECONDS", 0.05)
    async with stack(rig) as built:
        reader, writer = await asyncio.open_connection("127.0.0.1", built.port)
        writer.write(b"POST /crm/mcp HTTP/1.1\r\nhost: 127")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_body_that_stalls_is_answered_and_ended(rig: Rig) -> None:
    rig.app._mcp._body_seconds = 0.05
    async with stack(rig) as built:
        assert b" 408 " in await built.raw(built.head(b"{", content_length="100"))


async def test_upstream_errors_are_told_apart() -> None:
    server = McpServer()
    config = uvicorn.Config(server, port=0, log_config=None, lifespan="off", ws="none")
    async with served(uvicorn.Server(config)) as port, HttpUpstream() as upstream:
        request = UpstreamRequest(f"http://127.0.0.1:{port}/", (), b"{}", 0.1, 10)
        with pytest.raises(UpstreamTooLargeError):
            async with upstream.post(request) as reply:
                assert [chunk async for chunk in reply.chunks()]
        server.answer = server.events
        with pytest.raises(UpstreamTimeoutError):
            async with upstream.post(replace(request, maximum_response_bytes=1000)) as reply:
                assert [chunk async for chunk in reply.chunks()]
