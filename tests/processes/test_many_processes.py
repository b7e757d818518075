"""Two authorization servers and three gateways: any one may die, and the database may go away.

On PostgreSQL and on SQLite. Every call that reached the upstream has its intent in the audit, each
intent exactly one outcome, no source has a gap; a kill is acknowledged by every gateway, whichever
server it was said to; while PostgreSQL is down everything is refused, and nothing has to be done
when it is back.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import httpx2
import pytest

from compose.demo.stack import Stack
from countersign.login_file import ProofKey
from tests.cluster import Authority, Cluster, running_cluster
from tests.databases import POSTGRESQL
from tests.processes import test_crash
from tests.processes.test_crash import (
    TOOLS,
    UNIQUE,
    Callers,
    Recorded,
    await_adopted,
    calls_of_upstream,
    key_of_a_clock_ahead,
)
from tests.services import postgresql
from tests.services.common import service
from tests.services.postgresql import Postgresql
from tests.stack import TestAgent, admin, tell
from tests.witness import all_audit_events

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

LIMIT_MS: Final = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgresql]:
    """A server of one's own: it is stopped."""
    with service("PostgreSQL"):
        postgresql.install()
    with postgresql.running(tmp_path_factory.mktemp("postgresql")) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", POSTGRESQL])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with ExitStack() as opened:
        url = None
        if request.param == "postgresql":
            running: Postgresql = request.getfixturevalue("server")
            url = opened.enter_context(running.database())
        yield opened.enter_context(running_cluster(tmp_path_factory.mktemp("cluster"), url))


@pytest.fixture
def on_postgresql(cluster: Cluster) -> None:
    if not cluster.stack.environment:
        pytest.skip("a file does not go away")


@pytest.fixture
def few_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_crash, "CALLERS", 2)


def agent_at(gateway: Stack, key: ProofKey | None = None) -> TestAgent:
    agent = TestAgent(gateway, key=key or key_of_a_clock_ahead())
    agent.token_for("alice", "crm", TOOLS)
    return agent


def is_served(agent: TestAgent) -> bool:
    try:
        answer = agent.call("crm", "get_account", {"id": next(UNIQUE)})
    except httpx2.HTTPError:
        return False
    return answer.status_code == 200 and "structuredContent" in answer.text


def until_served(*agents: TestAgent, seconds: float = 40) -> float:
    """Seconds until each is served."""
    began = time.monotonic()
    waiting = list(agents)
    while waiting := [agent for agent in waiting if not is_served(agent)]:
        assert time.monotonic() - began < seconds, "service does not come back"
        time.sleep(0.05)
    return time.monotonic() - began


def acknowledged(authority: Authority, sequence: int, count: int) -> list[dict[str, Any]]:
    """What each gateway said of a revocation, once all have."""
    deadline = time.monotonic() + 10
    with authority.admin() as api:
        while True:
            acks = api.call("GET", f"/blocks/acks/{sequence}")["acks"]
            if len([ack for ack in acks if ack["applied_at_ms"] is not None]) >= count:
                return list(acks)
            assert time.monotonic() < deadline, acks
            time.sleep(0.01)


def await_end_of_epochs(cluster: Cluster) -> None:
    """An epoch is rounded up: nothing is issued before it is over."""
    with admin(cluster.stack) as api:
        epochs = [each["not_before"] for each in api.call("GET", "/blocks")["blocks"]]
    while int(time.time()) <= max(epochs):  # noqa: TID251 - real processes have real time
        time.sleep(0.02)


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize("said_to", [0, 1])
def test_kill_said_to_either_server_is_acknowledged_by_all_three_gateways(
    cluster: Cluster, said_to: int, capsys: pytest.CaptureFixture[str]
) -> None:
    agents = [agent_at(gateway) for gateway in cluster.gateways]
    until_served(*agents)
    with cluster.authorities[said_to].admin() as api:
        body = {"kind": "agent", "id": "support-bot", "reason": "test"}
        asked = time.monotonic()
        block = api.call("POST", "/blocks", json=body)
        try:
            refused: dict[str, float] = {}
            while len(refused) < len(agents):
                assert time.monotonic() - asked < 10
                for agent in agents:
                    if agent.stack.gateway not in refused and not is_served(agent):
                        refused[agent.stack.gateway] = (time.monotonic() - asked) * 1000
            # Either server knows of each acknowledgement, wherever it arrived.
            for authority in cluster.authorities:
                acks = acknowledged(authority, block["sequence"], len(agents))
                assert {ack["gateway"] for ack in acks} >= set(refused)
        finally:
            api.call("DELETE", "/blocks/agent/support-bot", query={"reason": "test"})
    told = {ack["gateway"]: ack["applied_at_ms"] - block["at_ms"] for ack in acks}
    tell(
        capsys,
        f"kill said to server {said_to + 1}: applied after "
        + ", ".join(f"{name} {ms} ms" for name, ms in sorted(told.items()))
        + "; next call refused after "
        + ", ".join(f"{name} {ms:.0f} ms" for name, ms in sorted(refused.items())),
    )
    assert max(refused.values()) < LIMIT_MS
    assert max(told.values()) < LIMIT_MS
    await_end_of_epochs(cluster)


