import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import structlog
from joserfc import jws
from joserfc.jwk import ECKey

from mcp_gateway import control_client
from mcp_gateway.authority import AuthorityAnswer, AuthorityRequest, AuthorityStream
from mcp_gateway.catalogue_reports import retry_pause
from mcp_gateway.control_client import ControlClient
from mcp_gateway.control_session import ControlRefusedError, ControlSession
from mcp_gateway.enforcement import NotServing
from mcp_gateway.enrolment import (
    EnrolmentError,
    GatewayIdentity,
    enrol,
    load_identity,
    save_identity,
)
from mcp_gateway.parts import Parts
from mcp_gateway.signed_snapshot import SnapshotError, verified_view
from mcp_gateway.upstream.server_sent_events import ServerSentEvent
from registry.blocks import BlockEntry, BlockKind
from registry.snapshot import EnforcementView
from tests.mcp_gateway.rig import (
    ISSUER,
    NOW,
    TARGET_TOKEN,
    FakeReply,
    Rig,
    enforcement_view,
    rpc_reply,
    tool_call,
)
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_streaming import NOTE, last_error, opened, stream
from token_exchange.claims import Refusal
from token_exchange.proof_of_possession import verify_dpop_proof

pytestmark = pytest.mark.anyio

CONTROL = f"{ISSUER}/control/v1"
CALL = tool_call("get_account", {"id": 1})


def signed(view: EnforcementView, key: ECKey, typ: str = "countersign-snapshot+jwt") -> bytes:
    header = {"alg": "ES256", "typ": typ, "kid": key.thumbprint()}
    return jws.serialize_compact(header, msgspec.json.encode(view), key, ["ES256"]).encode()


class FakeControl:
    """The control API and the token endpoint, with the proofs really checked."""

    def __init__(self, rig: Rig, control_key: ECKey) -> None:
        self.view, self.control_key, self.clock = rig.view, control_key, rig.clock
        self.gateway_jwk = rig.gateway_key.public_jwk
        self.served: list[str] = []
        self.bodies: dict[str, list[Any]] = {}
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.after: list[str] = []
        self.token_number = 0
        self.status: dict[str, int] = {}

    async def ask(self, request: AuthorityRequest) -> AuthorityAnswer:
        path = urlsplit(request.url).path
        self.served.append(f"{request.method} {path}")
        proof = request.headers.get("dpop")
        if path == "/oauth/token":
            form = parse_qs(request.body.decode())
            if form["grant_type"][0] == "client_credentials":
                return self._token(request, proof)
            self.bodies.setdefault("exchange", []).append(form)
            answer = {
                "access_token": TARGET_TOKEN,
                "issued_token_type": form["requested_token_type"][0],
                "token_type": "Bearer",
                "expires_in": 60,
            }
            return AuthorityAnswer(200, {}, json.dumps(answer).encode())
        self._check(request, proof)
        if (status := self.status.get(path.rpartition("/")[2])) is not None:
            return AuthorityAnswer(status, {}, b"")
        return self._control(path.rpartition("/")[2], request)

    @asynccontextmanager
    async def listen(self, request: AuthorityRequest) -> AsyncIterator[AuthorityStream]:
        self._check(request, request.headers.get("dpop"))
        self.after.append(parse_qs(urlsplit(request.url).query)["after"][0])

        async def chunks() -> AsyncIterator[bytes]:
            while (chunk := await self.events.get()) is not None:
                yield chunk

        yield AuthorityStream(200, chunks())

    def _token(self, request: AuthorityRequest, proof: str | None) -> AuthorityAnswer:
        assert proof is not None
        self._prove(proof, "POST", request.url, None)
        self.token_number += 1
        answer = {
            "access_token": f"control-{self.token_number}",
            "token_type": "DPoP",
            "expires_in": 300,
        }
        return AuthorityAnswer(200, {}, json.dumps(answer).encode())

    def _control(self, name: str, request: AuthorityRequest) -> AuthorityAnswer:
        if name == "snapshot":
            etag = f'"{self.view.version}-{self.view.sequence}"'
            if request.headers.get("if-none-match") == etag:
                return AuthorityAnswer(304, {}, b"")
            return AuthorityAnswer(200, {"etag": etag}, signed(self.view, self.control_key))
        self.bodies.setdefault(name, []).append(json.loads(request.body))
        if name == "audit":
            batch = self.bodies[name][-1]
            last = batch["events"][-1]["sequence"] if batch["events"] else batch["high_water"]
            return AuthorityAnswer(200, {}, json.dumps({"acknowledged": last}).encode())
        return AuthorityAnswer(204 if name == "acks" else 200, {}, b"{}")

    def _check(self, request: AuthorityRequest, proof: str | None) -> None:
        scheme, _, token = request.headers["authorization"].partition(" ")
        assert scheme == "DPoP"
        assert proof is not None
        url = request.url.partition("?")[0]
        self._prove(proof, request.method, url, token)

    def _prove(self, proof: str, method: str, url: str, token: str | None) -> None:
        verified = verify_dpop_proof(
            proof,
            method=method,
            uri=url,
            now=int(self.clock()),
            access_token=token,
            expected_thumbprint=ECKey.import_key(self.gateway_jwk).thumbprint(),
        )
        assert not isinstance(verified, Refusal), verified


