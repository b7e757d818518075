"""Several workers of one Gateway behind one port, with a real Valkey: as strict as one.

A worker is addressed by its own Unix socket where a test must know which one answers; elsewhere by
the port they share.
"""

import contextlib
import json
import os
import signal
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
from tests.processes import test_crash
from tests.processes.test_crash import (
    TOOLS,
    UNIQUE,
    Callers,
    Recorded,
    await_adopted,
    calls_of_upstream,
)
from tests.services import valkey
from tests.services.common import service
from tests.services.valkey import ValkeyProcess
from tests.stack import (
    TestAgent,
    admin,
    all_audit_events,
    await_event,
    in_parallel,
    mcp_headers,
    running_stack,
    tell,
    tool_call,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

WORKERS: Final = 2
LEGACY: Final = "2025-11-25"
PATIENT: Final = "500"  # a loaded test machine is slower than 20 ms


@dataclass
class Workers:
    """A stack whose gateway has several workers, and the ways to each."""

    stack: Stack
    server: ValkeyProcess
    _ways: list[httpx2.Client] = field(default_factory=list)

    @property
    def sockets(self) -> list[Path]:
        """One of each worker that listens."""
        return sorted((self.stack.directory / "gateway" / "workers").glob("*.sock"))

    def way(self, socket: Path) -> httpx2.Client:
        """A client whose requests all go to one worker."""
        way = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(socket)), timeout=20, trust_env=False
        )
        self._ways.append(way)
        return way

    def ways(self) -> list[httpx2.Client]:
        self.await_serving()
        return [self.way(socket) for socket in self.sockets]

    def states(self) -> list[str]:
        """What each worker says of its health."""
        found = []
        for socket in self.sockets:
            with contextlib.suppress(httpx2.HTTPError):
                answer = self.way(socket).get(f"{self.stack.base_url}/healthz")
                found.append(str(answer.json()["status"]))
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
        with running_stack(directory, environment=own | environment) as stack:
            workers = Workers(stack, server)
            workers.await_serving()
            yield workers
            workers.close()


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
    assert await_event(workers.stack, type="caller.refused")["detail"] == "replayed"


@pytest.mark.requirement("attack-15")
@pytest.mark.requirement("workers-share-proofs")
def test_of_twenty_calls_with_one_proof_at_both_workers_one_is_served(
    workers: Workers, agent: TestAgent
) -> None:
    ways, headers = workers.ways(), fresh(agent)
    turns = iter(range(20))
    answers = in_parallel(20, lambda: call_by(ways[next(turns) % 2], agent, headers).status_code)
    assert sorted(answers) == [200] + [401] * 19
