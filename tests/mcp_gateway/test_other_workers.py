"""A legacy session is served by the worker that owns it; others bring its requests there."""

import asyncio
import contextlib
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from countersign.worker_sockets import worker_socket
from mcp_gateway import other_workers
from mcp_gateway.app import create_app
from mcp_gateway.asgi import TARGET_ORIGIN
from mcp_gateway.eras.sealed_session import PURPOSE, SessionSeal
from mcp_gateway.eras.sessions import Sessions
from mcp_gateway.other_workers import OtherWorkers
from mcp_gateway.web_server import new_server
from tests.mcp_gateway.legacy_agent import LegacyAgent, call
from tests.mcp_gateway.rig import Rig
from tests.mcp_gateway.test_inbound import error_of

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("legacy-session-owner")]

ACCOUNT = call("get_account", {"id": 1})


@dataclass
class Pair:
    """Two workers of one gateway: `rig` answers for the one asked, the owner has its own parts."""

    rig: Rig
    owner: Rig
    sockets: Path

    @property
    def agent(self) -> LegacyAgent:
        """At the worker that is asked."""
        return LegacyAgent(self.rig)


def own_parts(rig: Rig, name: str, sockets: Path) -> None:
    """Make the rig one of several workers."""
    seal = SessionSeal(rig.gateway_key.derived(PURPOSE), secrets.token_bytes)
    object.__setattr__(rig.parts, "sessions", Sessions(seal, secrets.token_bytes, name))
    rig.app = create_app(rig.parts, others=OtherWorkers(sockets, name, seal, rig.parts.audit))


@pytest.fixture
async def pair(rig: Rig, tmp_path: Path) -> AsyncIterator[Pair]:
    owner = Rig(tmp_path / "owner", rig.view, rig.token_key)
    owner.agent_key, owner.gateway_key = rig.agent_key, rig.gateway_key
    with tempfile.TemporaryDirectory() as directory:
        sockets = Path(directory) / "w"
        own_parts(rig, "a", sockets)
        own_parts(owner, "b", sockets)
        with worker_socket(sockets, "b") as listener:
            async with served(owner, listener):
                yield Pair(rig, owner, sockets)


@contextlib.asynccontextmanager
async def served(owner: Rig, listener: object) -> AsyncIterator[uvicorn.Server]:
    server = new_server(owner.app, host="127.0.0.1", port=0, drain_seconds=0.1)
    serving = asyncio.create_task(server.serve([listener]))  # type: ignore[list-item] # a socket
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0)
    try:
        yield server
    finally:
        server.should_exit = True
        await serving


async def begun_at(owner: Rig, agent: LegacyAgent) -> None:
    """A session that the owner began, in the hands of a client that now asks the other worker."""
    there = LegacyAgent(owner)
    assert (await there.initialize()).status == 200
    agent.session = there.session