class Channel:
    """A rig whose control channel is real and whose authority is a `FakeControl`."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.control_key = ECKey.generate_key("P-256")
        self.control = FakeControl(rig, self.control_key)
        self.identity = GatewayIdentity(
            "gateway:demo", "demo", ISSUER, dict(self.control_key.as_dict(private=False))
        )
        rig.parts.enforcement._view = None
        rig.parts.enforcement._heartbeat_at = None
        rig.parts.exchange._authority = self.control
        session = ControlSession(
            authority=self.control,
            key=rig.gateway_key,
            identity=self.identity,
            clock=rig.clock,
            worker="worker-1",
        )
        self.client = ControlClient(session, rig.parts, rig.spool, "worker-1")
        self.session = session

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.client.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)

    def tell(self, name: str, data: object) -> None:
        self.client.take(ServerSentEvent(name, msgspec.json.encode(data)))

    def beat(self) -> None:
        """The authority says that everything is here."""
        view = self.control.view
        self.tell("heartbeat", {"sequence": view.sequence, "version": view.version, "now_ms": 0})


@pytest.fixture
def channel(rig: Rig) -> Channel:
    rig.upstream.will(
        rpc_reply(1, {"tools": [{"name": "a", "inputSchema": {}}], "nextCursor": "c"}),
        rpc_reply(2, {"tools": [{"name": "b"}, "nonsense"]}),
    )
    return Channel(rig)


async def test_nothing_is_served_before_the_first_snapshot(channel: Channel) -> None:
    assert (await channel.rig.post(CALL)).status == 503
    channel.beat()  # of what we do not have
    assert (await channel.rig.post(CALL)).status == 503
    async with channel.running():
        await channel.until(lambda: channel.rig.parts.enforcement.view is not None)
    channel.beat()
    channel.rig.upstream.will(rpc_reply(1, {"content": []}))
    assert (await channel.rig.post(CALL)).status == 200


@pytest.mark.requirement("trap-stale-registry")
async def test_first_snapshot_is_no_news_and_serves_nothing(channel: Channel) -> None:
    """It may be an hour old: who has it and no stream has heard of no revocation since."""
    async with channel.running():
        await channel.until(lambda: channel.rig.parts.enforcement.view is not None)
        assert channel.rig.parts.enforcement.serving() is NotServing.STARTING
        assert (await channel.rig.post(CALL)).status == 503
        view = channel.control.view
        channel.tell("heartbeat", {"sequence": 1, "version": view.version, "now_ms": 0})
        assert channel.rig.parts.enforcement.serving() is NotServing.STARTING
        channel.beat()
        assert channel.rig.parts.enforcement.serving() is channel.rig.parts.enforcement.view


async def test_first_snapshot_is_acknowledged_with_worker_and_version(channel: Channel) -> None:
    async with channel.running():
        await channel.until(lambda: channel.control.bodies.get("acks"))
    (ack,) = channel.control.bodies["acks"]
    assert ack == {
        "worker": "worker-1",
        "sequence": 0,
        "version": 7,
        "applied_at_ms": NOW * 1000,
    }


@pytest.mark.requirement("attack-28")
async def test_revocation_event_is_applied_before_it_is_acknowledged(channel: Channel) -> None:
    async with channel.running():
        await channel.until(lambda: channel.control.after)
        channel.beat()
        event = revocation(BlockKind.AGENT, "support-bot")
        text = b"event: revocation\ndata: " + msgspec.json.encode(event) + b"\n\n"
        channel.control.events.put_nowait(text[:30])
        channel.control.events.put_nowait(text[30:])
        await channel.until(lambda: channel.control.bodies["acks"][-1]["sequence"] == 1)
    assert channel.control.after == ["0"]
    assert (await channel.rig.post(CALL)).status == 401
    assert channel.rig.upstream.forgotten == [event]


@pytest.mark.requirement("attack-28")
async def test_revocation_while_a_token_ends_is_carried_out_and_acknowledged(
    channel: Channel,
) -> None:
    rig = channel.rig
    async with channel.running():
        await channel.until(lambda: channel.control.bodies.get("catalogue"))
        channel.beat()
        calls = [await opened(rig, stream(NOTE, asyncio.Event())) for _ in range(3)]
        expiring, *_ = rig.parts.open_calls.all()
        expiring.deadline.reschedule(0)
        await asyncio.sleep(0)
        channel.tell("revocation", revocation(BlockKind.AGENT, "support-bot"))
        async with asyncio.timeout(5):
            await asyncio.gather(*(task for _, task in calls))
        await channel.until(lambda: channel.control.bodies["acks"][-1]["sequence"] == 1)
    assert len(rig.parts.exchange._cache) == 0


@pytest.mark.requirement("attack-28")
async def test_snapshot_against_which_not_every_call_was_held_is_fetched_again(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    async def fail_once(_parts: Parts) -> int:
        held.append(1)
        if len(held) == 1:
            raise ControlRefusedError
        return 0

    monkeypatch.setattr(control_client, "end_what_no_longer_stands", fail_once)
    async with channel.running():
        await channel.until(lambda: len(held) == 2)
        answered = channel.control.served.count("GET /control/v1/snapshot")
    assert answered == 2


async def test_heartbeat_renews_the_lease_only_when_everything_is_applied(
    channel: Channel,
) -> None:
    rig = channel.rig
    async with channel.running():
        await channel.until(lambda: rig.parts.enforcement.view is not None)
    channel.beat()
    rig.monotonic.now += 3.1
    assert rig.parts.enforcement.serving() is NotServing.STALE
    channel.tell("heartbeat", {"sequence": 1, "version": 7, "now_ms": 0})
    assert rig.parts.enforcement.serving() is NotServing.STALE
    channel.tell("heartbeat", {"sequence": 0, "version": 8, "now_ms": 0})
    assert rig.parts.enforcement.serving() is NotServing.STALE
    channel.tell("heartbeat", {"sequence": 0, "version": 7, "now_ms": 0})
    assert rig.parts.enforcement.serving() is rig.parts.enforcement.view


async def test_heartbeat_that_is_ahead_fetches_the_snapshot(channel: Channel) -> None:
    async with channel.running():
        await channel.until(lambda: channel.rig.parts.enforcement.view is not None)
        channel.control.view = msgspec.structs.replace(channel.control.view, version=8, sequence=4)
        channel.tell("heartbeat", {"sequence": 4, "version": 8, "now_ms": 0})
        await channel.until(lambda: channel.rig.parts.enforcement.progress.version == 8)
    assert channel.rig.parts.enforcement.progress.sequence == 4


async def test_snapshot_event_fetches_and_unknown_events_are_ignored(channel: Channel) -> None:
    async with channel.running():
        await channel.until(lambda: channel.rig.parts.enforcement.view is not None)
        channel.control.view = msgspec.structs.replace(channel.control.view, version=9)
        channel.tell("news", {"version": 9})
        channel.tell("snapshot", {"version": 9})
        await channel.until(lambda: channel.rig.parts.enforcement.progress.version == 9)


async def test_revocation_that_came_with_a_snapshot_drops_every_credential(
    channel: Channel,
) -> None:
    rig = channel.rig
    async with channel.running():
        await channel.until(lambda: channel.control.bodies.get("catalogue"))
        rig.upstream.will(rpc_reply(1, {"content": []}))
        channel.beat()
        await rig.post(CALL)
        assert len(rig.parts.exchange._cache) == 1
        channel.control.view = msgspec.structs.replace(channel.control.view, sequence=2)
        channel.tell("snapshot", {"version": 7})
        await channel.until(lambda: rig.parts.enforcement.progress.sequence == 2)
    assert len(rig.parts.exchange._cache) == 0
    assert rig.upstream.forgotten == [None]


@pytest.mark.requirement("attack-28")
async def test_snapshot_without_the_agent_ends_its_open_stream(channel: Channel) -> None:
    rig = channel.rig
    async with channel.running():
        await channel.until(lambda: channel.control.bodies.get("catalogue"))
        channel.beat()
        exchange, task = await opened(rig, stream(NOTE, asyncio.Event()))
        channel.control.view = msgspec.structs.replace(channel.control.view, version=8, agents=())
        channel.tell("snapshot", {"version": 8})
        async with asyncio.timeout(5):
            await task
    assert last_error(exchange)["code"] == -32008


async def test_older_snapshot_is_never_adopted(channel: Channel) -> None:
    async with channel.running():
        await channel.until(lambda: channel.rig.parts.enforcement.view is not None)
        channel.control.view = msgspec.structs.replace(channel.control.view, version=6)
        asked = channel.control.served.count("GET /control/v1/snapshot")
        with structlog.testing.capture_logs() as logs:
            channel.tell("snapshot", {"version": 6})
            await channel.until(
                lambda: channel.control.served.count("GET /control/v1/snapshot") > asked + 1
            )
    assert channel.rig.parts.enforcement.progress.version == 7
    assert {entry["error"] for entry in logs} == {"SnapshotError"}


async def test_blocks_never_go_back_with_a_snapshot_made_before_an_event(rig: Rig) -> None:
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot", sequence=5))
    rig.adopt(msgspec.structs.replace(rig.view, version=8, sequence=4))
    assert (await rig.post(CALL)).status == 401


async def test_tools_are_reported_with_a_discovery_credential_over_all_pages(
    channel: Channel,
) -> None:
    async with channel.running():
        await channel.until(lambda: channel.control.bodies.get("catalogue"))
    (report,) = channel.control.bodies["catalogue"]
    assert report == {
        "server": "crm",
        "tools": [{"name": "a", "inputSchema": {}}, {"name": "b"}],
    }
    (form,) = channel.control.bodies["exchange"]
    assert form["subject_token"] == ["control-1"]
    assert json.loads(form["authorization_details"][0]) == [
        {"type": "mcp_discovery", "server": "crm"}
    ]
    assert channel.rig.upstream.sent(1)["params"]["cursor"] == "c"
    assert channel.rig.upstream.sent_header("mcp-method") == "tools/list"


@pytest.mark.parametrize(
    "reply",
    [
        FakeReply(status=500, body=(b"{}",)),
        FakeReply(body=(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}',)),
        FakeReply(body=(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[]}}',)),
        FakeReply(body=(f'{{"jsonrpc":"2.0","id":1,"result":{{"t":"{TARGET_TOKEN}"}}}}'.encode(),)),
        FakeReply(media_type="text/html", body=(b"",)),
        rpc_reply(1, {"tools": 7}),
        rpc_reply(1, {"tools": [], "nextCursor": 7}),
        rpc_reply(1, {"tools": [{"name": f"t{number}"} for number in range(1001)]}),
        rpc_reply(1, {"tools": [], "_meta": "x" * (1024 * 1024)}),
        FakeReply(media_type="text/event-stream", body=(b"data:\n" * 10_001,)),
        FakeReply(body=(b'["' + b"\\u0061" * 150_000 + b'",' + b"1.5," * 20_000 + b"1]",)),
    ],
)
async def test_server_that_cannot_be_observed_is_reported_with_the_reason_and_no_tools(
    channel: Channel, reply: FakeReply
) -> None:
    channel.rig.upstream.will(reply)
    with structlog.testing.capture_logs() as logs:
        async with channel.running():
            await channel.until(lambda: channel.control.bodies.get("catalogue"))
    assert any(each["event"] == "tools_not_observed" for each in logs)
    report = channel.control.bodies["catalogue"][0]
    assert (report["server"], report["tools"]) == ("crm", [])
    assert report["error"]
    assert TARGET_TOKEN not in json.dumps([*logs, report])


async def test_listing_of_more_than_four_mebibytes_is_given_up(channel: Channel) -> None:
    padding = "x" * 900_000
    channel.rig.upstream.will(
        *[
            rpc_reply(page, {"tools": [], "nextCursor": f"{page}", "p": padding})
            for page in range(1, 6)
        ]
    )
    with structlog.testing.capture_logs() as logs:
        async with channel.running():
            await channel.until(lambda: channel.control.bodies.get("catalogue"))
    report = channel.control.bodies["catalogue"][0]
    assert (report["tools"], any(each["event"] == "tools_not_observed" for each in logs)) == (
        [],
        True,
    )
    allowed = [request.maximum_response_bytes for request in channel.rig.upstream.requests]
    assert allowed[:4] == [1_000_000] * 4  # what this server may answer at all
    assert len(allowed) == 5
    assert allowed[4] < 900_000


def test_server_that_fails_again_and_again_is_left_alone_for_longer() -> None:
    assert [retry_pause(failures) for failures in range(6)] == [2, 4, 8, 16, 32, 60]
    assert retry_pause(10_000) == 60


async def test_audit_is_pushed_in_order_and_deleted_when_acknowledged(channel: Channel) -> None:
    channel.rig.spool.flush()
    async with channel.running():
        await channel.until(lambda: channel.control.bodies.get("audit"))
        await channel.until(lambda: channel.rig.spool.pending() is None)
    (first, *_) = channel.control.bodies["audit"]
    assert first["source"] == channel.rig.spool.source
    assert [event["sequence"] for event in first["events"]] == [1]


async def test_control_token_is_renewed_before_it_ends_and_after_a_refusal(
    channel: Channel,
) -> None:
    session, control = channel.session, channel.control
    assert await session.token() == await session.token() == "control-1"
    channel.rig.clock.now = NOW + 271
    assert await session.token() == "control-2"
    control.status["acks"] = 401
    answer = await session.ask("POST", "/acks", body=b"{}")
    assert (answer.status, control.token_number) == (401, 3)


async def test_control_token_that_is_not_bound_is_refused(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unbound(_request: AuthorityRequest) -> AuthorityAnswer:
        answer = {"access_token": "t", "token_type": "Bearer", "expires_in": 300}
        return AuthorityAnswer(200, {}, json.dumps(answer).encode())

    monkeypatch.setattr(channel.control, "ask", unbound)
    with pytest.raises(ControlRefusedError):
        await channel.session.token()


def test_snapshot_is_believed_from_the_pinned_key_for_this_gateway_only(
    channel: Channel, token_key: ECKey
) -> None:
    view, key, identity = channel.control.view, channel.control_key, channel.identity
    assert verified_view(signed(view, key), identity) == view
    foreign_gateway = msgspec.structs.replace(view.gateway, name="other")
    foreign_client = msgspec.structs.replace(view.gateway, client_id="gateway:other")
    for document in (
        signed(view, token_key),
        signed(view, key, typ="JWT"),
        signed(view, key)[:-8] + b"AAAAAAAA",
        signed(enforcement_view(token_key, issuer="http://other"), key),
        signed(enforcement_view(token_key, gateway=foreign_gateway), key),
        signed(enforcement_view(token_key, gateway=foreign_client), key),
        b"not a jws",
        b"\xff",
    ):
        with pytest.raises(SnapshotError):
            verified_view(document, identity)


class FakeEnrolment:
    def __init__(self, answer: dict[str, Any], status: int = 200) -> None:
        self.answer, self.status = answer, status
        self.requests: list[AuthorityRequest] = []

    async def ask(self, request: AuthorityRequest) -> AuthorityAnswer:
        self.requests.append(request)
        return AuthorityAnswer(self.status, {}, json.dumps(self.answer).encode())

    @asynccontextmanager
    async def listen(self, _request: AuthorityRequest) -> AsyncIterator[AuthorityStream]:
        raise NotImplementedError
        yield


async def test_enrolment_proves_the_key_and_pins_the_control_key(
    channel: Channel, tmp_path: Path
) -> None:
    key, identity = channel.rig.gateway_key, channel.identity
    join = f"{'c' * 43}.{channel.control_key.thumbprint()}"
    authority = FakeEnrolment(msgspec.to_builtins(identity))
    enrolled = await enrol(
        authority=authority, key=key, issuer=ISSUER, join=join, clock=channel.rig.clock
    )
    assert enrolled == identity
    (request,) = authority.requests
    assert json.loads(request.body) == {"code": "c" * 43, "jwk": key.public_jwk}
    proof = verify_dpop_proof(
        request.headers["dpop"],
        method="POST",
        uri=f"{CONTROL}/enrol",
        now=NOW,
        access_token=None,
        expected_thumbprint=key.thumbprint,
    )
    assert not isinstance(proof, Refusal)
    path = tmp_path / "gateway.json"
    assert load_identity(path) is None
    save_identity(path, identity)
    assert load_identity(path) == identity


async def test_enrolment_with_another_control_key_or_issuer_is_refused(
    channel: Channel, token_key: ECKey
) -> None:
    good = msgspec.to_builtins(channel.identity)
    join = f"{'c' * 43}.{channel.control_key.thumbprint()}"
    other_key = {**good, "control_key": token_key.as_dict(private=False)}
    for answer, status, text in (
        (other_key, 200, join),
        ({**good, "issuer": "http://evil"}, 200, join),
        (good, 400, join),
        ({}, 200, join),
        (good, 200, "no-thumbprint"),
    ):
        with pytest.raises(EnrolmentError):
            await enrol(
                authority=FakeEnrolment(answer, status),
                key=channel.rig.gateway_key,
                issuer=ISSUER,
                join=text,
                clock=channel.rig.clock,
            )


# An authority that knows less than its gateway


def replaced(channel: Channel, **changes: Any) -> None:
    """The authority's picture becomes another one."""
    channel.control.view = msgspec.structs.replace(channel.control.view, **changes)


