"""`countersign agent run`: an agent without a line of authentication, and everybody else."""

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from compose.demo.browser import Browser, log_in_and_allow
from compose.demo.stack import Stack
from countersign.agent_run.process_tree import descendants
from tests.operators import declared
from tests.stack import (
    PASSWORDS,
    TestAgent,
    admin,
    audit_events,
    await_event,
    demo_objects,
    tell,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

COUNTERSIGN = Path(__file__).with_name("countersign_script.py")
MEMBER = Path(__file__).with_name("run_member.py")
PLAIN_AGENT = Path(__file__).parents[2] / "examples" / "plain_agent.py"


@pytest.fixture(scope="module")
def stack(stack: Stack) -> Iterator[Stack]:
    """The demo; its agent is what runs under the command, and may act alone."""
    objects = demo_objects(stack)
    for each in objects:
        if each["kind"] == "Agent":
            digest = f"sha-256:{hashlib.sha256(COUNTERSIGN.read_bytes()).hexdigest()}"
            each["spec"]["attestation"]["match"]["unix.script_digest"] = digest
            each["spec"]["acts_alone"] = True
        if each["kind"] == "Policy" and each["name"] == "support":
            each["spec"]["cedar"] += ALONE
    with declared(stack, objects):
        yield stack


ALONE = """
@id("grant-alone")
permit (principal == Agent::"support-bot", action, resource == Tool::"crm/list_hours")
unless { context.run has user };
"""


def kill(stack: Stack, kind: str, name: str) -> None:
    with admin(stack) as api:
        api.call("POST", "/blocks", json={"kind": kind, "id": name, "reason": "test"})


def run_of(token: str) -> str:
    payload = token.split(".")[1]
    return str(json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["inv"])


def run_command(stack: Stack, *options: str, command: list[str]) -> list[str]:
    return [
        *(sys.executable, str(COUNTERSIGN), "--issuer", stack.issuer, "agent", "run"),
        *("--gateway", stack.base_url, "--attestation-socket", str(stack.attestation_socket)),
        *options,
        "--",
        *command,
    ]


def environment(stack: Stack) -> dict[str, str]:
    return stack.child_environment() | {"BROWSER": "/bin/true"}


def run(
    stack: Stack, *options: str, command: list[str], seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """A whole run, alone at crm."""
    return subprocess.run(  # noqa: S603 - our own command
        run_command(stack, "--alone", "--server", "crm", *options, command=command),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env=environment(stack),
    )


@dataclass
class Running:
    """A run under way, whose command does what it is told (`run_member.py`)."""

    process: subprocess.Popen[str]
    url: str
    invocation: str
    pid: int

    def told(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        return dict(json.loads(line))

    def listed(self, member: str = "self") -> dict[str, Any]:
        return self.told(do="list", url=self.url, **{"as": member})

    def called(self, tool: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self.told(do="call", url=self.url, tool=tool, arguments=dict(arguments or {}))

    def ended(self, code: int = 0) -> str:
        """Let the command end; what the run said on standard error since."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": "leave", "code": code}) + "\n")
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == code
        return errors


def lines_until_address(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The run's id and the address of its first server, as the run says them."""
    assert process.stderr is not None
    invocation = ""
    for line in process.stderr:
        if "countersign: run " in line:
            invocation = line.split("run ")[1].strip()
        if " is at http://" in line:
            return invocation, line.split(" is at ")[1].strip()
    message = "the run did not start"
    raise AssertionError(message)


@contextlib.contextmanager
def running(stack: Stack, *options: str) -> Iterator[Running]:
    command = run_command(stack, "--server", "crm", *options, command=[sys.executable, str(MEMBER)])
    with subprocess.Popen(  # noqa: S603 - our own command
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(stack),
    ) as process:
        try:
            invocation, url = lines_until_address(process)
            yield Running(process, url, invocation, process.pid)
        finally:
            process.kill()


@pytest.fixture
def alone(stack: Stack) -> Iterator[Running]:
    with running(stack, "--alone") as started:
        yield started


@pytest.mark.requirement("C7")
def test_agent_without_authentication_lists_and_calls_tools(stack: Stack) -> None:
    done = run(stack, command=[sys.executable, str(PLAIN_AGENT), "list_hours", "{}"])
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert "list_hours" in told["tools"]
    assert told["is_error"] is False, told


@pytest.mark.requirement("agent-run-tree")
def test_only_the_processes_of_the_run_are_served(alone: Running) -> None:
    for member in ("self", "child", "orphan"):
        listed = alone.listed(member)
        assert listed["status"] == 200, listed
        assert "list_hours" in listed["body"]
    # The same request by a process of the same user that merely knows the address.
    stranger = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(MEMBER), "once", alone.url],
        capture_output=True,
        check=True,
        timeout=60,
    )
    refused = json.loads(stranger.stdout)
    assert refused.get("status", 403) == 403, refused
    assert "list_hours" not in stranger.stdout.decode()


@pytest.mark.requirement("C1")
def test_agent_alone_at_two_servers_is_one_run(stack: Stack) -> None:
    with running(stack, "--alone", "--server", "notes") as started:
        told = started.told(do="environment")["environment"]
        assert told["COUNTERSIGN_MCP_URL"] == told["COUNTERSIGN_MCP_URL_CRM"] == started.url
        for server in ("CRM", "NOTES"):
            url = told[f"COUNTERSIGN_MCP_URL_{server}"]
            listed = started.told(do="list", url=url, **{"as": "self"})
            assert listed["status"] == 200, listed
        issued = [
            event["target_service"]
            for event in audit_events(stack, type="token.issued")
            if event.get("invocation") == started.invocation
        ]
        assert issued == ["crm", "notes"]
        kill(stack, "inv", started.invocation)
        for server in ("CRM", "NOTES"):
            url = told[f"COUNTERSIGN_MCP_URL_{server}"]
            assert started.told(do="list", url=url, **{"as": "self"})["status"] == 403


@pytest.mark.requirement("agent-run-tree")
def test_loopback_serves_neither_other_hosts_nor_pages_nor_documents(alone: Running) -> None:
    base = alone.url.removesuffix("/crm/mcp")
    for url in (
        f"{base}/.well-known/oauth-protected-resource/crm/mcp",
        f"{base}/.well-known/oauth-authorization-server",
        f"{base}/crm/mcp/",
        f"{base}/crm/mcp?x=1",
        f"{base}/crm%2Fmcp",
        f"{base}/notes/mcp",
        f"{base}/",
    ):
        answer = alone.told(do="list", url=url, **{"as": "self"})
        assert answer["status"] == 404, (url, answer)
        assert "www-authenticate" not in answer["headers"]
    other_name = alone.url.replace("127.0.0.1", "127.0.0.1.nip.invalid")
    assert "error" in alone.told(do="list", url=other_name, **{"as": "self"})


JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{8,}")


def traces(pid: int, directory: Path) -> dict[str, bytes]:
    """What anybody of the user may read of a process: arguments, environment, open files, files."""
    proc = Path("/proc") / str(pid)
    found = {name: (proc / name).read_bytes() for name in ("cmdline", "environ")}
    for entry in (proc / "fd").iterdir():
        target = str(entry.readlink())
        found[f"fd {target}"] = target.encode()
        if target.startswith("/") and Path(target).is_file():
            found[f"fd {target}"] += Path(target).read_bytes()
    for path in directory.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
    return found


@pytest.mark.requirement("attack-26")
def test_no_token_is_in_environment_arguments_descriptors_or_files(
    stack: Stack, tmp_path: Path
) -> None:
    directory = tmp_path / "home"
    directory.mkdir()
    homes = {"HOME": str(directory), "TMPDIR": str(directory), "XDG_CONFIG_HOME": str(directory)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in homes.items():
            patch.setenv(name, value)
        with running(stack, "--alone") as started:
            called = started.called("list_hours")
            assert called["status"] == 200, called
            assert not JWT.search(json.dumps(called).encode())
            (command,) = descendants(started.pid)
            told = started.told(do="environment")["environment"]
            assert told["COUNTERSIGN_MCP_URL"] == told["COUNTERSIGN_MCP_URL_CRM"] == started.url
            for pid in (started.pid, command):
                found = traces(pid, directory)
                assert {"cmdline", "environ"} < set(found)
                leaking = [name for name, data in found.items() if JWT.search(data)]
                assert leaking == []
            fds = {name for name in traces(command, directory) if name.startswith("fd ")}
            assert len(fds) <= 3, fds  # its standard input, output and error
            # The search finds what is there.
            (directory / "planted").write_text("x eyJhbGciOiJFUzI1NiJ9.e30.c2ln")
            assert any(JWT.search(data) for data in traces(command, directory).values())


@pytest.mark.requirement("C30")
def test_end_of_the_command_ends_the_run_and_the_audit_says_so(stack: Stack) -> None:
    with running(stack, "--alone") as started:
        assert started.called("list_hours")["status"] == 200
        started.ended(code=7)
    event = await_event(stack, type="invocation.ended", invocation=started.invocation)
    assert (event["agent"], event["outcome"]) == ("support-bot", "revoked")
    with admin(stack) as api:
        blocks = api.call("GET", "/blocks", query={"runs": "true"})["blocks"]
    assert [each["blocked"] for each in blocks if each["id"] == started.invocation] == [True]


@pytest.mark.requirement("C30")
def test_token_of_an_ended_run_is_refused_at_the_gateway_within_a_second(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = TestAgent(stack, helper=COUNTERSIGN)
    answer = agent.token_request(
        {"grant_type": "client_credentials", "resource": stack.endpoint("crm")}
    )
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    assert agent.call("crm", "list_hours", token=token).status_code == 200
    url = f"{stack.issuer}/invocations/{run_of(token)}/end"
    began = time.monotonic()
    ended = stack.http.post(url, headers=agent.headers("POST", url, token))
    assert ended.status_code == 204, ended.text
    while agent.call("crm", "list_hours", token=token).status_code != 401:
        assert time.monotonic() - began < 1.0
    tell(capsys, f"end of a run → first refused call: {(time.monotonic() - began) * 1000:.0f} ms")
    # That one may have been under way, and was interrupted; the next is refused at the door.
    assert agent.call("crm", "list_hours", token=token).status_code == 401
    refused = await_event(stack, type="caller.refused", invocation=run_of(token))
    assert "inv/" in refused["detail"]


def test_kill_during_the_run_is_told_to_the_command(stack: Stack, alone: Running) -> None:
    assert alone.called("list_hours")["status"] == 200
    kill(stack, "inv", alone.invocation)
    refused = alone.called("list_hours")
    assert refused["status"] == 403, refused
    error = json.loads(refused["body"])["error"]
    assert error["message"].startswith("The run was ended or cut off")
    assert json.loads(refused["body"])["id"] == 7
    assert "www-authenticate" not in refused["headers"]
    assert alone.called("list_hours")["status"] == 403
    assert "ended or cut off" in alone.ended()


def next_token(stack: Stack, before: dict[str, Any]) -> None:
    """The run of this token's record has another; records arrive within moments."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = audit_events(stack, type="token.issued", invocation=before["invocation"])
        if found[-1]["token_id"] != before["token_id"]:
            return
        time.sleep(0.05)
    raise AssertionError(found)


def test_killed_token_is_replaced_without_the_command_noticing(
    stack: Stack, alone: Running
) -> None:
    issued = await_event(stack, type="token.issued", invocation=alone.invocation)
    kill(stack, "jti", issued["token_id"])
    assert alone.called("list_hours")["status"] == 200
    next_token(stack, issued)


@pytest.mark.requirement("C7")
def test_agent_acts_for_the_person_who_logged_in_at_start_and_stays_itself(stack: Stack) -> None:
    with logged_in(stack, "alice") as started:
        called = started.called("get_account", {"id": 17})
        assert called["status"] == 200, called
        assert "Ada Lovelace" in called["body"]
        first = await_event(stack, type="token.issued", invocation=started.invocation)
        assert first["principal_kind"] == "agent_for_person"
        # The token dies; the refresh token yields the next one, of the same run.
        kill(stack, "jti", first["token_id"])
        assert started.called("get_account", {"id": 17})["status"] == 200
        next_token(stack, first)
        started.ended()
    ended = await_event(stack, type="invocation.ended", invocation=started.invocation)
    assert ended["user"] == first["user"]


def test_person_who_denies_stops_the_run_before_it_starts(stack: Stack, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with login_asked(stack, command=["/usr/bin/touch", str(touched)]) as (process, link):
        url, callback = sent_to(stack, link)
        browser = Browser(stop_at=callback)
        try:
            page = browser.open(url)
            assert not isinstance(page, str)
            page = browser.submit(page, {"username": "bob", "password": PASSWORDS["bob"]})
            assert not isinstance(page, str)
            redirect = browser.submit(page, {}, ("answer", "deny"))
        finally:
            browser.close()
        assert isinstance(redirect, str)
        assert "The terminal says why" in stack.http.get(redirect).text
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "access_denied" in errors
    assert not touched.exists()


def test_stream_comes_as_it_is_and_ends_with_who_reads_it(stack: Stack) -> None:
    with logged_in(stack, "alice") as started:

        def watched(seconds: float) -> dict[str, Any]:
            given = {"id": 17, "seconds": seconds}
            return started.told(do="watch", url=started.url, tool="watch_account", arguments=given)

        first = watched(30)
        assert first["type"].startswith("text/event-stream")
        assert "notifications/progress" in first["event"]
        started.told(do="hang up")
        cut = await_event(stack, type="call.finished", invocation=started.invocation)
        assert (cut["tool"], cut["outcome"]) == ("watch_account", "cancelled")
        # A whole one, and one that a kill ends.
        watched(0.5)
        assert '"result"' in started.told(do="read on")["rest"]
        watched(30)
        kill(stack, "inv", started.invocation)
        assert '"result"' not in started.told(do="read on").get("rest", "")
        assert started.called("get_account", {"id": 17})["status"] == 403


@contextlib.contextmanager
def login_asked(
    stack: Stack, *options: str, command: list[str]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run that waits for a person, and the link it gives them."""
    options = ("--server", "crm", "--agent", "support-bot", *options)
    with subprocess.Popen(  # noqa: S603 - our own command
        run_command(stack, *options, command=command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(stack),
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("http"):
                    yield process, line.strip()
                    return
            message = "nobody was asked to log in"
            raise AssertionError(message)
        finally:
            process.kill()


def sent_to(stack: Stack, link: str) -> tuple[str, str]:
    """Where a link of the run leads, and where that comes back to."""
    url = stack.http.get(link).headers["location"]
    return url, parse_qs(urlsplit(url).query)["redirect_uri"][0]


@contextlib.contextmanager
def logged_in(stack: Stack, person: str, *options: str) -> Iterator[Running]:
    """A run for a person, who has been to the page of each server in turn."""
    with login_asked(stack, *options, command=[sys.executable, str(MEMBER)]) as (process, link):
        assert "state" not in link
        url, callback = sent_to(stack, link)
        assert stack.http.get(link).status_code == 410
        browser = Browser(stop_at=callback)
        try:
            while url:
                redirect, _ = log_in_and_allow(browser, url, person, PASSWORDS[person])
                assert stack.http.get(f"{callback}?code=forged&state=forged").status_code == 400
                answer = stack.http.get(redirect)
                url = answer.headers.get("location", "")
        finally:
            browser.close()
        assert "agent is starting" in answer.text
        invocation, address = lines_until_address(process)
        yield Running(process, address, invocation, process.pid)


@pytest.mark.requirement("C7")
def test_person_goes_from_server_to_server_in_one_tab(stack: Stack) -> None:
    with logged_in(stack, "alice", "--server", "notes") as started:
        told = started.told(do="environment")["environment"]
        for server in ("CRM", "NOTES"):
            url = told[f"COUNTERSIGN_MCP_URL_{server}"]
            assert started.told(do="list", url=url, **{"as": "self"})["status"] == 200
        runs = started.invocation.split(", ")
        assert len(runs) == 2
        users = [await_event(stack, type="token.issued", invocation=each)["user"] for each in runs]
        assert users[0] == users[1]
        started.ended()
    for each in runs:
        await_event(stack, type="invocation.ended", invocation=each)


def test_exit_code_and_signals_are_the_commands(stack: Stack) -> None:
    for words, code in (
        (["/bin/sh", "-c", "exit 7"], 7),
        (["/bin/sh", "-c", "kill -KILL $$"], 137),
        (["/nowhere/agent"], 127),
        (["/etc/hostname"], 126),
    ):
        assert run(stack, command=words).returncode == code, words
    waiting = ["/bin/sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"]
    with subprocess.Popen(  # noqa: S603 - our own command
        run_command(stack, "--alone", "--server", "crm", command=waiting),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(stack),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 3


def test_left_over_child_loses_access_when_the_command_ends(stack: Stack, tmp_path: Path) -> None:
    seen, go = tmp_path / "seen", tmp_path / "go"
    script = (
        f"( while [ ! -e {go} ]; do sleep 0.05; done; {sys.executable} {MEMBER} once"
        f' "$COUNTERSIGN_MCP_URL" > {seen}.part; mv {seen}.part {seen} ) > /dev/null 2>&1 &'
    )
    done = run(stack, command=["/bin/sh", "-c", script])
    assert done.returncode == 0, done.stderr
    go.touch()
    deadline = time.monotonic() + 20
    while not seen.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads(seen.read_text()) == {"error": "URLError"}


def test_run_that_cannot_start_says_why_and_starts_nothing(stack: Stack, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for options, text in (
        (("--attestation-socket", "/nowhere/attest.sock"), "nothing here vouches"),
        (("--provider", "nobody"), "no such trust provider"),
        (("--server", "nowhere"), "invalid_target"),
        (("--token-file", "/nowhere/token"), "/nowhere/token"),
    ):
        done = run(stack, *options, command=["/usr/bin/touch", str(touched)])
        assert done.returncode == 1, (options, done.stderr)
        assert text in done.stderr, (options, done.stderr)
    assert not touched.exists()
