"""The gateway in process: all of it real but for the authority and the upstream."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
from joserfc import jws
from joserfc.jwk import ECKey

from audit_log.event import AuditEvent
from audit_log.spool import Spool
from mcp_gateway.app import GatewayApp, create_app
from mcp_gateway.authority import (
    AuthorityAnswer,
    AuthorityRequest,
    AuthorityStream,
    AuthorityUnreachableError,
)
from mcp_gateway.compiled_view import compile_view
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.inbound import CAPABILITIES_KEY, PROTOCOL_VERSION, VERSION_KEY, RequestId
from mcp_gateway.parts import Parts, assemble
from mcp_gateway.proof_memory import ProofMemory
from mcp_gateway.upstream.protocol import UpstreamReply, UpstreamRequest
from registry.blocks import RevocationEvent
from registry.snapshot import (
    AgentEntry,
    CredentialProviderEntry,
    EnforcementView,
    GatewayEntry,
    PolicyDocument,
    PolicySetEntry,
    ServerEntry,
    ToolEntry,
)
from token_exchange.claims import (
    AccessTokenClaims,
    Actor,
    Attestation,
    AuthorizationDetail,
    Confirmation,
    JwkThumbprint,
    UserContext,
)
from token_exchange.proof_of_possession import access_token_hash

ISSUER = "http://127.0.0.1:8700"
BASE_URL = "http://127.0.0.1:8701"
ENDPOINT = f"{BASE_URL}/crm/mcp"
TARGET = "http://crm.internal.example/mcp"
TARGET_TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9." + "Zm9vYmFyYmF6cXV4" * 5 + "abcdef"
NOW = 1_800_000_000

GRANTS = """
@id("grant-read")
permit (principal in AgentGroup::"support-agents", action in Action::"call_read", resource)
when { context.run has user && context.run.user in Group::"local/support" };

@id("grant-refund")
permit (principal, action == Action::"crm/refund", resource)
when { context.run has user && context.run.user in Group::"local/support" };

@id("guard-refund-limit")
@reason("Agents may not refund more than 500.")
forbid (principal, action == Action::"crm/refund", resource)
unless { context.input has amount && context.input.amount <= 500 };
"""


def tool(name: str, properties: Mapping[str, Any], *, read_only: bool = False) -> ToolEntry:
    schema = {"type": "object", "properties": dict(properties)}
    definition = {"name": name, "description": f"{name}.", "inputSchema": schema}
    return ToolEntry(name, "sha-256:x", definition, read_only=read_only)


TOOLS = (
    tool("get_account", {"id": {"type": "integer"}, "note": {"type": "string"}}, read_only=True),
    tool("refund", {"amount": {"type": "integer"}}),
    tool("delete_account", {"id": {"type": "integer"}}),
    tool(
        "regional",
        {"region": {"type": "string", "x-mcp-header": "Region"}},
        read_only=True,
    ),
    tool("mislabelled", {"x": {"type": "number", "x-mcp-header": "X"}}, read_only=True),
)


def server_entry(**changes: object) -> ServerEntry:
    entry = ServerEntry(
        name="crm",
        url=TARGET,
        audience="https://crm.internal.example",
        require_bound=True,
        person_attributes=("groups",),
        credential=CredentialProviderEntry("crm-token", "issued_token", "run", 300, 1),
        tools=TOOLS,
        timeout_seconds=5.0,
        maximum_response_bytes=1_000_000,
    )
    return msgspec.structs.replace(entry, **changes)


def agent_entry(name: str = "support-bot", **changes: object) -> AgentEntry:
    entry = AgentEntry(
        name=name,
        groups=("support-agents",),
        tools=("crm/get_*", "crm/refund", "crm/regional", "crm/mislabelled", "crm/absent"),
        environment="production",
        minimum_level=1,
    )
    return msgspec.structs.replace(entry, **changes)


class Ticker:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeReply:
    """What an upstream answers: whole, or chunk by chunk with something to wait for between."""

    status: int = 200
    media_type: str = "application/json"
    body: tuple[bytes | asyncio.Event | Exception, ...] = ()
    content_encoding: str = "identity"
    is_closed: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self.body:
            if isinstance(part, asyncio.Event):
                await part.wait()
            elif isinstance(part, Exception):
                raise part
            else:
                yield part


def rpc_reply(request_id: int | str, result: object) -> FakeReply:
    body = {"jsonrpc": "2.0", "id": request_id, "result": result}
    return FakeReply(body=(json.dumps(body).encode(),))


class FakeUpstream:
    """Records what it was sent and answers from a script; the last answer repeats."""

    def __init__(self) -> None:
        self.requests: list[UpstreamRequest] = []
        self.forgotten: list[RevocationEvent | None] = []
        self.replies: list[FakeReply | Exception] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    def will(self, *replies: FakeReply | Exception) -> None:
        self.replies = list(replies)

    @asynccontextmanager
    async def post(self, request: UpstreamRequest) -> AsyncIterator[UpstreamReply]:
        self.requests.append(request)
        if self.before is not None:
            await self.before()
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        try:
            yield reply
        finally:
            reply.is_closed = True

    def era_spoken(self, url: str, protocol: str) -> str:
        del url
        return "" if protocol == "auto" else protocol

    def forget(self, event: RevocationEvent) -> None:
        self.forgotten.append(event)

    def forget_all(self) -> None:
        self.forgotten.append(None)

    def sent_header(self, name: str, index: int = -1) -> str | None:
        headers = {key.lower(): value for key, value in self.requests[index].headers}
        return headers.get(name.lower())

    def sent(self, index: int = -1) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.requests[index].body)
        return decoded


class FakeAuthority:
    """Answers exchanges with one token; counts them; can refuse, hang or be away."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.requests: list[AuthorityRequest] = []
        self.answer: dict[str, Any] = {
            "access_token": TARGET_TOKEN,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 300,
        }
        self.status = 200
        self.is_away = False
        self.before: Callable[[], Awaitable[None]] | None = None

    async def ask(self, request: AuthorityRequest) -> AuthorityAnswer:
        self.requests.append(request)
        form = parse_qs(request.body.decode())
        self.forms.append({name: values[0] for name, values in form.items()})
        if self.before is not None:
            await self.before()
        if self.is_away:
            raise AuthorityUnreachableError("away")
        return AuthorityAnswer(self.status, {}, json.dumps(self.answer).encode())

    @asynccontextmanager
    async def listen(self, request: AuthorityRequest) -> AsyncIterator[AuthorityStream]:
        self.requests.append(request)
        raise AuthorityUnreachableError("away")
        yield