async def at_ten(channel: Channel) -> None:
    """Served, with ten revocations applied."""
    replaced(channel, sequence=10)
    channel.tell("snapshot", {"version": 7})
    await channel.until(lambda: channel.rig.parts.enforcement.progress.sequence == 10)
    channel.beat()
    assert channel.rig.parts.enforcement.serving() is channel.rig.parts.enforcement.view


@pytest.mark.requirement("trap-database-put-back")
async def test_database_put_back_stops_the_gateway_until_it_is_started_anew(
    channel: Channel,
) -> None:
    rig = channel.rig
    async with channel.running():
        await channel.until(lambda: rig.parts.enforcement.view is not None)
        await at_ten(channel)
        replaced(channel, sequence=5)
        for _ in range(3):
            channel.beat()
        rig.monotonic.now += 3.1
        channel.beat()
        assert rig.parts.enforcement.serving() is NotServing.STALE
        assert (await rig.post(CALL)).status == 503


@pytest.mark.requirement("trap-database-put-back")
async def test_kill_with_a_number_already_known_is_not_passed_over(channel: Channel) -> None:
    rig = channel.rig
    async with channel.running():
        await channel.until(lambda: rig.parts.enforcement.view is not None)
        await at_ten(channel)
        replaced(channel, sequence=9)
        channel.beat()
        # Before anything was fetched the tenth revocation of that database is written: a kill.
        killed = BlockEntry(BlockKind.AGENT, "support-bot", blocked=True, not_before=NOW)
        replaced(channel, sequence=10, blocks=(killed,))
        rig.monotonic.now += 3.1
        channel.beat()
        assert rig.parts.enforcement.serving() is NotServing.STALE  # equal numbers say nothing now
        await channel.until(lambda: rig.parts.enforcement.blocks.entries)
        channel.beat()
        assert (await rig.post(CALL)).status == 401


