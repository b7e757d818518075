"""The gateway against the real authorization server, in one process and without sockets."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from audit_log.search import AuditFilter
from audit_log.spool import Spool
from authz_server.issuing.signing_keys import KeyPurpose
from mcp_gateway.app import create_app
from mcp_gateway.authority import AuthorityAnswer, AuthorityRequest, AuthorityStream
from mcp_gateway.control_client import ControlClient
from mcp_gateway.control_session import ControlSession
from mcp_gateway.enforcement import NotServing
from mcp_gateway.enrolment import EnrolmentError, enrol
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.parts import assemble
from mcp_gateway.proof_memory import ProofMemory
from registry.blocks import BlockKind
from tests.authz_server.back_half import (
    API_KEY,
    ISSUER,
    NOTES,
    Authority,
    payload_of,
    start_authority,
)
from tests.authz_server.back_half import tool as tool_definition
from tests.mcp_gateway.rig import Exchange, FakeUpstream, HttpCall, Rig, rpc_reply, tool_call
from token_exchange.claims import (
    AccessTokenClaims,
    AuthorizationDetail,
    Confirmation,
    JwkThumbprint,
)
from token_exchange.proof_of_possession import access_token_hash

pytestmark = pytest.mark.anyio


class InProcessAuthority:
    """Reaches the authorization server's ASGI application directly, streams included."""

    def __init__(self, authority: Authority) -> None:
        self.app = authority.app
        self.exchanges = 0

    async def ask(self, request: AuthorityRequest) -> AuthorityAnswer:
        self.exchanges += b"token-exchange" in request.body
        async with self._send(request) as (status, headers, chunks):
            body = b"".join([chunk async for chunk in chunks])
            return AuthorityAnswer(status, headers, body)

    @asynccontextmanager
    async def listen(self, request: AuthorityRequest) -> AsyncIterator[AuthorityStream]:
        async with self._send(request) as (status, _, chunks):
            yield AuthorityStream(status, chunks)

    @asynccontextmanager
    async def _send(
        self, request: AuthorityRequest
    ) -> AsyncIterator[tuple[int, dict[str, str], AsyncIterator[bytes]]]:
        url = urlsplit(request.url)
        messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        sent, gone = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not sent.is_set():
                sent.set()
                return {"type": "http.request", "body": request.body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.path.encode(),
            "root_path": "",
            "query_string": url.query.encode(),
            "headers": [
                (b"host", url.netloc.encode()),
                (b"content-length", str(len(request.body)).encode()),
                *((name.encode(), value.encode()) for name, value in request.headers.items()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8700),
        }
        serving = asyncio.create_task(self.app(scope, receive, messages.put))
        try:
            start = await messages.get()
            headers = {name.decode(): value.decode() for name, value in start["headers"]}

            async def chunks() -> AsyncIterator[bytes]:
                more = True
                while more:
                    message = await messages.get()
                    more = message.get("more_body", False)
                    if message.get("body"):
                        yield message["body"]

            yield start["status"], headers, chunks()
        finally:
            gone.set()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


class Joined(Rig):
    """A rig whose gateway is enrolled at a real authority and follows it."""

    def __init__(self, authority: Authority, directory: Path, join: str) -> None:
        self.real = authority
        self.join = join
        self.clock = cast("Any", authority.clock)
        self.monotonic = cast("Any", asyncio.get_running_loop().time)
        self.agent_key = ECKey.generate_key("P-256")
        self.upstream = FakeUpstream()
        self.upstream.will(rpc_reply(1, {"tools": [tool_definition("get_account")]}))
        self.way = InProcessAuthority(authority)
        self.spool = Spool.open(directory / "spool", "gateway.demo", clock=self.clock)
        self.gateway_key = GatewayKey.load_or_create(directory / "key", secrets.token_bytes)
        self.parts = assemble(
            clock=self.clock,
            monotonic=self.monotonic,
            random=secrets.token_bytes,
            key=self.gateway_key,
            spool=self.spool,
            authority=self.way,
            upstream=self.upstream,
            proofs=ProofMemory(),
        )
        self.app = create_app(self.parts)

    async def enrolled(self) -> ControlClient:
        identity = await enrol(
            authority=self.way,
            key=self.gateway_key,
            issuer=ISSUER,
            join=self.join,
            clock=self.clock,
        )
        session = ControlSession(
            authority=self.way,
            key=self.gateway_key,
            identity=identity,
            clock=self.clock,
            worker=self.spool.source,
        )
        return ControlClient(session, self.parts, self.spool, self.spool.source)

    def claims(self, **changes: object) -> AccessTokenClaims:
        bound = Confirmation(JwkThumbprint(self.agent_key.thumbprint()))
        return msgspec.structs.replace(self.real.blended(cnf=bound), **changes)

    def token(self, claims: AccessTokenClaims | None = None, *, typ: str = "at+jwt") -> str:
        del typ
        return self.real.sign_token(claims or self.claims())

    def proof_at(self, token: str, url: str) -> str:
        said = {
            "jti": secrets.token_hex(16),
            "htm": "POST",
            "htu": url,
            "iat": int(self.clock()),
            "ath": access_token_hash(token),
        }
        head = {"alg": "ES256", "typ": "dpop+jwt", "jwk": self.agent_key.as_dict(private=False)}
        return jws.serialize_compact(head, json.dumps(said), self.agent_key, ["ES256"])

    def at_notes(self, token: str) -> HttpCall:
        call = tool_call("search", {"id": 1})
        request = self.http(call, token=token, headers={"dpop": self.proof_at(token, NOTES)})
        return request.changed(path="/notes/mcp")

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

    def observed(self) -> bool:
        serving = self.parts.enforcement.serving()
        return not isinstance(serving, NotServing) and bool(serving.view.servers[0].tools)


@pytest.fixture
async def joined(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Joined]:
    del anyio_backend
    authority = await start_authority(tmp_path)
    code = await authority.parts.enrolment.create_code("demo", "test", authority.now)
    control_key = ECKey.import_key(authority.parts.keys.active_public_jwk(KeyPurpose.CONTROL))
    rig = Joined(authority, tmp_path, f"{code}.{control_key.thumbprint()}")
    control = await rig.enrolled()
    background = [
        asyncio.create_task(authority.parts.live.run()),
        asyncio.create_task(control.run()),
    ]
    await rig.until(rig.observed)
    rig.upstream.will(rpc_reply(1, {"content": []}))
    yield rig
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    rig.spool.close()
    authority.database.close()


def sent_with_calls(rig: Joined, name: str) -> list[str | None]:
    """A header of each call that reached a server; looks at other servers may come between."""
    sent = range(len(rig.upstream.requests))
    is_call = [rig.upstream.sent_header("mcp-method", each) == "tools/call" for each in sent]
    return [rig.upstream.sent_header(name, each) for each in sent if is_call[each]]


async def call(rig: Joined, token: str | None = None) -> Exchange:
    return await rig.call("get_account", {"id": 1}, token=token)


@pytest.mark.requirement("C35")
@pytest.mark.requirement("C36")
async def test_call_is_made_with_a_token_the_authority_issued_for_the_target(
    joined: Joined,
) -> None:
    exchange = await call(joined)
    assert exchange.status == 200, exchange.body
    assert not exchange.json["result"].get("isError"), exchange.body
    (header,) = sent_with_calls(joined, "authorization")
    scheme, _, credential = (header or "").partition(" ")
    assert scheme == "Bearer"
    claims = payload_of(credential)
    assert claims["aud"] == "https://crm.example.com"
    assert claims["act"]["act"]["agent"] == "support-bot"
    assert claims["exp"] - claims["iat"] <= 300


async def test_static_secret_reaches_the_server_and_nobody_else(joined: Joined) -> None:
    detail = AuthorizationDetail("mcp_tool", "notes", ("search",), ("call",))
    token = joined.token(joined.claims(aud=NOTES, authorization_details=(detail,)))
    exchange = await joined.send(joined.at_notes(token))
    assert exchange.status == 200, exchange.body
    assert sent_with_calls(joined, "x-api-key") == [API_KEY]
    assert API_KEY.encode() not in exchange.body


@pytest.mark.requirement("attack-28")
async def test_kill_reaches_the_gateway_and_restore_revives_no_old_token(joined: Joined) -> None:
    token = joined.token()
    assert (await call(joined, token)).status == 200
    await joined.real.block(BlockKind.AGENT, "support-bot")
    await joined.until(lambda: joined.parts.enforcement.progress.sequence == 1)
    assert (await call(joined, token)).status == 401
    await joined.real.restore(BlockKind.AGENT, "support-bot")
    await joined.until(lambda: joined.parts.enforcement.progress.sequence == 2)
    assert (await call(joined, token)).status == 401


async def test_audit_of_a_call_arrives_at_the_authority_complete(joined: Joined) -> None:
    await call(joined)
    store, wanted = joined.real.parts.audit_store, AuditFilter(agent="support-bot")
    await joined.until(lambda: len(store.search(wanted).events) == 2)
    found = store.search(wanted)
    assert [each.event.type for each in found.events] == ["call.finished", "call.decided"]
    assert {each.event.source for each in found.events} == {joined.spool.source}


async def test_authority_that_refuses_the_credential_has_the_last_word(joined: Joined) -> None:
    claims = joined.claims(
        sub="agent:night-watch",
        sub_profile="ai_agent",
        agent="night-watch",
        client_id="night-watch",
        act=None,
        uctx=None,
        sid=None,
        gid=None,
    )
    exchange = await call(joined, joined.token(claims))
    assert exchange.json["result"]["isError"] is True
    assert exchange.json["result"]["_meta"]["category"] == "not_permitted"
    assert joined.way.exchanges > 0
    assert sent_with_calls(joined, "mcp-method") == []


async def test_join_code_is_good_once(joined: Joined) -> None:
    with pytest.raises(EnrolmentError):
        await joined.enrolled()