@dataclass
class Exchange:
    """One HTTP exchange driven through ASGI, readable while it is still open."""

    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    is_finished: bool = False
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key.decode().lower() == name]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.progress.clear()
                await self.progress.wait()


class Rig:
    """Everything one test needs."""

    def __init__(self, directory: Path, view: EnforcementView, token_key: ECKey) -> None:
        self.clock = Ticker(NOW)
        self.monotonic = Ticker(100.0)
        self.token_key = token_key
        self.agent_key = ECKey.generate_key("P-256")
        self.upstream = FakeUpstream()
        self.upstream.will(rpc_reply(1, {"resultType": "complete", "content": []}))
        self.authority = FakeAuthority()
        self.spool = Spool.open(directory, "gateway.demo", clock=self.clock, background_flush=False)
        self.gateway_key = GatewayKey.load_or_create(directory / "gateway.key", secrets.token_bytes)
        self.parts: Parts = assemble(
            clock=self.clock,
            monotonic=self.monotonic,
            random=secrets.token_bytes,
            key=self.gateway_key,
            spool=self.spool,
            authority=self.authority,
            upstream=self.upstream,
            proofs=ProofMemory(),
        )
        self.generation = 0
        self.view = view
        self.adopt(view)
        self.parts.enforcement.heartbeat()
        self.app: GatewayApp = create_app(self.parts)

    def adopt(self, view: EnforcementView) -> None:
        self.generation += 1
        self.view = view
        self.parts.enforcement.adopt(compile_view(view, self.generation))

    def with_server(self, **changes: object) -> None:
        servers = (server_entry(**changes),)
        version = self.view.version + 1
        self.adopt(msgspec.structs.replace(self.view, servers=servers, version=version))

    # Tokens and proofs

    def claims(self, **changes: object) -> AccessTokenClaims:
        claims = AccessTokenClaims(
            iss=ISSUER,
            aud=ENDPOINT,
            jti="tok_1",
            iat=NOW - 10,
            exp=NOW + 600,
            sub="usr_alice",
            sub_profile="user",
            client_id="support-bot",
            scope="mcp:tools",
            act=Actor(f"{ISSUER}/attest/local", "unix:host/1/x", "ai_agent", "support-bot"),
            cnf=Confirmation(JwkThumbprint(self.agent_key.thumbprint())),
            authorization_details=(
                AuthorizationDetail(
                    type="mcp_tool",
                    server="crm",
                    tools=("get_*", "refund", "regional", "mislabelled", "absent"),
                    actions=("call",),
                ),
            ),
            sid="ses_1",
            gid="grt_1",
            inv="inv_1",
            txn="txn_1",
            attn=Attestation("local", "unix_process", 1, NOW - 10, NOW + 3600, "sha-256:e"),
            uctx=UserContext(groups=("local/support",)),
        )
        return msgspec.structs.replace(claims, **changes)

    def token(self, claims: AccessTokenClaims | None = None, *, typ: str = "at+jwt") -> str:
        payload = msgspec.json.encode(claims or self.claims())
        header = {"alg": "ES256", "typ": typ, "kid": self.token_key.thumbprint()}
        return jws.serialize_compact(header, payload, self.token_key, ["ES256"])

    def proof(self, token: str, *, key: ECKey | None = None, **changes: object) -> str:
        key = key or self.agent_key
        claims = {
            "jti": secrets.token_hex(16),
            "htm": "POST",
            "htu": ENDPOINT,
            "iat": int(self.clock()),
            "ath": access_token_hash(token),
            **changes,
        }
        header = {"alg": "ES256", "typ": "dpop+jwt", "jwk": key.as_dict(private=False)}
        return jws.serialize_compact(header, json.dumps(claims), key, ["ES256"])

    def credentials(self, token: str | None = None) -> dict[str, str]:
        token = token or self.token()
        return {"authorization": f"DPoP {token}", "dpop": self.proof(token)}

    # Requests

    def start(self, exchange: Exchange, request: "HttpCall") -> "asyncio.Task[None]":
        """Serve one request in a task of its own: the test can look while it runs."""
        return asyncio.create_task(self._serve(exchange, request))

    async def send(self, request: "HttpCall") -> Exchange:
        exchange = Exchange()
        async with asyncio.timeout(10):
            await self._serve(exchange, request)
        return exchange

    async def post(
        self, message: object, *, token: str | None = None, headers: Mapping[str, str | None] = {}
    ) -> Exchange:
        return await self.send(self.http(message, token=token, headers=headers))

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        token: str | None = None,
        **options: RequestId,
    ) -> Exchange:
        return await self.post(tool_call(name, arguments, **options), token=token)

    def http(
        self, message: object, *, token: str | None = None, headers: Mapping[str, str | None] = {}
    ) -> "HttpCall":
        """A complete request for `message`; a header of None is left out."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        lines: dict[str, str | None] = {
            "host": "127.0.0.1:8701",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "content-length": str(len(body)),
            **self.credentials(token),
            **_routing_headers(message),
            **headers,
        }
        raw = tuple(
            (name.encode(), value.encode("latin-1"))
            for name, value in lines.items()
            if value is not None
        )
        return HttpCall(headers=raw, body=(body,))

    async def _serve(self, exchange: Exchange, request: "HttpCall") -> None:
        parts = list(request.body)

        async def receive() -> dict[str, Any]:
            if parts:
                chunk = parts.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(parts)}
            if request.stalls:
                await asyncio.Event().wait()
            await exchange.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if exchange.gone.is_set():
                raise OSError
            if message["type"] == "http.response.start":
                exchange.status, exchange.headers = message["status"], message["headers"]
            else:
                exchange.chunks.append(message.get("body", b""))
                exchange.is_finished = not message.get("more_body", False)
            exchange.progress.set()

        try:
            await self.app(request.scope(), receive, send)
        finally:
            exchange.progress.set()

    # What was written down

    def events(self, kind: str | None = None) -> list[AuditEvent]:
        self.spool.flush()
        batch = self.spool.pending(10_000)
        events = [] if batch is None else list(batch.decoded.events)
        return [event for event in events if kind is None or event.type == kind]


@dataclass(frozen=True)
class HttpCall:
    """One HTTP request, byte by byte."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: tuple[bytes, ...] = ()
    method: str = "POST"
    path: str = "/crm/mcp"
    query: bytes = b""
    extensions: Mapping[str, Any] = field(default_factory=dict)
    stalls: bool = False

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": list(self.headers),
            "extensions": dict(self.extensions),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8701),
            "state": {},
        }

    def changed(self, **changes: Any) -> "HttpCall":
        return replace(self, **changes)


