"""What fails is refused clearly and comes back by itself: authority, gateway, server, database.

The authorization server is stopped in two ways: by SIGSTOP it keeps its connections and says
nothing, by SIGTERM it is gone. A full disk is a file size limit of zero for one process.
"""

import contextlib
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from compose.demo.stack import COUNTERSIGN, Process, Stack, StackError
from countersign.admin_client import AdminClient, AdminError
from tests.deployment import Deployment, running_deployment
from tests.stack import TestAgent, audit_events, held_port, mcp_headers, meta

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

LEASE_SECONDS = 3.0
TOOLS = ["list_hours", "get_account"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running_deployment(tmp_path_factory.mktemp("deployment")) as running:
        yield running


@pytest.fixture
def agents(deployment: Deployment) -> tuple[TestAgent, TestAgent]:
    """Alice's agent at each gateway, with a credential in the gateway's cache."""
    deployment.await_link()
    first, second = (deployment.agent(gateway) for gateway in deployment.gateways)
    for agent in (first, second):
        agent.token_for("alice", "crm", TOOLS)
        assert served(agent)
    return first, second


def served(agent: TestAgent) -> bool:
    answer = agent.call("crm", "list_hours")
    return answer.status_code == httpx2.codes.OK and not answer.json()["result"].get("isError")


def eventually(what: Callable[[], bool], seconds: float) -> float:
    """How long it took until `what()` held."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        with contextlib.suppress(httpx2.HTTPError, StackError):
            if what():
                return time.monotonic() - started
        time.sleep(0.02)
    message = f"not within {seconds} s"
    raise AssertionError(message)


def calls_seen(stack: Stack) -> int:
    """How many calls the crm server itself has logged."""
    with contextlib.closing(sqlite3.connect(stack.directory / "crm.db")) as crm:
        return int(crm.execute("SELECT count(*) FROM calls").fetchone()[0])


def stop_authority(deployment: Deployment, how: signal.Signals) -> Callable[[], object]:
    """Stop it; what brings it back."""
    authority = deployment.authority
    if how is signal.SIGSTOP:
        authority.popen.send_signal(signal.SIGSTOP)
        return lambda: authority.popen.send_signal(signal.SIGCONT)
    assert authority.stop() == 0
    return deployment.start_authority


def refused_for_lack_of_news(agent: TestAgent) -> bool:
    answer = agent.call("crm", "list_hours")
    if answer.status_code == httpx2.codes.OK:
        return False
    assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE, answer.text
    error = answer.json()["error"]
    if error["code"] == -32006:  # while the lease runs: no credential without the authority
        return False
    assert error["message"] == "The gateway has lost contact with its authority."
    assert error["data"] == {"category": "temporarily_blocked", "retryable": True}
    assert answer.headers["retry-after"] == "1"
    return True


@pytest.mark.requirement("C57")
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGTERM])
def test_lease_authority_away_refuses_everything_and_serves_again_when_it_is_back(
    deployment: Deployment, agents: tuple[TestAgent, TestAgent], how: signal.Signals
) -> None:
    workers = [deployment.process(gateway).popen.pid for gateway in deployment.gateways]
    come_back = stop_authority(deployment, how)
    try:
        for agent in agents:
            eventually(lambda agent=agent: refused_for_lack_of_news(agent), LEASE_SECONDS + 3)  # type: ignore[misc]
        before = calls_seen(deployment.first)
        for agent in agents * 3:  # nothing from the cache, however often it is asked
            assert refused_for_lack_of_news(agent)
            assert listed(agent).status_code == httpx2.codes.SERVICE_UNAVAILABLE
        assert calls_seen(deployment.first) == before
    finally:
        come_back()
    for agent in agents:
        eventually(lambda agent=agent: served(agent), 15)  # type: ignore[misc]
    assert [deployment.process(gateway).popen.pid for gateway in deployment.gateways] == workers
    assert all(deployment.process(each).popen.poll() is None for each in deployment.gateways)


def listed(agent: TestAgent) -> httpx2.Response:
    url = agent.stack.endpoint("crm")
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta()}}
    headers = mcp_headers("tools/list") | agent.headers("POST", url, agent.tokens["crm"])
    return agent.stack.http.post(url, json=body, headers=headers)


def test_lease_authority_hangs_a_call_without_a_credential_fails_in_bounded_time(
    deployment: Deployment,
) -> None:
    deployment.await_link()
    agent = deployment.agent(deployment.first)
    agent.token_for("alice", "crm", TOOLS)  # never used: nothing is cached for it
    with deployment.frozen(deployment.authority):
        started = time.monotonic()
        answer = agent.call("crm", "list_hours")
        took = time.monotonic() - started
    assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE
    assert answer.json()["error"]["message"] == "The server's credential could not be obtained."
    assert took < 12
    eventually(lambda: served(agent), 15)


def test_lease_what_happened_while_the_authority_was_away_is_in_the_audit_afterwards(
    deployment: Deployment, agents: tuple[TestAgent, TestAgent]
) -> None:
    first, _ = agents
    come_back = stop_authority(deployment, signal.SIGTERM)
    try:
        assert served(first)  # the lease still runs, and the credential is cached
        eventually(lambda: refused_for_lack_of_news(first), LEASE_SECONDS + 3)
    finally:
        come_back()
    eventually(lambda: served(first), 15)
    eventually(lambda: is_recorded(deployment.first, "lost contact"), 15)
    eventually(lambda: decisions(deployment.first, "decided") == decisions(deployment.first), 15)


def is_recorded(stack: Stack, detail: str) -> bool:
    refused = audit_events(stack, type="call.refused")
    return any(detail in (event.get("detail") or "") for event in refused)


def decisions(stack: Stack, kind: str = "finished") -> set[str]:
    return {event["decision_id"] for event in audit_events(stack, type=f"call.{kind}")}


def test_lease_gateway_started_without_its_authority_waits_and_serves_when_it_is_there(
    deployment: Deployment, agents: tuple[TestAgent, TestAgent]
) -> None:
    _, second = agents
    gateway = deployment.second
    come_back = stop_authority(deployment, signal.SIGTERM)
    try:
        assert deployment.process(gateway).stop() == 0
        process = deployment.start_gateway(gateway)
        gateway.await_url(f"{gateway.base_url}/healthz", process)
        answer = second.call("crm", "list_hours")
        assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE
        assert answer.json()["error"]["message"] == "The gateway has no policy yet."
        assert gateway.http.get(f"{gateway.base_url}/healthz").status_code == 503
    finally:
        come_back()
    eventually(lambda: served(second), 15)
    assert process.popen.poll() is None


def test_lease_gateway_that_joins_without_its_authority_says_so(deployment: Deployment) -> None:
    code = deployment.first.command("gateway", "join", "second", socket=True).stdout
    file = deployment.first.directory / "join-late"
    file.write_text(code)
    with contextlib.ExitStack() as holding:
        late_port = held_port(holding)
    come_back = stop_authority(deployment, signal.SIGTERM)
    try:
        process = deployment.second.start(
            "gateway-late",
            [*COUNTERSIGN, "mcp-gateway", "--join-code-file", str(file)],
            COUNTERSIGN_STATE_DIR=str(deployment.first.directory / "state-late"),
            COUNTERSIGN_GATEWAY_PORT=str(late_port),
        )
        assert process.popen.wait(20) != 0
    finally:
        come_back()
    assert "enrolment_failed" in process.tail()
    assert "Traceback" not in process.tail()


def test_upstream_down_calls_fail_clearly_and_the_gateway_stays(
    deployment: Deployment, agents: tuple[TestAgent, TestAgent]
) -> None:
    first, second = agents
    crm = next(each for each in reversed(deployment.first.processes) if each.name == "crm")
    crm.stop()
    try:
        for agent in (first, second):
            answer = agent.call("crm", "list_hours")
            assert answer.status_code == httpx2.codes.BAD_GATEWAY, answer.text
            error = answer.json()["error"]
            assert error["message"] == "The server did not answer properly."
            assert error["data"]["retryable"] is True
            assert error["data"]["decision_id"].startswith("dec_")
            assert "127.0.0.1" not in answer.text
        first.token_for("alice", "notes", ["search"])
        notes = first.call("notes", "search", {"text": "Q3"})
        assert notes.status_code == httpx2.codes.OK
    finally:
        deployment.first.start_crm()
    assert served(first)
    assert served(second)
    failed = audit_events(deployment.first, type="call.finished", outcome="failed")
    assert failed


def test_database_locked_by_another_process_refuses_and_recovers(
    deployment: Deployment, agents: tuple[TestAgent, TestAgent]
) -> None:
    first, _ = agents
    redemption = first.redemption(first.code("alice", "crm", TOOLS))
    with database_locked(deployment.first):
        answer = first.token_request(redemption)
        assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE, answer.text
        assert answer.json()["error"] == "temporarily_unavailable"
        # It waits behind the write before it, each as long as a lock is waited for.
        with patient(deployment.first) as api, pytest.raises(AdminError) as refused:
            api.call("POST", "/blocks", json={"kind": "jti", "id": "tok_none", "reason": "test"})
        assert refused.value.code == "temporarily_unavailable"
        # Reading needs no lock, and neither does a call whose credential is cached.
        assert deployment.first.http.get(f"{deployment.first.issuer}/oauth/jwks").is_success
        assert served(first)
    assert deployment.authority.popen.poll() is None
    answer = first.token_request(redemption)  # nothing was used up
    assert answer.status_code == httpx2.codes.OK, answer.text
    eventually(lambda: served(first), 15)


def patient(stack: Stack) -> AdminClient:
    return AdminClient(stack.issuer, timeout_seconds=30, socket=stack.admin_socket)


@contextlib.contextmanager
def database_locked(stack: Stack) -> Iterator[None]:
    path = stack.directory / "data" / "countersign.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@contextlib.contextmanager
def disk_full(process: Process) -> Iterator[None]:
    """A process that can write no file: every write fails, as on a full disk."""
    pid = process.popen.pid
    unlimited: Any = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)


def test_disk_full_at_the_authority_refuses_and_recovers(
    deployment: Deployment, agents: tuple[TestAgent, TestAgent]
) -> None:
    first, _ = agents
    redemption = first.redemption(first.code("alice", "crm", TOOLS))
    assertion = first.attestation()
    with disk_full(deployment.authority):
        answer = first.token_request(redemption, assertion=assertion)
        assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE, answer.text
        assert answer.json()["error"] == "temporarily_unavailable"
        assert deployment.first.http.get(f"{deployment.first.issuer}/oauth/jwks").is_success
    assert deployment.authority.popen.poll() is None
    eventually(lambda: first.token_for("alice", "crm", TOOLS) != "", 15)
    eventually(lambda: served(first), 15)


@pytest.mark.requirement("audit-unwritable-refuses")
def test_disk_full_at_the_gateway_makes_no_call_and_recovers(
    deployment: Deployment, agents: tuple[TestAgent, TestAgent]
) -> None:
    first, _ = agents
    process = deployment.process(deployment.first)
    before = calls_seen(deployment.first)
    with disk_full(process):
        answer = first.call("crm", "list_hours")
        assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE, answer.text
        assert answer.json()["error"]["data"]["retryable"] is True
    assert calls_seen(deployment.first) == before
    assert process.popen.poll() is None
    eventually(lambda: served(first), 15)
