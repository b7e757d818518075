"""Several workers of one Gateway behind one port, with a real Valkey: as strict as one.

A worker is addressed by its own Unix socket where a test must know which one answers; elsewhere by
the port they share.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from compose.demo.stack import COUNTERSIGN, Stack
from mcp_gateway.shared_proofs import mark_key
from tests.processes import test_crash
from tests.processes.test_crash import (
    TOOLS,
    UNIQUE,
    Callers,
    Recorded,
    calls_of_upstream,
)
from tests.services import valkey
from tests.services.common import service
from tests.services.valkey import ValkeyProcess
from tests.stack import (
    TestAgent,
    admin,
    await_event,
    free_ports,
    held_port,
    in_parallel,
    mcp_headers,
    prepare,
    tell,
    tool_call,
)
from tests.witness import all_audit_events

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

WORKERS: Final = 2
LEGACY: Final = "2025-11-25"
PATIENT: Final = "500"  # a loaded test machine is slower than 20 ms


def new_way(path: Path) -> httpx2.Client:
    """A client whose requests all go to one worker."""
    transport = httpx2.HTTPTransport(uds=str(path))
    return httpx2.Client(transport=transport, timeout=20, trust_env=False)


def health_at(path: Path) -> str:
    """What one worker says of itself."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            return str(json.loads(answer.read().partition(b"\r\n\r\n")[2])["status"])


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@dataclass
class Workers:
    """A stack whose gateway has several workers, and the ways to each."""

    stack: Stack
    server: ValkeyProcess
    _ways: list[httpx2.Client] = field(default_factory=list)

    @property
    def sockets(self) -> list[Path]:
        """One of each worker that listens."""
        found = (self.stack.directory / "gateway" / "workers").glob("*.sock")
        return sorted(path for path in found if is_listening(path))

    def way(self, path: Path) -> httpx2.Client:
        """A client whose requests all go to one worker."""
        way = new_way(path)
        self._ways.append(way)
        return way

    def ways(self) -> list[httpx2.Client]:
        self.await_serving()
        return [self.way(path) for path in self.sockets]

    def states(self) -> list[str]:
        """What each worker says of its health."""
        found = []
        for path in self.sockets:
            with contextlib.suppress(OSError, ValueError):
                found.append(health_at(path))
        return found

    def await_states(self, *states: str, seconds: float = 30) -> float:
        began = time.monotonic()
        while self.states() != list(states):
            assert time.monotonic() - began < seconds, (self.states(), states)
            time.sleep(0.05)
        return time.monotonic() - began

    def await_serving(self, seconds: float = 30) -> float:
        return self.await_states(*["serving"] * WORKERS, seconds=seconds)

    def processes(self) -> list[int]:
        """The ids of the worker processes."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (
                    (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                )
                environment = (entry / "environ").read_bytes() if b"--listen-fd" in words else b""
                if str(self.stack.directory / "gateway").encode() in environment:
                    found.append(int(entry.name))
        return sorted(found)

    def close(self) -> None:
        for way in self._ways:
            way.close()


@contextlib.contextmanager
def running_workers(directory: Path, **environment: str) -> Iterator[Workers]:
    with service("Valkey"):
        valkey.install()
    with valkey.running() as server:
        own = {
            "COUNTERSIGN_VALKEY_URL": server.url,
            "COUNTERSIGN_VALKEY_TIMEOUT_MS": PATIENT,
            "COUNTERSIGN_GATEWAY_WORKERS": str(WORKERS),
        }
        with Stack(directory, ports=free_ports(), environment=own | environment) as stack:
            age(server, stack)
            stack.start_all()
            prepare(stack)
            workers = Workers(stack, server)
            workers.await_serving()
            yield workers
            workers.close()


def age(server: ValkeyProcess, stack: Stack) -> None:
    """Begin a memory that is older than any proof: no test waits for the first seconds."""
    run = server.command("INFO", "server")["run_id"]
    key = mark_key(stack.issuer, stack.gateway)
    server.command("SET", key, f"{run}.{secrets.token_hex(16)}.0")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    # Short: the path of a Unix socket has at most 107 bytes.
    with running_workers(tmp_path_factory.mktemp("w")) as running:
        yield running


@pytest.fixture
def agent(workers: Workers) -> TestAgent:
    workers.await_serving()
    agent = TestAgent(workers.stack)
    agent.token_for("alice", "crm", TOOLS)
    return agent


def call_by(way: httpx2.Client, agent: TestAgent, headers: dict[str, str]) -> httpx2.Response:
    """One call with given credentials, by one worker."""
    return way.post(
        agent.stack.endpoint("crm"),
        json=tool_call("get_account", {"id": next(UNIQUE)}),
        headers=mcp_headers("tools/call", "get_account") | headers,
    )


def fresh(agent: TestAgent, method: str = "POST") -> dict[str, str]:
    return agent.headers(method, agent.stack.endpoint("crm"), agent.tokens["crm"])


# Proofs


@pytest.mark.requirement("attack-15")
@pytest.mark.requirement("workers-share-proofs")
def test_proof_used_at_one_worker_is_refused_by_the_other(
    workers: Workers, agent: TestAgent
) -> None:
    first, second = workers.ways()
    headers = fresh(agent)
    assert call_by(first, agent, headers).status_code == 200
    refused = call_by(second, agent, headers)
    assert refused.status_code == 401
    assert "used before" in refused.headers.get_list("www-authenticate")[1]
    assert call_by(second, agent, fresh(agent)).status_code == 200
    await_event(workers.stack, type="caller.refused", detail="replayed")


@pytest.mark.requirement("attack-15")
@pytest.mark.requirement("workers-share-proofs")
def test_of_twenty_calls_with_one_proof_at_both_workers_one_is_served(
    workers: Workers, agent: TestAgent
) -> None:
    ways, headers = workers.ways(), fresh(agent)
    turns = iter(range(20))
    answers = in_parallel(20, lambda: call_by(ways[next(turns) % 2], agent, headers).status_code)
    assert sorted(answers) == [200] + [401] * 19


# Legacy sessions


class Session:
    """One legacy client; each request goes the way it is told."""

    def __init__(self, agent: TestAgent) -> None:
        self.agent = agent
        self.url = agent.stack.endpoint("crm")
        self.id = ""

    def post(
        self, way: httpx2.Client, method: str, params: dict[str, Any] | None = None, **more: Any
    ) -> httpx2.Response:
        message = {"jsonrpc": "2.0", "method": method} | ({"params": params} if params else {})
        if not method.startswith("notifications/"):
            message |= {"id": more.get("request_id", 1)}
        return way.post(self.url, json=message, headers=self.headers("POST"))

    def headers(self, method: str) -> dict[str, str]:
        own = {"accept": "application/json, text/event-stream"}
        if self.id:
            own |= {"mcp-session-id": self.id, "mcp-protocol-version": LEGACY}
        return own | fresh(self.agent, method)

    def begin(self, way: httpx2.Client) -> httpx2.Response:
        self.id = ""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "old", "version": "1"},
        }
        answer = self.post(way, "initialize", params)
        self.id = answer.headers.get("mcp-session-id", "")
        return answer

    def call(self, way: httpx2.Client, tool: str = "get_account", **more: Any) -> httpx2.Response:
        arguments = {"id": next(UNIQUE)} | more.pop("arguments", {})
        return self.post(way, "tools/call", {"name": tool, "arguments": arguments}, **more)


@pytest.mark.requirement("legacy-session-owner")
def test_legacy_session_is_served_at_every_worker_by_the_one_that_owns_it(
    workers: Workers, agent: TestAgent
) -> None:
    ways, session = workers.ways(), Session(agent)
    before = len(sources_of_finished(workers.stack))
    for owner in ways:
        assert session.begin(owner).status_code == 200
        for way in ways:
            assert session.post(way, "tools/list").json()["result"]["tools"]
            assert "structuredContent" in session.call(way).text
            # A proof that the worker asked first had used up would be refused by the owner.
            assert session.post(way, "ping").json()["result"] == {}
    deadline = time.monotonic() + 10
    while len(finished := sources_of_finished(workers.stack)[before:]) < 4:
        assert time.monotonic() < deadline, finished
        time.sleep(0.05)
    assert finished[0] == finished[1] != finished[2] == finished[3]


def sources_of_finished(stack: Stack) -> list[str]:
    """The worker of each finished call there is an event of, in the order of time."""
    events = sorted(all_audit_events(stack), key=lambda event: event["timestamp"])
    return [event["source"] for event in events if event["type"] == "call.finished"]


@pytest.mark.requirement("legacy-session-owner")
@pytest.mark.requirement("trap-session-swapped")
def test_another_persons_token_at_another_worker_does_not_enter_a_session(
    workers: Workers, agent: TestAgent
) -> None:
    ways, session = workers.ways(), Session(agent)
    session.begin(ways[0])
    bob = TestAgent(workers.stack)
    bob.token_for("bob", "crm", TOOLS)
    for way in ways:
        session.agent = bob
        assert session.post(way, "ping").status_code == 404
        session.agent = agent
        assert session.post(way, "ping").status_code == 200
        bare = way.post(
            session.url,
            json={"jsonrpc": "2.0", "id": 1, "method": "ping"},
            headers={"accept": "application/json, text/event-stream", "mcp-session-id": session.id},
        )
        assert bare.status_code == 401


@pytest.mark.requirement("legacy-session-owner")
def test_cancellation_at_another_worker_reaches_the_call(
    workers: Workers, agent: TestAgent
) -> None:
    (owner, other), session = workers.ways(), Session(agent)
    session.begin(owner)
    ended: list[float] = []
    began = time.monotonic()

    def watch() -> None:
        arguments = {"seconds": 30}
        with contextlib.suppress(httpx2.HTTPError):
            session.call(owner, "watch_account", arguments=arguments, request_id="long")
        ended.append(time.monotonic() - began)

    calling = threading.Thread(target=watch)
    calling.start()
    while not ended and time.monotonic() - began < 20:
        session.post(other, "notifications/cancelled", {"requestId": "long"})
        time.sleep(0.1)
    calling.join(40)
    assert ended[0] < 20
    await_event(workers.stack, type="call.finished", error_code="cancelled")


@pytest.mark.requirement("legacy-session-owner")
def test_session_ended_at_one_worker_is_ended_at_all(workers: Workers, agent: TestAgent) -> None:
    ways, session = workers.ways(), Session(agent)
    session.begin(ways[0])
    assert session.post(ways[1], "ping").status_code == 200
    assert ways[1].delete(session.url, headers=session.headers("DELETE")).status_code == 204
    for way in ways:
        assert session.post(way, "ping").status_code == 404
    assert session.begin(ways[1]).status_code == 200
    assert session.post(ways[0], "ping").status_code == 200


@pytest.mark.requirement("legacy-session-owner")
def test_listening_stream_opened_at_another_worker_ends_with_a_kill(
    workers: Workers, agent: TestAgent
) -> None:
    (owner, other), session = workers.ways(), Session(agent)
    session.begin(owner)
    with other.stream("GET", session.url, headers=session.headers("GET")) as stream:
        assert stream.status_code == 200
        chunks = stream.iter_raw()
        assert next(chunks).startswith(b": listening")
        killed_for_a_moment(workers, agent)
        assert not [chunk for chunk in chunks if b"data" in chunk]


def killed_for_a_moment(workers: Workers, agent: TestAgent) -> dict[str, Any]:
    """Kill the agent, wait until every worker has said it acts on it, and restore it."""
    with admin(workers.stack) as api:
        body = {"kind": "agent", "id": agent.name, "reason": "test"}
        block = dict(api.call("POST", "/blocks", json=body))
        try:
            deadline = time.monotonic() + 10
            while True:
                acks = api.call("GET", f"/blocks/acks/{block['sequence']}")["acks"]
                applied = [ack for ack in acks if ack["applied_at_ms"] is not None]
                if len(applied) >= WORKERS:
                    return block | {"acks": applied}
                assert time.monotonic() < deadline, acks
                time.sleep(0.01)
        finally:
            api.call("DELETE", f"/blocks/agent/{agent.name}", query={"reason": "test"})
            # An epoch is rounded up, and restoring moves it: nothing is issued before it is over.
            epochs = [each["not_before"] for each in api.call("GET", "/blocks")["blocks"]]
            while int(time.time()) <= max(epochs):  # noqa: TID251 - real processes
                time.sleep(0.05)


# Revocation


@pytest.mark.requirement("attack-28")
def test_kill_is_acknowledged_by_every_worker_and_each_refuses(
    workers: Workers, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = workers.ways()
    assert [call_by(way, agent, fresh(agent)).status_code for way in ways] == [200, 200]
    killed = killed_for_a_moment(workers, agent)
    names = {ack["worker"].rpartition(".")[2] for ack in killed["acks"]}
    assert names == {path.stem for path in workers.sockets}
    assert [call_by(way, agent, fresh(agent)).status_code for way in ways] == [401, 401]
    after = [ack["applied_at_ms"] - killed["at_ms"] for ack in killed["acks"]]
    tell(capsys, f"kill applied by {len(after)} workers after {after} ms")
    assert max(after) < 1000


# What dies


@pytest.mark.requirement("workers-lose-nothing")
def test_worker_killed_under_load_takes_nothing_with_it(
    workers: Workers,
    agent: TestAgent,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(test_crash, "CALLERS", 3)
    took = []
    with Callers(agent) as callers:
        for _ in range(3):
            callers.await_served()
            os.kill(workers.processes()[0], signal.SIGKILL)
            took.append(callers.await_served())
            workers.await_serving()
        callers.await_served()
    await_adopted_but(workers.stack, WORKERS)
    recorded, upstream = (
        Recorded.of(events_once_calls_are_over(workers.stack)),
        calls_of_upstream(workers.stack),
    )
    tell(
        capsys,
        f"next call served {[round(s * 1000) for s in took]} ms after a worker was killed;"
        f" {len(callers.served)} served, {len(recorded.died)} unknown",
    )
    assert upstream.keys() <= recorded.intents.keys()
    for unique in callers.served:
        digest, outcome = recorded.outcome_of(unique)
        assert digest in upstream
        assert outcome in {"succeeded", "unknown"}
    assert max(took) < 5


def events_once_calls_are_over(stack: Stack, seconds: float = 30) -> list[dict[str, Any]]:
    """Every event, once no call is under way: one whose agent went away is, for a moment."""
    deadline = time.monotonic() + seconds
    while True:
        events = all_audit_events(stack)
        decided, finished = (
            {
                event["decision_id"]
                for event in events
                if event["type"] == kind and event["outcome"] != "denied"
            }
            for kind in ("call.decided", "call.finished")
        )
        if decided == finished:
            return events
        assert time.monotonic() < deadline, decided ^ finished
        time.sleep(0.1)


def await_adopted_but(stack: Stack, alive: int, seconds: float = 30) -> None:
    """Until nothing is left of the dead but their events."""
    spool, deadline = stack.directory / "gateway" / "spool", time.monotonic() + seconds
    while len(left := [path for path in spool.iterdir() if path.is_dir()]) > alive:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.requirement("legacy-session-owner")
def test_session_of_a_killed_worker_is_gone_and_another_begins(
    workers: Workers, agent: TestAgent
) -> None:
    workers.await_serving()
    sockets, session = workers.sockets, Session(agent)
    other = workers.way(sockets[1])
    assert session.begin(workers.way(sockets[0])).status_code == 200
    assert session.post(other, "ping").status_code == 200
    os.kill(process_of(workers, sockets[0]), signal.SIGKILL)
    while is_listening(sockets[0]):
        time.sleep(0.01)
    refused = session.post(other, "ping")
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        404,
        "There is no such session.",
    )
    why = "the worker that owned the session is gone"
    assert await_event(workers.stack, type="call.refused", detail=why)["status"] == 404
    assert session.begin(other).status_code == 200
    assert "structuredContent" in session.call(other).text
    workers.await_serving()


def process_of(workers: Workers, path: Path) -> int:
    """The worker that listens at a socket: its spool is locked by it alone."""
    source = f"gateway.{workers.stack.gateway}.{path.stem}"
    lock = workers.stack.directory / "gateway" / "spool" / source / "lock"
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and int(words[5].split(":")[2]) == inode:
            return int(words[4])
    raise AssertionError(source)


@pytest.mark.requirement("proof-memory-away")
def test_without_valkey_every_call_is_refused_and_with_it_served_again(
    workers: Workers, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    ways, captured = workers.ways(), fresh(agent)
    assert call_by(ways[0], agent, captured).status_code == 200
    workers.server.kill()
    try:
        workers.await_states(*["proof_memory_away"] * WORKERS)
        for way in ways:
            refused = call_by(way, agent, fresh(agent))
            assert refused.status_code == 503
            assert "was not made" in refused.json()["error"]["message"]
    finally:
        workers.server.start()
    took = workers.await_serving()
    await_event(workers.stack, type="caller.refused", error_code="proof_memory_unavailable")
    # It was in a memory that is gone; a minute is not over yet.
    for way in ways:
        assert call_by(way, agent, captured).status_code == 401
        assert call_by(way, agent, fresh(agent)).status_code == 200
    tell(capsys, f"served again {took:.1f} s after Valkey was back, 6 s of them for old proofs")


@pytest.mark.requirement("proof-memory-away")
@pytest.mark.requirement("attack-15")
def test_flushed_valkey_lets_no_proof_in_again(workers: Workers, agent: TestAgent) -> None:
    ways, captured = workers.ways(), fresh(agent)
    assert call_by(ways[0], agent, captured).status_code == 200
    workers.server.command("FLUSHALL")
    answers = [call_by(way, agent, captured).status_code for way in ways]
    assert set(answers) <= {401, 503}
    workers.await_serving()
    assert [call_by(way, agent, captured).status_code for way in ways] == [401, 401]
    assert [call_by(way, agent, fresh(agent)).status_code for way in ways] == [200, 200]


@pytest.mark.requirement("workers-lose-nothing")
def test_parent_that_is_killed_takes_its_workers_along_and_is_started_again(
    workers: Workers, agent: TestAgent
) -> None:
    workers.await_serving()
    before = workers.processes()
    stat = Path(f"/proc/{before[0]}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while set(workers.processes()) & set(before):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers.await_serving()
    assert agent.call("crm", "get_account", {"id": next(UNIQUE)}).status_code == 200


# Who may serve


@pytest.mark.requirement("one-worker-per-gateway")
@pytest.mark.parametrize("shares", [True, False], ids=["another Valkey", "none"])
def test_worker_with_another_memory_is_never_let_in(
    workers: Workers, agent: TestAgent, tmp_path: Path, shares: bool
) -> None:
    ways, stack = workers.ways(), workers.stack
    for name in ("gateway.key", "enrolment.json"):  # as on another machine, of the same Gateway
        shutil.copy(stack.directory / "gateway" / name, tmp_path)
    with contextlib.ExitStack() as opened:
        with contextlib.ExitStack() as holding:
            port = held_port(holding)
        stranger = replace(stack, environment=dict(stack.environment), processes=[])
        del stranger.environment["COUNTERSIGN_VALKEY_URL"]
        if shares:
            stranger.environment["COUNTERSIGN_VALKEY_URL"] = opened.enter_context(
                valkey.running()
            ).url
        own = {
            "COUNTERSIGN_GATEWAY_PORT": str(port),
            "COUNTERSIGN_GATEWAY_WORKERS": "1",
            "COUNTERSIGN_STATE_DIR": str(tmp_path),
        }
        before = len(refusals(stack))
        process = stranger.start("stranger", [*COUNTERSIGN, "mcp-gateway"], **own)
        opened.callback(process.stop)
        deadline = time.monotonic() + 30
        while len(refusals(stack)) < before + 2:
            assert time.monotonic() < deadline, process.tail()
            time.sleep(0.1)
        assert "while gateway.main." in refusals(stack)[-1]["detail"]
        answer = stack.http.get(f"http://127.0.0.1:{port}/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "starting")
        assert [call_by(way, agent, fresh(agent)).status_code for way in ways] == [200, 200]


@pytest.mark.requirement("one-worker-per-gateway")
@pytest.mark.requirement("workers-share-proofs")
def test_worker_of_another_machine_with_the_same_valkey_serves_and_shares_proofs(
    workers: Workers, agent: TestAgent, tmp_path: Path
) -> None:
    ways, stack = workers.ways(), workers.stack
    for name in ("gateway.key", "enrolment.json"):
        shutil.copy(stack.directory / "gateway" / name, tmp_path)
    with contextlib.ExitStack() as holding:
        port = held_port(holding)
    own = {
        "COUNTERSIGN_GATEWAY_PORT": str(port),
        "COUNTERSIGN_GATEWAY_WORKERS": "1",
        "COUNTERSIGN_STATE_DIR": str(tmp_path),
    }
    process = stack.start("elsewhere", [*COUNTERSIGN, "mcp-gateway"], **own)
    try:
        health, deadline = f"http://127.0.0.1:{port}/healthz", time.monotonic() + 30
        while not is_healthy(health):
            assert time.monotonic() < deadline, process.tail()
            time.sleep(0.05)
        (path,) = (tmp_path / "workers").glob("*.sock")
        elsewhere, captured = workers.way(path), fresh(agent)
        assert call_by(ways[0], agent, captured).status_code == 200
        assert call_by(elsewhere, agent, captured).status_code == 401
        assert call_by(elsewhere, agent, fresh(agent)).status_code == 200
        # Its sessions are its own: between machines they begin anew.
        session = Session(agent)
        assert session.begin(elsewhere).status_code == 200
        assert session.post(ways[0], "ping").status_code == 404
        assert session.begin(ways[0]).status_code == 200
    finally:
        process.stop()


def is_healthy(url: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(url, timeout=2, trust_env=False).status_code == 200
    return False


def refusals(stack: Stack) -> list[dict[str, Any]]:
    """Workers that were not let in."""
    with admin(stack) as api:
        events = api.call("GET", "/audit", query={"limit": "1000", "type": "gateway.refused"})
    return [e for e in reversed(events["events"]) if "control.one_worker" in e["reasons"]]


@pytest.mark.requirement("one-worker-per-gateway")
def test_several_workers_without_valkey_do_not_start(tmp_path: Path) -> None:
    for command in (["mcp-gateway", "--workers", "2"], ["serve", "--gateway-workers", "2"]):
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "countersign", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "COUNTERSIGN_VALKEY_URL" in done.stderr + done.stdout
        assert "docs/guides/scaling.md" in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())