async def test_request_of_a_session_is_answered_by_its_owner(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    for _ in range(2):
        exchange = await agent.post(ACCOUNT)
        assert exchange.status == 200
        assert exchange.header("content-type") == ["application/json"]
        assert exchange.json["result"] == {"content": []}
    assert len(pair.owner.upstream.requests) == 2
    assert pair.rig.upstream.requests == []
    assert pair.rig.events("call.finished") == []
    assert len(pair.owner.events("call.finished")) == 2


async def test_session_begun_here_stays_here(pair: Pair) -> None:
    agent = pair.agent
    assert (await agent.initialize()).status == 200
    assert (await agent.post(ACCOUNT)).status == 200
    assert len(pair.rig.upstream.requests) == 1
    assert pair.owner.upstream.requests == []


async def test_owner_admits_for_itself_and_nothing_is_used_up_on_the_way(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    captured = agent.http(ACCOUNT)
    assert (await pair.rig.send(captured)).status == 200
    assert (await pair.rig.send(captured)).status == 401  # the owner knows the proof
    bare = await agent.post(ACCOUNT, {"authorization": None, "dpop": None})
    assert bare.status == 401
    assert len(bare.header("www-authenticate")) == 2
    assert len(pair.owner.events("caller.refused")) == 2
    assert pair.rig.events("caller.refused") == []


async def test_repeated_headers_reach_the_owner_repeated(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    request = agent.http(ACCOUNT)
    again = next(line for line in request.headers if line[0] == b"authorization")
    exchange = await pair.rig.send(request.changed(headers=(*request.headers, again)))
    assert exchange.status == 400
    assert len(pair.owner.events("caller.refused")) == 1


async def test_session_of_an_owner_that_is_gone_is_not_found_and_audited_here(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    for path in pair.sockets.glob("*.sock"):
        path.unlink()
    assert error_of(await agent.post(ACCOUNT)) == (404, -32600)
    assert pair.rig.events("call.refused")[-1].detail == (
        "the worker that owned the session is gone"
    )
    assert (await agent.initialize()).status == 200
    assert (await agent.post(ACCOUNT)).status == 200


async def test_socket_that_nobody_listens_at_is_an_owner_that_is_gone(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    (path,) = pair.sockets.glob("*.sock")
    path.rename(path.with_name("moved"))
    with worker_socket(pair.sockets, "b") as listener:
        listener.close()
        assert error_of(await agent.post(ACCOUNT)) == (404, -32600)


async def test_socket_that_others_may_use_is_not_used(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    (path,) = pair.sockets.glob("*.sock")
    path.chmod(0o666)
    assert error_of(await agent.post(ACCOUNT)) == (404, -32600)
    path.chmod(0o600)
    assert (await agent.post(ACCOUNT)).status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/notes/mcp"},
        {"path": "/crm/../crm/mcp"},
        {"query": b"a=1"},
        {"extensions": {TARGET_ORIGIN: "http://127.0.0.1:8701"}},
    ],
    ids=["path", "dots", "query", "absolute form"],
)
async def test_only_what_the_pipeline_would_take_is_passed_on(
    pair: Pair, changes: dict[str, object]
) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    exchange = await pair.rig.send(agent.http(ACCOUNT).changed(**changes))
    assert exchange.status in {400, 403, 404}
    assert pair.owner.upstream.requests == []
    assert pair.owner.events("call.refused") == []


@pytest.mark.parametrize(
    ("method", "header", "status"),
    [
        ("POST", (b"host", b"evil.example"), 403),
        ("DELETE", (b"transfer-encoding", b"chunked"), 400),
    ],
    ids=["two hosts", "body of a DELETE"],
)
async def test_what_would_look_better_at_the_owner_is_refused_here(
    pair: Pair, method: str, header: tuple[bytes, bytes], status: int
) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    request = agent.http(ACCOUNT) if method == "POST" else agent.bodiless(method)
    exchange = await pair.rig.send(request.changed(headers=(header, *request.headers)))
    assert exchange.status == status
    assert pair.owner.upstream.requests == []
    assert (await agent.post(ACCOUNT)).status == 200


async def test_stream_is_passed_on_and_ends_with_its_session(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    exchange, task = agent.listen()
    await exchange.until(lambda: b": listening" in exchange.body)
    assert exchange.header("content-type") == ["text/event-stream"]
    assert (await agent.delete()).status == 204
    async with asyncio.timeout(5):
        await task
    assert exchange.is_finished
    assert (await agent.post(ACCOUNT)).status == 404


async def test_agent_that_leaves_has_left_the_owner_too(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    exchange, task = agent.listen()
    await exchange.until(lambda: bool(exchange.body))
    assert len(pair.owner.parts.open_calls.streams()) == 1
    exchange.gone.set()
    async with asyncio.timeout(5):
        await task
        while pair.owner.parts.open_calls.streams():  # noqa: ASYNC110 - another server's state
            await asyncio.sleep(0.01)


async def test_shutdown_here_cuts_a_stream_that_is_passed_on(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    exchange, task = agent.listen()
    await exchange.until(lambda: bool(exchange.body))
    await pair.rig.app.drain(0)
    await pair.rig.app.drain(0)
    async with asyncio.timeout(5):
        await task
    assert not exchange.is_finished


@pytest.mark.parametrize("limit", ["MAXIMUM_AT_ONCE", "MAXIMUM_OF_PRINCIPAL"])
async def test_more_than_are_passed_on_at_once_are_refused_and_may_be_tried_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)
    monkeypatch.setattr(other_workers, limit, 1)
    exchange, task = agent.listen()
    await exchange.until(lambda: bool(exchange.body))
    refused = await agent.post(ACCOUNT)
    assert (refused.status, refused.json["error"]["data"]) == (503, {"retryable": True})
    assert [event.status for event in pair.rig.events("call.refused")] == [503]
    exchange.gone.set()
    async with asyncio.timeout(5):
        await task
    assert (await agent.post(ACCOUNT)).status == 200


async def test_owner_that_dies_with_the_request_is_a_503(pair: Pair) -> None:
    agent = pair.agent
    await begun_at(pair.owner, agent)

    async def answer_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    (path,) = pair.sockets.glob("*.sock")
    path.unlink()
    server = await asyncio.start_unix_server(answer_nothing, path)
    path.chmod(0o600)
    try:
        exchange = await agent.post(ACCOUNT)
    finally:
        server.close()
        await server.wait_closed()
    assert exchange.status == 503
    assert "ended" in exchange.json["error"]["message"]
    assert [event.status for event in pair.rig.events("call.refused")] == [503]


def test_sockets_of_dead_workers_are_removed_and_those_of_living_ones_stay() -> None:
    with tempfile.TemporaryDirectory() as directory:
        sockets = Path(directory) / "w"
        with worker_socket(sockets, "alive"):
            with worker_socket(sockets, "dead") as listener:
                listener.close()
                with worker_socket(sockets, "new"):
                    assert sorted(path.stem for path in sockets.iterdir()) == ["alive", "new"]
            assert [path.stem for path in sockets.iterdir()] == ["alive"]
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert list(sockets.iterdir()) == []


def test_worker_that_begins_meanwhile_leaves_a_socket_alone_that_does_not_listen_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_mode, is_first = Path.chmod, threading.Event()

    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as other:
        sockets = Path(directory) / "w"

        def begun_beside() -> bool:
            with worker_socket(sockets, "two"):
                return True

        def begin_another(path: Path, mode: int, **rest: bool) -> None:
            set_mode(path, mode, **rest)
            if path.stem == "one" and not is_first.is_set():
                is_first.set()
                beside.append(other.submit(begun_beside))
                wait(beside, timeout=0.2)  # without a lock it is through by then

        beside: list[Future[bool]] = []
        monkeypatch.setattr(Path, "chmod", begin_another)
        with worker_socket(sockets, "one"):
            assert beside[0].result(timeout=10)
            assert (sockets / "one.sock").is_socket()
