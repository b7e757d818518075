"""`kill -9` at any moment: nothing that happened is lost, nothing is told twice, nothing revives.

The gateway dies 200 times while callers call. Afterwards every call the upstream wrote into its
own log has its intent in the audit, every allowed intent exactly one outcome, those that died
`unknown`. The authorization server dies 20 times while codes are redeemed, decisions are used and
events arrive.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey

from audit_log.transaction_log import SOURCE
from compose.demo.browser import Browser, RefusedError, log_in_and_allow
from compose.demo.stack import COUNTERSIGN, Process, Stack
from countersign.login_file import ProofKey
from mcp_gateway.audit_trail import argument_digest
from tests.forging import part
from tests.gateways import TestGateway, decision
from tests.stack import (
    CALLBACK,
    PASSWORDS,
    TestAgent,
    demo_objects,
    new_key,
    prepare,
    running_stack,
    tell,
)
from tests.witness import all_audit_events
from token_exchange.proof_of_possession import PROOF_LEEWAY_SECONDS

pytestmark = [pytest.mark.processes, pytest.mark.soak, pytest.mark.timeout(600)]

SEED: Final = 20261121
GATEWAY_KILLS: Final = 200
AUTHORITY_KILLS: Final = 20
CALLERS: Final = 6
REDEEMERS: Final = 2
LAUNCHER: Final = Path(__file__).parent.parent / "gateway_launcher.py"
TOOLS: Final = ["get_account", "watch_account"]
Work = Callable[[Stack], None]
UNIQUE: Final = itertools.count(1_000_000)
CALLER_KEY: Final = new_key()
CLOCK_AHEAD_SECONDS: Final = PROOF_LEEWAY_SECONDS


class Launcher:
    """Starts the stack's gateway again and again, on the same state directory and port."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._log = (stack.directory / "gateways.log").open("ab")
        self._popen = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, str(LAUNCHER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=stack.child_environment() | {"COUNTERSIGN_LOG_LEVEL": "warning"},
        )
        self._at = 0

    def start(self) -> int:
        """A new gateway process; its id."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(b"\n")
        self._popen.stdin.flush()
        self._at = int(self._popen.stdout.readline())
        return self._at

    def stop(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._at, signal.SIGKILL)
        self._popen.stdin.close()
        self._popen.wait(10)
        self._popen.stdout.close()
        self._log.close()


def is_serving(http: httpx2.Client, stack: Stack) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return http.get(f"{stack.base_url}/healthz", timeout=2).status_code == 200
    return False


def key_of_a_clock_ahead() -> ProofKey:
    """A caller whose clock is ahead, as far as is forgiven.

    A gateway that was restarted refuses proofs that its former self could have seen: those issued
    until that far after its start. So this caller is served after a second instead of six.
    """
    ahead = lambda: time.time() + CLOCK_AHEAD_SECONDS  # noqa: E731, TID251 - real processes
    return ProofKey(ECKey.generate_key("P-256"), ahead)


def await_serving(stack: Stack, seconds: float = 30) -> float:
    """Until the gateway serves; how long that took."""
    started = time.monotonic()
    with httpx2.Client(trust_env=False) as http:
        while not is_serving(http, stack):
            assert time.monotonic() - started < seconds, "the gateway does not come back"
            time.sleep(0.01)
    return time.monotonic() - started


@dataclass
class Callers:
    """Several callers at once, each call with an argument nobody has used."""

    agent: TestAgent
    stopping: threading.Event = field(default_factory=threading.Event)
    served: set[int] = field(default_factory=set)
    asked: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CALLERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def await_served(self, seconds: float = 30) -> float:
        """Until another call was served; how long that took."""
        began, before = time.monotonic(), len(self.served)
        while len(self.served) == before:
            assert time.monotonic() - began < seconds, "the gateway does not come back"
            time.sleep(0.01)
        return time.monotonic() - began

    def _run(self, number: int) -> None:
        stack = self.agent.stack
        with httpx2.Client(timeout=20, trust_env=False) as http:
            agent = replace(self.agent, stack=replace(stack, http=http, processes=[]))
            while not self.stopping.is_set():
                unique = next(UNIQUE)
                self.asked += 1
                try:
                    # One in three is a stream, so that some die with half an answer given.
                    if number % 3 == 0:
                        arguments = {"id": unique, "seconds": 0.2}
                        answer = agent.call("crm", "watch_account", arguments)
                    else:
                        answer = agent.call("crm", "get_account", {"id": unique})
                except httpx2.HTTPError:
                    time.sleep(0.01)
                    continue
                if answer.status_code == 200 and "structuredContent" in answer.text:
                    self.served.add(unique)
                else:
                    time.sleep(0.01)


def calls_of_upstream(stack: Stack) -> Counter[str]:
    """Every call in the upstream's own log, by argument digest."""
    with contextlib.closing(sqlite3.connect(stack.directory / "crm.db")) as crm:
        rows = crm.execute("SELECT arguments FROM calls").fetchall()
    return Counter(argument_digest(json.loads(arguments)) for (arguments,) in rows)


