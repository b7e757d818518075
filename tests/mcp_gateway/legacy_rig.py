"""A legacy MCP server as a Transport: sessions, scripts, and a record of all it was sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp_gateway.upstream.either_era import EitherEraUpstream
from mcp_gateway.upstream.protocol import UpstreamRequest
from mcp_gateway.upstream.transport import TransportReply
from tests.mcp_gateway.rig import Exchange, FakeReply, Rig, meta, tool_call

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
CALL = tool_call("get_account", {"id": 1})


@dataclass
class LegacyReply(FakeReply):
    """A scripted reply with headers."""

    headers: dict[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())


@dataclass
class Sent:
    """One request as the server saw it."""

    verb: str
    headers: dict[str, str]
    body: bytes
    timeout_seconds: float

    @property
    def message(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def method(self) -> str:
        return str(self.message.get("method", self.verb))

    @property
    def session(self) -> str | None:
        return self.headers.get("mcp-session-id")


def call_with(**extra: object) -> dict[str, Any]:
    """`CALL` with more in its `_meta`."""
    message = tool_call("get_account", {"id": 1})
    message["params"]["_meta"] = meta(**extra)
    return message


def data_of(exchange: Exchange) -> list[Any]:
    """What the events of a reply say, one by one."""
    return [
        json.loads(event.partition(b"data: ")[2])
        for event in exchange.body.split(b"\n\n")
        if b"data: " in event
    ]


def answer(request_id: object, result: str = '{"content":[]}') -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (
        json.dumps(request_id).encode(),
        result.encode(),
    )


def json_reply(body: bytes, status: int = 200, **headers: str) -> LegacyReply:
    return LegacyReply(status, JSON, (body,), headers=headers)


def events(*messages: bytes | asyncio.Event | Exception, **headers: str) -> LegacyReply:
    body = tuple(
        b"data: " + each + b"\n\n" if isinstance(each, bytes) else each for each in messages
    )
    return LegacyReply(200, EVENT_STREAM, body, headers=headers)


def progress(token: object) -> bytes:
    """Half way, under this progress token."""
    params = {"progressToken": token, "progress": 0.5}
    return json.dumps(
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    ).encode()


Script = Callable[[Sent], LegacyReply]


def unknown_method(sent: Sent) -> LegacyReply:
    error = {"code": -32601, "message": "Method not found"}
    body = {"jsonrpc": "2.0", "id": sent.message.get("id"), "error": error}
    return json_reply(json.dumps(body).encode())


def session_missing(sent: Sent) -> LegacyReply:
    """What servers on older SDKs say to a modern request."""
    del sent
    error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    return json_reply(json.dumps(body).encode(), 400)


class LegacyServer:
    """Answers as 2025-11-25 says; `on[method]` or `on[verb]` replaces what it answers."""

    def __init__(self, version: str = "2025-11-25", *, has_sessions: bool = True) -> None:
        self.version, self.has_sessions = version, has_sessions
        self.sent: list[Sent] = []
        self.replies: list[LegacyReply] = []
        self.sessions: set[str] = set()
        self.on: dict[str, Script] = {"server/discover": session_missing}
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self._begun = 0

    @asynccontextmanager
    async def send(self, method: str, request: UpstreamRequest) -> AsyncIterator[TransportReply]:
        headers = {name.lower(): value for name, value in request.headers}
        sent = Sent(method, headers, request.body, request.timeout_seconds)
        self.sent.append(sent)
        if (before := self.before.get(sent.method)) is not None:
            await before()
        reply = self._answer(sent)
        self.replies.append(reply)
        for part in reply.body[:1]:
            if isinstance(part, Exception) and not reply.media_type:
                raise part
        try:
            yield reply
        finally:
            reply.is_closed = True

    def _answer(self, sent: Sent) -> LegacyReply:
        script = self.on.get(sent.method)
        if script is not None:
            return script(sent)
        if sent.method == "initialize":
            return self.initialized(sent)
        if self.has_sessions and sent.session not in self.sessions:
            return json_reply(b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}', 404)
        if sent.verb == "DELETE":
            self.sessions.discard(sent.session or "")
            return LegacyReply(200, "")
        if sent.method in {"tools/call", "tools/list"}:
            result = '{"tools":[]}' if sent.method == "tools/list" else '{"content":[]}'
            return json_reply(answer(sent.message["id"], result))
        return LegacyReply(202, "")

    def initialized(self, sent: Sent) -> LegacyReply:
        result = {
            "protocolVersion": self.version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "old", "version": "1"},
        }
        body = answer(sent.message["id"], json.dumps(result))
        if not self.has_sessions:
            return json_reply(body)
        self._begun += 1
        session = f"session-{self._begun}"
        self.sessions.add(session)
        return LegacyReply(200, JSON, (body,), headers={"mcp-session-id": session})

    def methods(self) -> list[str]:
        return [sent.method for sent in self.sent]

    def of(self, method: str) -> list[Sent]:
        return [sent for sent in self.sent if sent.method == method]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let other tasks go on until it is so."""
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError(self.methods())


class Pauses:
    """Takes the place of `asyncio.sleep`: no waiting, but a record."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def behind(rig: Rig, server: LegacyServer, **changes: object) -> EitherEraUpstream:
    """Put `server` behind the rig's gateway."""
    upstream = EitherEraUpstream(server, rig.monotonic, Pauses())
    object.__setattr__(rig.parts, "upstream", upstream)
    if changes:
        rig.with_server(**changes)
    return upstream


def legacy_server(rig: Rig, **changes: object) -> LegacyServer:
    """A server behind the rig's gateway that is declared legacy: nobody asks for its era."""
    server = LegacyServer()
    behind(rig, server, protocol="legacy", **changes)
    return server