def test_any_one_process_killed_under_load_loses_nothing(
    cluster: Cluster, few_callers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    del few_callers
    agents = [agent_at(gateway) for gateway in cluster.gateways]
    until_served(*agents)
    took: dict[str, float] = {}
    with ExitStack() as loads:
        callers = [loads.enter_context(Callers(agent)) for agent in agents]
        for each in callers:
            each.await_served()
        for authority, other in itertools.permutations(cluster.authorities):
            authority.kill()
            took[f"{authority.name} killed"] = max(each.await_served() for each in callers)
            # A login and a token, while there is one server only.
            TestAgent(cluster.attested_by(other)).token_for("bob", "crm", ["get_account"])
            authority.start()
        for gateway, load in zip(cluster.gateways, callers, strict=True):
            cluster.kill_gateway(gateway)
            cluster.start_gateway(gateway)
            took[f"gateway {gateway.gateway} killed"] = load.await_served()
        for each in callers:
            each.await_served()
    for gateway in cluster.gateways:
        await_adopted(cluster.state(gateway) / "spool")
    recorded = Recorded.of(all_audit_events(cluster.stack))
    upstream = calls_of_upstream(cluster.stack)
    served = [unique for each in callers for unique in each.served]
    tell(
        capsys,
        "; ".join(f"{what}: next call served after {s * 1000:.0f} ms" for what, s in took.items())
        + f"; {len(served)} served, {sum(upstream.values())} at the upstream,"
        f" {len(recorded.intents)} intents, {len(recorded.died)} unknown,"
        f" {len(recorded.by_source)} sources without a gap",
    )
    assert upstream.keys() <= recorded.intents.keys()
    for unique in served:
        digest, outcome = recorded.outcome_of(unique)
        assert digest in upstream
        assert outcome in {"succeeded", "unknown"}
    assert len(served) > 50


def test_database_that_goes_away_is_refused_and_served_again_without_a_restart(
    cluster: Cluster,
    on_postgresql: None,
    few_callers: None,
    server: Postgresql,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del on_postgresql, few_callers
    agents = [agent_at(gateway) for gateway in cluster.gateways]
    until_served(*agents)
    with ExitStack() as loads:
        callers = [loads.enter_context(Callers(agent)) for agent in agents]
        for each in callers:
            each.await_served()
        server.kill()
        began = time.monotonic()
        while any(is_served(agent) for agent in agents):
            assert time.monotonic() - began < 10
        refused_after = time.monotonic() - began
        time.sleep(1)  # what had its credential already ends as it would
        before = [len(each.served) for each in callers]
        time.sleep(5)  # longer than the lease
        assert [len(each.served) for each in callers] == before
        for authority in cluster.authorities:
            form = {"grant_type": "authorization_code", "code": "c"}
            answer = cluster.stack.http.post(f"{authority.address}/oauth/token", data=form)
            assert answer.status_code == 503, answer.text
            answer = cluster.stack.http.get(f"{authority.address}/oauth/authorize")
            assert answer.status_code == 503, answer.text
        server.start()
        back_after = until_served(*agents)
        for each in callers:
            each.await_served()
    recorded = Recorded.of(all_audit_events(cluster.stack))
    upstream = calls_of_upstream(cluster.stack)
    tell(
        capsys,
        f"PostgreSQL killed: every gateway refuses after {refused_after * 1000:.0f} ms; started"
        f" again: all serve after {back_after * 1000:.0f} ms; {len(recorded.intents)} intents,"
        f" {len(recorded.by_source)} sources without a gap",
    )
    assert upstream.keys() <= recorded.intents.keys()
    for unique in (unique for each in callers for unique in each.served):
        digest, outcome = recorded.outcome_of(unique)
        assert digest in upstream
        assert outcome == "succeeded"
    with admin(cluster.stack) as api:
        assert api.call("GET", "/audit", query={"limit": "1"})["complete"]