def assert_gapless(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Every source counts 1, 2, 3 without a gap and without a repetition; events by source."""
    by_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        by_source[event["source"]].append(event)
    for source, found in by_source.items():
        sequences = sorted(event["sequence"] for event in found)
        assert sequences == list(range(1, len(found) + 1)), source
        found.sort(key=lambda event: event["sequence"])
        # What is written with its cut, in the database, has no process that starts or ends.
        assert source == SOURCE or found[0]["type"] == "source.started", source
    assert len({event["event_id"] for event in events}) == len(events)
    return by_source


def await_adopted(spool: Path, seconds: float = 30) -> None:
    """Until nothing is left of the dead but their events: one source is alive."""
    deadline = time.monotonic() + seconds
    while len(left := [path for path in spool.iterdir() if path.is_dir()]) > 1:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Stack]:
    """A prepared stack whose authorization server runs alone; no gateway runs."""
    with running_stack(tmp_path) as stack:
        named(stack, "serve").stop()
        start_authority(stack)
        yield stack


def named(stack: Stack, name: str) -> Process:
    """The newest process of this name."""
    return next(process for process in reversed(stack.processes) if process.name == name)


def start_authority(stack: Stack) -> Process:
    process = stack.start("authz-server", [*COUNTERSIGN, "authz-server"])
    stack.await_url(f"{stack.issuer}/healthz", process)
    return process


def kill_at_random_points(stack: Stack, callers: Callers) -> list[float]:
    """Start, and kill at a random moment, `GATEWAY_KILLS` times; seconds from start to service."""
    points, starts = random.Random(SEED), []  # noqa: S311 - the same points each time
    launcher = Launcher(stack)
    try:
        for number in range(GATEWAY_KILLS):
            process = launcher.start()
            if points.random() < 0.1:  # some die before they serve
                time.sleep(points.uniform(0, 0.3))
            else:
                starts.append(callers.await_served())
                time.sleep(points.uniform(0, 0.4))
            os.kill(process, signal.SIGKILL)
            if number % 100 == 50:  # a token lives ten minutes
                callers.agent.token_for("alice", "crm", TOOLS)
    finally:
        launcher.stop()
    return starts


@dataclass(frozen=True)
class Recorded:
    """The audit of a gateway's calls: allowed intents by digest, outcomes by decision."""

    by_source: dict[str, list[dict[str, Any]]]
    intents: dict[str, dict[str, Any]]
    outcomes: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, events: list[dict[str, Any]]) -> "Recorded":
        """INVARIANT: gapless; each argument decided once; one outcome for each intent, no other."""
        decided = [
            event
            for event in events
            if event["type"] == "call.decided" and event["outcome"] == "allowed"
        ]
        finished = [event for event in events if event["type"] == "call.finished"]
        assert max(Counter(event["argument_digest"] for event in decided).values()) == 1
        assert Counter(e["decision_id"] for e in decided) == Counter(
            e["decision_id"] for e in finished
        )
        return cls(
            assert_gapless(events),
            {event["argument_digest"]: event for event in decided},
            {event["decision_id"]: event for event in finished},
        )

    @property
    def died(self) -> list[dict[str, Any]]:
        return [event for event in self.outcomes.values() if event["outcome"] == "unknown"]

    @property
    def alive(self) -> list[str]:
        """Sources that have not ended."""
        return [
            source
            for source, found in self.by_source.items()
            if source != SOURCE and found[-1]["type"] != "source.stopped"
        ]

    def outcome_of(self, unique: int) -> tuple[str, str]:
        """The digest and the outcome of the call with this argument, in either of its forms."""
        forms: list[dict[str, Any]] = [{"id": unique}, {"id": unique, "seconds": 0.2}]
        digests = (argument_digest(form) for form in forms)
        digest = next(found for found in digests if found in self.intents)
        return digest, self.outcomes[self.intents[digest]["decision_id"]]["outcome"]


