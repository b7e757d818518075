"""The stdio host over its ASGI surface, with real processes behind it."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from idp_connectors.workload.unix_socket import bind_unix_socket
from mcp_gateway.stdio_host import process as process_module
from mcp_gateway.stdio_host import sessions as sessions_module
from mcp_gateway.stdio_host.app import MAXIMUM_BODY_BYTES, StdioHostApp
from mcp_gateway.stdio_host.declared import TOOLS, Handover, Limits, StdioServer
from mcp_gateway.stdio_host.server import host_server
from mcp_gateway.stdio_host.sessions import (
    IDLE_SECONDS,
    STEADY_SECONDS,
    YIELDS_SECONDS,
    Sessions,
)
from mcp_gateway.upstream.either_era import EitherEraUpstream
from mcp_gateway.upstream.http import HttpUpstream, is_private_socket
from mcp_gateway.upstream.protocol import UpstreamUnreachableError
from tests.mcp_gateway.rig import Rig, Ticker, tool_call

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

SCRIPT = Path(__file__).with_name("odd_stdio_server.py")
LAUNCHERS = {name: shutil.which(name) or "" for name in TOOLS}
NOBODY = 65_534


def declared(name: str = "odd", *arguments: str, **changes: Any) -> StdioServer:
    server = StdioServer(
        name=name,
        command=(sys.executable, "-I", str(SCRIPT), *arguments),
        working_directory="/",
        environment={"LANG": "C.UTF-8"},
        user=None,
        limits=Limits(None, None, 64, None, 16),
        per_principal=False,
        maximum_processes=2,
        handover=None,
        call_seconds=20.0,
        keeps_stderr=False,
    )
    return replace(server, **changes)


@dataclass
class Reply:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        parts = self.body.split(b"\n\n")
        return [json.loads(part.partition(b"data: ")[2]) for part in parts if part]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.progress.clear()
                await self.progress.wait()


class Host:
    def __init__(self, *servers: StdioServer) -> None:
        self.clock = Ticker(1000.0)
        self.sessions = Sessions({each.name: each for each in servers}, LAUNCHERS, self.clock)
        self.app = StdioHostApp(self.sessions)

    def send(
        self, body: bytes, path: str = "/odd", method: str = "POST", **headers: str
    ) -> "asyncio.Task[Reply]":
        return asyncio.create_task(self._serve(body, path, method, Reply(), headers))

    def start(self, reply: Reply, message: object, **headers: str) -> "asyncio.Task[Reply]":
        """Send one message; its reply can be looked at while it comes."""
        body = json.dumps(message).encode()
        return asyncio.create_task(self._serve(body, "/odd", "POST", reply, headers))

    async def _serve(
        self, body: bytes, path: str, method: str, reply: Reply, headers: dict[str, str]
    ) -> Reply:
        sent = [body]

        async def receive() -> MutableMapping[str, Any]:
            if sent:
                return {"type": "http.request", "body": sent.pop(), "more_body": False}
            await reply.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                reply.body += message.get("body", b"")
            reply.progress.set()

        lines = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        scope = {"type": "http", "path": path, "method": method, "headers": lines}
        async with asyncio.timeout(30):
            await self.app(scope, receive, send)
        return reply

    async def post(self, message: object, path: str = "/odd", **headers: str) -> Reply:
        return await self.send(json.dumps(message).encode(), path, **headers)

    async def begin(self, path: str = "/odd", **headers: str) -> str:
        reply = await self.post(INITIALIZE, path, **headers)
        assert reply.status == 200, reply.body
        return reply.headers["mcp-session-id"]


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}},
}


def call(name: str, request_id: object = 1, token: object = None, **arguments: object) -> Any:
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    if token is not None:
        params["_meta"] = {"progressToken": token, "traceparent": "t"}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


@asynccontextmanager
async def host(*servers: StdioServer) -> AsyncIterator[Host]:
    running = Host(*(servers or (declared(),)))
    try:
        yield running
    finally:
        await running.sessions.aclose()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a process has no event for it
            await asyncio.sleep(0.01)


async def pid_of(running: Host, session: str, path: str = "/odd", **headers: str) -> int:
    reply = await running.post(call("echo"), path, mcp_session_id=session, **headers)
    return int(reply.json["result"]["pid"])


@pytest.mark.requirement("stdio-host")
async def test_process_has_nothing_but_what_was_declared() -> None:
    public = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    user = (NOBODY, NOBODY) if os.geteuid() == 0 and public else None
    command = (public or sys.executable, "-I", "-c", SCRIPT.read_text())
    async with host(declared(user=user, command=command)) as running:
        session = await running.begin(authorization="Bearer secret")
        reply = await running.post(
            call("facts"), mcp_session_id=session, authorization="Bearer secret"
        )
    assert reply.json["result"] == {
        "environment": {"LANG": "C.UTF-8"},
        "open_files": 64,
        "core": 0,
        "no_new_privileges": "1",
        "groups": "" if user else " ".join(map(str, os.getgroups())),
        "uid": NOBODY if user else os.geteuid(),
        "cwd": "/",
        "session": True,
    }


async def test_answer_keeps_its_bytes_and_the_callers_id() -> None:
    async with host() as running:
        session = await running.begin()
        reply = await running.post(call("exact", "mine"), mcp_session_id=session)
        assert reply.body == (
            b'{"jsonrpc":"2.0","id":"mine","result":{"n":12345678901234567890123}}'
        )
        assert reply.headers["content-type"] == "application/json"


async def test_sessions_of_a_shared_process_may_use_the_same_ids_and_tokens() -> None:
    async with host() as running:
        first, second = await running.begin(), await running.begin()
        assert first != second
        replies = await asyncio.gather(
            *[
                running.post(call("progress", 1, "token"), mcp_session_id=session)
                for session in (first, second)
            ]
        )
        pids = {await pid_of(running, session) for session in (first, second)}
    assert len(pids) == 1
    for reply in replies:
        assert reply.headers["content-type"] == "text/event-stream"
        notes, final = reply.events[:-1], reply.events[-1]
        assert [(n["params"]["progressToken"], n["params"]["progress"]) for n in notes] == [
            ("token", 1),
            ("token", 2),
        ]
        assert final["id"] == 1


async def test_what_a_server_asks_is_refused_and_what_it_babbles_is_ignored() -> None:
    async with host() as running:
        session = await running.begin()
        reply = await running.post(call("odd"), mcp_session_id=session)
    sampling, ping = sorted(reply.json["result"]["refused"], key=lambda each: str(each["id"]))
    assert (sampling["id"], sampling["error"]["code"]) == ("s-1", -32601)
    assert ping == {"jsonrpc": "2.0", "id": "s-2", "result": {}}


@pytest.mark.requirement("stdio-own-process")
async def test_personal_credential_has_a_process_of_its_own_and_only_there() -> None:
    server = declared(
        per_principal=True, handover=Handover("TOKEN", "authorization"), environment={}
    )
    async with host(server) as running:
        seen = []
        for secret in ("alice-secret", "bob-secret"):
            headers = {"authorization": f"Bearer {secret}"}
            session = await running.begin(**headers)
            reply = await running.post(call("facts"), mcp_session_id=session, **headers)
            seen.append(
                (reply.json["result"]["environment"], await pid_of(running, session, **headers))
            )
            swapped = await running.post(
                call("facts"), mcp_session_id=session, authorization="Bearer other"
            )
            assert swapped.status == 404
        assert [environment for environment, _ in seen] == [
            {"TOKEN": "alice-secret"},
            {"TOKEN": "bob-secret"},
        ]
        assert seen[0][1] != seen[1][1]
        await until(lambda: not any(is_running(pid) for _, pid in seen))


@pytest.mark.requirement("stdio-own-process")
async def test_end_of_a_session_ends_its_own_process_but_no_shared_one() -> None:
    async with host(declared(), declared("own", per_principal=True)) as running:
        for path, survives in (("/odd", True), ("/own", False)):
            session = await running.begin(path)
            pid = await pid_of(running, session, path)
            ended = await running.send(b"", path, "DELETE", mcp_session_id=session)
            assert ended.status == 200
            again = await running.post(call("echo"), path, mcp_session_id=session)
            assert again.status == 404
            if not survives:
                await until(lambda pid=pid: not is_running(pid))  # type: ignore[misc]
            assert is_running(pid) is survives


async def test_processes_of_one_server_are_bounded() -> None:
    async with host(declared(per_principal=True)) as running:
        sessions = [await running.begin(), await running.begin()]
        assert (await running.post(INITIALIZE)).status == 503
        await running.send(b"", "/odd", "DELETE", mcp_session_id=sessions[0])
        await running.begin()


@pytest.mark.requirement("trap-one-starves-all")
async def test_processes_of_one_principal_leave_room_for_others() -> None:
    mallory, bob = {"countersign_holder": "m" * 64}, {"countersign_holder": "b" * 64}
    async with host(declared(per_principal=True)) as running:
        first = await running.begin(**mallory)
        second = await running.begin(**mallory)  # her own unused one makes room at once
        assert (await running.post(call("echo"), mcp_session_id=first)).status == 404
        reply = Reply()
        task = running.start(reply, call("wait", 1, "t"), mcp_session_id=second)
        await reply.until(lambda: bool(reply.body))
        refused = await running.post(INITIALIZE, **mallory)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "one principal has too many" in refused.json["error"]["message"]
        his = await running.begin(**bob)
        assert (await running.post(call("echo"), mcp_session_id=his)).status == 200
        reply.gone.set()
        await task


async def test_sessions_begun_at_once_count_against_the_share_of_their_principal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions_module, "MAXIMUM_OF_HOLDER", 3)
    async with host(declared()) as running:
        mallory = {"countersign_holder": "m" * 64}
        asked = [running.post(INITIALIZE, **mallory) for _ in range(8)]
        replies = await asyncio.gather(*asked)
        assert sorted(reply.status for reply in replies) == [200] * 3 + [503] * 5
        assert len(running.sessions) == 3


async def test_process_unused_for_long_makes_room_and_one_at_work_does_not() -> None:
    async with host(declared(per_principal=True)) as running:
        working, unused = await running.begin(), await running.begin()
        reply = Reply()
        task = running.start(reply, call("wait", 1, "t"), mcp_session_id=working)
        await reply.until(lambda: bool(reply.body))
        running.clock.now += YIELDS_SECONDS + 1
        await running.begin()
        assert (await running.post(call("echo"), mcp_session_id=unused)).status == 404
        assert (await running.post(call("echo", 2), mcp_session_id=working)).status == 200
        reply.gone.set()
        await task


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"not json", {}, 400),
        (b"[]", {}, 400),
        (b'{"jsonrpc":"2.0",\n"id":0,"method":"initialize"}', {}, 400),
        (b" " * (MAXIMUM_BODY_BYTES + 1), {}, 400),
        (json.dumps(call("echo")).encode(), {}, 400),
        (json.dumps(INITIALIZE).replace('"id": 0, ', "").encode(), {}, 400),
        (b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":[]}', {}, 400),
        (json.dumps(call("echo")).encode(), {"mcp_session_id": "unknown"}, 404),
    ],
)
async def test_request_that_makes_no_sense_is_refused(
    body: bytes, headers: dict[str, str], status: int
) -> None:
    async with host() as running:
        assert (await running.send(body, **headers)).status == status
        assert len(running.sessions) == 0


async def test_paths_methods_and_sessions_of_others_are_refused() -> None:
    async with host(declared(), declared("other")) as running:
        session = await running.begin()
        own = {"mcp_session_id": session}
        assert (await running.send(b"", "/nobody")).status == 404
        assert (await running.send(b"", "/odd", "GET", **own)).status == 405
        assert (await running.post(call("echo"), "/other", **own)).status == 404
        assert (await running.send(b"", "/other", "DELETE", **own)).status == 404
        assert (await running.send(b"", "/odd", "DELETE")).status == 404
        again = INITIALIZE | {"id": 5}
        assert (await running.post(again, **own)).status == 400
        assert (await running.post(call("echo"), **own)).status == 200


async def test_cancellation_reaches_the_process_under_its_own_number() -> None:
    async with host() as running:
        session = await running.begin()
        waiting = Reply()
        task = running.start(waiting, call("wait", 41, "t"), mcp_session_id=session)
        await waiting.until(lambda: bool(waiting.body))
        note = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": 41},
        }
        assert (await running.post(note, mcp_session_id=session)).status == 202
        leaving = Reply()
        second = running.start(leaving, call("wait", 42, "t"), mcp_session_id=session)
        await leaving.until(lambda: bool(leaving.body))
        leaving.gone.set()
        await second
        reply = await running.post(call("cancelled", 43), mcp_session_id=session)
        assert reply.json["result"]["cancelled"] == [2, 3]
        waiting.gone.set()
        await task


async def test_call_that_takes_too_long_is_ended_with_an_error() -> None:
    async with host(declared(call_seconds=0.2)) as running:
        session = await running.begin()
        reply = await running.post(call("wait", 1, "t"), mcp_session_id=session)
        assert reply.events[-1]["error"]["code"] == -32000


@pytest.mark.requirement("stdio-restarts")
async def test_process_that_dies_fails_its_calls_and_is_started_again_with_a_pause() -> None:
    async with host() as running:
        session = await running.begin()
        reply = await running.post(call("die"), mcp_session_id=session)
        assert reply.json["error"] == {"code": -32000, "message": "The server ended."}
        assert (await running.post(call("echo"), mcp_session_id=session)).status == 404
        for _ in range(3):  # asking does not make the pause longer
            refused = await running.post(INITIALIZE)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        running.clock.now += 0.6
        session = await running.begin()
        running.clock.now += STEADY_SECONDS + 1
        await running.post(call("die"), mcp_session_id=session)
        await running.begin()


@pytest.mark.requirement("stdio-restarts")
async def test_personal_process_that_dies_at_once_delays_nobody_else() -> None:
    server = declared(per_principal=True, handover=Handover("TOKEN", "authorization"))
    alice, bob = {"authorization": "Bearer alice"}, {"authorization": "Bearer bob"}
    async with host(server) as running:
        session = await running.begin(**alice)
        await running.post(call("die"), mcp_session_id=session, **alice)
        assert (await running.post(call("echo"), mcp_session_id=session, **alice)).status == 404
        assert (await running.post(INITIALIZE, **alice)).status == 503
        await running.begin(**bob)


@pytest.mark.parametrize(
    "server",
    [
        declared(command=("/nonexistent/command",)),
        declared(working_directory="/nonexistent"),
        declared("odd", "--refuse"),
        declared("odd", "--silent"),
    ],
    ids=["command", "directory", "refuses", "silent"],
)
async def test_server_that_does_not_start_is_said_and_paused_longer_each_time(
    server: StdioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "HANDSHAKE_SECONDS", 1.0)
    async with host(server) as running:
        reply = await running.post(INITIALIZE)
        assert reply.status == 503
        assert b"did not start" in reply.body
        running.clock.now += 0.6
        assert b"did not start" in (await running.post(INITIALIZE)).body
        running.clock.now += 0.6
        assert b"a moment ago" in (await running.post(INITIALIZE)).body


async def test_line_without_end_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "MAXIMUM_LINE_BYTES", 100_000)
    async with host() as running:
        session = await running.begin()
        reply = await running.post(call("long"), mcp_session_id=session)
        assert reply.json["error"]["code"] == -32000


async def test_process_that_ignores_its_end_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_module, "PATIENCE_SECONDS", 0.2)
    async with host(declared("odd", "--stubborn")) as running:
        session = await running.begin()
        reply = await running.post(call("stay"), mcp_session_id=session)
        pids = reply.json["result"]
        assert all(is_running(pid) for pid in pids.values())
    await until(lambda: not any(is_running(pid) for pid in pids.values()))


async def test_idle_sessions_are_ended() -> None:
    async with host(declared(per_principal=True)) as running:
        session = await running.begin()
        pid = await pid_of(running, session)
        running.clock.now += IDLE_SECONDS + 1
        running.sessions.sweep()
        assert len(running.sessions) == 0
        await until(lambda: not is_running(pid))


# Over its socket, behind the gateway


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@asynccontextmanager
async def listening(running: Host, path: Path, allowed_uid: int) -> AsyncIterator[None]:
    server = host_server(running.app, allowed_uid)
    listener = bind_unix_socket(path, mode=0o600)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        await task


@pytest.mark.requirement("stdio-host")
@pytest.mark.parametrize("is_allowed", [True, False])
async def test_only_the_gateways_user_is_heard(rig: Rig, folder: Path, is_allowed: bool) -> None:
    path = folder / "stdio.sock"
    allowed = os.geteuid() if is_allowed else NOBODY
    async with (
        host(declared(call_seconds=0.5)) as running,
        listening(running, path, allowed),
        HttpUpstream(stdio_socket=path) as connections,
    ):
        upstream = EitherEraUpstream(connections, rig.monotonic)
        object.__setattr__(rig.parts, "upstream", upstream)
        rig.with_server(url="stdio://odd")
        answer = await rig.post(tool_call("get_account", {"id": 1}))
        assert answer.status == (200 if is_allowed else 502)
        assert answer.json["error"]["code"] == (-32000 if is_allowed else -32004)
        assert len(running.sessions) == is_allowed
        await upstream.aclose()


@pytest.mark.parametrize(
    ("socket_mode", "folder_mode"), [(0o660, 0o700), (0o606, 0o700), (0o600, 0o720)]
)
def test_socket_that_others_could_use_or_replace_is_not_used(
    folder: Path, socket_mode: int, folder_mode: int
) -> None:
    path = folder / "stdio.sock"
    with bind_unix_socket(path, mode=0o600):
        assert is_private_socket(path)
        path.chmod(socket_mode)
        folder.chmod(folder_mode)
        assert not is_private_socket(path)


@pytest.mark.parametrize("path", [None, Path("/nonexistent/stdio.sock"), Path("/etc/passwd")])
async def test_gateway_without_a_host_cannot_reach_its_servers(rig: Rig, path: Path | None) -> None:
    async with HttpUpstream(stdio_socket=path) as connections:
        upstream = EitherEraUpstream(connections, rig.monotonic)
        object.__setattr__(rig.parts, "upstream", upstream)
        rig.with_server(url="stdio://odd")
        assert (await rig.post(tool_call("get_account", {"id": 1}))).status == 502
    assert rig.events("call.finished")[-1].error_code == UpstreamUnreachableError.code