def meta(**extra: object) -> dict[str, Any]:
    return {VERSION_KEY: PROTOCOL_VERSION, CAPABILITIES_KEY: {}, **extra}


def message(
    method: str, params: Mapping[str, Any] | None = None, *, request_id: RequestId = 1
) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": method,
        "params": {"_meta": meta(), **(params or {})},
    }


def tool_call(
    name: str, arguments: Mapping[str, Any], *, request_id: RequestId = 1
) -> dict[str, Any]:
    return message(
        "tools/call", {"name": name, "arguments": dict(arguments)}, request_id=request_id
    )


def _routing_headers(body: object) -> dict[str, str]:
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        return {"mcp-protocol-version": PROTOCOL_VERSION}
    headers = {"mcp-protocol-version": PROTOCOL_VERSION, "mcp-method": body["method"]}
    params = body.get("params")
    if isinstance(params, dict) and isinstance(params.get("name"), str):
        headers["mcp-name"] = params["name"]
    return headers


def enforcement_view(token_key: ECKey, **changes: object) -> EnforcementView:
    public = {**token_key.as_dict(private=False), "kid": token_key.thumbprint()}
    view = EnforcementView(
        version=7,
        issued_at=NOW,
        issuer=ISSUER,
        gateway=GatewayEntry("demo", BASE_URL, "gateway:demo", ("crm",), ("https://ui.example",)),
        token_keys=(public,),
        servers=(server_entry(),),
        agents=(agent_entry(), agent_entry("other-bot", groups=())),
        policies=PolicySetEntry(3, (PolicyDocument("support", GRANTS),)),
        sequence=0,
        blocks=(),
        lease_seconds=3.0,
    )
    return msgspec.structs.replace(view, **changes)