@pytest.mark.requirement("trap-database-put-back")
async def test_authority_that_is_a_moment_late_is_believed_again(channel: Channel) -> None:
    rig = channel.rig
    async with channel.running():
        await channel.until(lambda: rig.parts.enforcement.view is not None)
        await at_ten(channel)
        current = channel.control.view
        channel.tell("heartbeat", {"sequence": 9, "version": current.version, "now_ms": 0})
        asked = channel.control.served.count("GET /control/v1/snapshot")
        await channel.until(
            lambda: (
                channel.control.served.count("GET /control/v1/snapshot") > asked
                and not channel.client._is_in_doubt
            )
        )
        rig.monotonic.now += 3.1
        channel.beat()
        assert rig.parts.enforcement.serving() is rig.parts.enforcement.view


@pytest.mark.requirement("trap-database-put-back")
async def test_kill_is_not_passed_over_where_the_snapshot_is_older_than_the_events(
    channel: Channel,
) -> None:
    rig, enforcement = channel.rig, channel.rig.parts.enforcement
    async with channel.running():
        await channel.until(lambda: enforcement.view is not None)
        for number in range(1, 11):  # as events, after the snapshot, which is of before them
            event = revocation(BlockKind.TOKEN, f"tok_{number}", sequence=number)
            channel.tell("revocation", event)
        replaced(channel, sequence=10)
        channel.beat()
        assert enforcement.serving() is enforcement.view
        # The database is put back to the ninth: older than the events, younger than the snapshot.
        replaced(channel, sequence=9)
        channel.beat()
        await channel.until(lambda: enforcement.view and enforcement.view.view.sequence == 9)
        for _ in range(20):  # whatever follows from the snapshot
            await asyncio.sleep(0)
        kill = revocation(BlockKind.AGENT, "support-bot", sequence=10)
        killed = BlockEntry(kill.kind, kill.id, blocked=True, not_before=NOW)
        channel.tell("revocation", kill)  # a number it takes for known
        replaced(channel, sequence=10, blocks=(killed,))
        rig.monotonic.now += 3.1
        channel.beat()
        assert enforcement.serving() is NotServing.STALE
        await channel.until(lambda: not channel.client._is_in_doubt)
        channel.beat()
        assert enforcement.serving() is enforcement.view
        assert (await rig.post(CALL)).status == 401