def test_gateway_killed_at_200_random_points_loses_and_doubles_nothing(
    apart: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, agent = apart, TestAgent(apart, key=key_of_a_clock_ahead())
    agent.token_for("alice", "crm", TOOLS)
    began = time.monotonic()
    with Callers(agent) as callers:
        starts = sorted(kill_at_random_points(stack, callers))
    seconds = time.monotonic() - began
    last = stack.start("mcp-gateway", [*COUNTERSIGN, "mcp-gateway"])
    cold = await_serving(stack)
    await_adopted(stack.directory / "gateway" / "spool")

    recorded = Recorded.of(all_audit_events(stack))
    upstream, died = calls_of_upstream(stack), recorded.died
    tell(
        capsys,
        f"{GATEWAY_KILLS} kills in {seconds:.0f} s; {callers.asked} asked, "
        f"{len(callers.served)} served, {sum(upstream.values())} at the upstream, "
        f"{len(recorded.intents)} intents, {len(died)} unknown, {len(recorded.by_source)} sources;"
        f" the first call is served {starts[len(starts) // 2] * 1000:.0f} ms after a fork (longest"
        f" {starts[-1] * 1000:.0f} ms); a real start reports health after {cold * 1000:.0f} ms",
    )

    # Every call at the upstream has its intent, and was made once.
    assert max(upstream.values()) == 1
    assert upstream.keys() <= recorded.intents.keys()
    # What a caller got an answer to was at the upstream; it did not fail in the audit.
    for unique in callers.served:
        digest, outcome = recorded.outcome_of(unique)
        assert digest in upstream
        assert outcome in {"succeeded", "unknown"}
    # Unknown is only what died: in a source that was cut off, and ended by its heir.
    assert len(recorded.alive) == 2, recorded.alive  # this gateway and the authorization server
    for event in died:
        end = recorded.by_source[event["source"]][-1]
        assert (end["type"], end["outcome"]) == ("source.stopped", "unknown")
    assert len(died) <= GATEWAY_KILLS * CALLERS
    # The test itself: there was load, and many calls were cut off.
    assert len(callers.served) > GATEWAY_KILLS
    assert len(died) > GATEWAY_KILLS // 4
    assert agent.call("crm", "get_account", {"id": 17}).status_code == 200
    assert last.popen.poll() is None


# --- the authorization server --------------------------------------------------------------------


@dataclass
class Users:
    """Everybody who needs the authorization server, through its deaths.

    Whoever gets no answer asks again, with fresh proofs, until there is one: so what was used
    before a death is tried again after it.
    """

    stack: Stack
    gateway: TestGateway
    subject_token: str
    stopping: threading.Event = field(default_factory=threading.Event)
    redeemed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    exchanged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    pending: dict[str, dict[str, str]] = field(default_factory=dict)
    agents: dict[str, TestAgent] = field(default_factory=dict)
    served: int = 0
    unanswered: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        # Logged in before the first death: an attempt that dies counts as a failed one.
        people = [Browser(stop_at=CALLBACK) for _ in range(REDEEMERS)]
        for browser in people:
            self._code(TestAgent(self.stack), browser)
        work: list[Work] = [partial(self._redeem, browser) for browser in people]
        work += [self._exchange, self._exchange, self._call, self._call]
        self._threads = [threading.Thread(target=self._until_stopped, args=(w,)) for w in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def _until_stopped(self, work: Any) -> None:
        with httpx2.Client(timeout=20, trust_env=False) as http:
            stack = replace(self.stack, http=http, processes=[])
            work(stack)

    def _answered(self, ask: Any) -> httpx2.Response | None:
        """Ask until something is answered that is not 'not now'."""
        while not self.stopping.is_set():
            try:
                answer: httpx2.Response = ask()
            except (
                httpx2.HTTPError,
                subprocess.CalledProcessError,
                json.JSONDecodeError,
                KeyError,
            ):
                self.unanswered += 1
                time.sleep(0.05)
                continue
            if answer.status_code < 500:
                return answer
        return None

    def _code(self, agent: TestAgent, browser: Browser) -> str:
        url, pending = agent.authorization_url("crm", TOOLS)
        redirect, _ = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
        code = parse_qs(urlsplit(redirect).query)["code"][0]
        self.pending[code], self.agents[code] = pending | {"code": code}, agent
        return code

    def _redeem(self, browser: Browser, stack: Stack) -> None:
        agent = TestAgent(stack)
        while not self.stopping.is_set():
            try:
                code = self._code(agent, browser)
            except (httpx2.HTTPError, RefusedError, KeyError):
                time.sleep(0.05)
                continue
            form = agent.redemption(self.pending[code])
            answer = self._answered(lambda form=form: agent.token_request(form))
            if answer is not None and answer.status_code == 200:
                self.redeemed[code].append(part(answer.json()["access_token"], 1)["jti"])
        browser.close()

    def _exchange(self, stack: Stack) -> None:
        gateway = replace(self.gateway, stack=stack)
        while not self.stopping.is_set():
            one = decision()
            answer = self._answered(
                lambda one=one: gateway.exchange(self.subject_token, detail={"decision": one})
            )
            if answer is not None and answer.status_code == 200:
                self.exchanged[one].append(part(answer.json()["access_token"], 1)["jti"])
            time.sleep(0.02)

    def _call(self, stack: Stack) -> None:
        agent = TestAgent(stack)
        agent.key, agent.tokens["crm"] = CALLER_KEY, self.subject_token
        while not self.stopping.is_set():
            with contextlib.suppress(httpx2.HTTPError):
                answer = agent.call("crm", "get_account", {"id": next(UNIQUE)})
                self.served += "structuredContent" in answer.text
            time.sleep(0.02)


@pytest.fixture
def bound_to_calls(tmp_path: Path) -> Iterator[Stack]:
    """As `apart`, with one-use decisions for crm, and a gateway process."""
    with running_stack(tmp_path, prepared=False) as stack:
        objects = demo_objects(stack)
        for each in objects:
            if (each["kind"], each["name"]) == ("CredentialProvider", "crm-token"):
                each["spec"]["binding"] = "call"
        prepare(stack, objects)
        named(stack, "serve").stop()
        start_authority(stack)
        stack.start("mcp-gateway", [*COUNTERSIGN, "mcp-gateway"])
        await_serving(stack)
        yield stack


def test_authority_killed_at_20_random_points_forgets_nothing_that_was_used(
    bound_to_calls: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, points = bound_to_calls, random.Random(SEED)  # noqa: S311 - the same points each time
    agent = TestAgent(stack, key=CALLER_KEY)
    token = agent.token_for("alice", "crm", TOOLS)
    gateway = TestGateway.running(stack)
    authority, began = named(stack, "authz-server"), time.monotonic()
    with Users(stack, gateway, token) as users:
        for _ in range(AUTHORITY_KILLS):
            time.sleep(points.uniform(0.3, 2.5))
            authority.popen.kill()
            authority.popen.wait()
            authority = start_authority(stack)
        time.sleep(1)
    seconds = time.monotonic() - began
    await_serving(stack)
    await_adopted(stack.directory / "data" / "spool")
    events = all_audit_events(stack)
    recorded = Recorded.of(events)
    tell(
        capsys,
        f"{AUTHORITY_KILLS} kills in {seconds:.0f} s; {len(users.pending)} codes, "
        f"{len(users.redeemed)} redeemed, {len(users.exchanged)} decisions used, "
        f"{users.served} calls served, {users.unanswered} requests unanswered, "
        f"{len(events)} events of {len(recorded.by_source)} sources",
    )

    # Nothing was used twice, and whatever a client holds is in the audit, once.
    issued = Counter(event["token_id"] for event in events if event.get("token_issued"))
    assert max(issued.values()) == 1
    for used in (users.redeemed, users.exchanged):
        assert all(len(tokens) == 1 for tokens in used.values())
        assert {token for tokens in used.values() for token in tokens} <= issued.keys()
    assert_upstream_saw_recorded_tokens_once(stack, issued)
    assert calls_of_upstream(stack).keys() <= recorded.intents.keys()
    assert_used_stays_used(stack, users, gateway)
    with contextlib.closing(sqlite3.connect(stack.directory / "data" / "countersign.db")) as own:
        assert own.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    # The test itself: there was work, and some of it was cut off.
    assert len(users.redeemed) > AUTHORITY_KILLS // 4  # each takes a login page and a process
    assert len(users.exchanged) > AUTHORITY_KILLS
    assert users.unanswered > AUTHORITY_KILLS


def assert_upstream_saw_recorded_tokens_once(stack: Stack, issued: Counter[str]) -> None:
    """A token that works somewhere is in the audit; bound to a call, it was used once."""
    with contextlib.closing(sqlite3.connect(stack.directory / "crm.db")) as crm:
        seen = Counter(row[0] for row in crm.execute("SELECT token_id FROM calls"))
    assert seen.keys() <= issued.keys()
    assert max(seen.values()) == 1


def assert_used_stays_used(stack: Stack, users: Users, gateway: TestGateway) -> None:
    """Whichever life of the server used it."""
    for one in users.exchanged:
        answer = gateway.exchange(users.subject_token, detail={"decision": one})
        assert error_of(answer) == "invalid_authorization_details"
    for code in list(users.redeemed)[:: max(1, len(users.redeemed) // 15)]:
        agent = replace(users.agents[code], stack=stack)
        answer = agent.token_request(agent.redemption(users.pending[code]))
        assert error_of(answer) == "invalid_grant"
    assert any(event["type"] == "revocation.blocked" for event in all_audit_events(stack))


def error_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"])
