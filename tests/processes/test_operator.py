"""What operators type, against real processes: doctor, explain, diff, export, describe, kill."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from compose.demo.stack import COUNTERSIGN
from countersign.outside_view import certificate_findings
from tests.cluster import Balancer
from tests.deployment import Deployment, running_deployment
from tests.operators import typed
from tests.private_authority import issued
from tests.stack import admin, held_port

pytestmark = pytest.mark.processes

TOOLS = ["get_account", "refund", "list_hours"]
Findings = list[dict[str, str]]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running_deployment(tmp_path_factory.mktemp("deployment")) as running:
        role = {"identity_provider": "local", "subject": "acc_somebody", "role": "admin"}
        with admin(running.first) as api:
            body = {"objects": [{"kind": "AdminRole", "name": "somebody", "spec": role}]}
            api.call("POST", "/objects", json=body)
        assert_mended(running)  # the gateways have heard of it
        yield running


def doctor(deployment: Deployment, *options: str) -> tuple[int, Findings]:
    """The exit code, and what is not in order."""
    by = ("-o", "json", *options)
    done = typed(deployment.first, *by, "doctor", socket=True, check=False)
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, [each for each in findings if each["level"] != "ok"]


def doctor_until(deployment: Deployment, says: str, seconds: float = 20) -> tuple[int, Findings]:
    """Ask until somebody says so, and every gateway has heard of what was declared last."""
    deadline = time.monotonic() + seconds
    while True:
        code, found = doctor(deployment)
        told = "\n".join(each["found"] for each in found)
        if (says in told and "behind:" not in told) or time.monotonic() > deadline:
            return code, found
        time.sleep(0.5)


def assert_mended(deployment: Deployment, seconds: float = 20) -> None:
    """Nothing is found any more, once the doctor looks again: an answer is given for a while."""
    deadline = time.monotonic() + seconds
    while (said := doctor(deployment)) != (0, []):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)


def apply(deployment: Deployment, *objects: dict[str, Any]) -> str:
    documents = "---\n".join(yaml.safe_dump(each) for each in objects)
    done = typed(deployment.first, "apply", "-y", "-f", "-", stdin=documents, socket=True)
    return done.stdout + done.stderr


@pytest.mark.requirement("operator-doctor")
def test_doctor_of_a_healthy_deployment_finds_nothing_and_exits_0(deployment: Deployment) -> None:
    code, found = doctor_until(deployment, "nothing at all", seconds=0)
    assert (code, found) == (0, [])
    shown = typed(deployment.first, "doctor", "--all", socket=True).stdout
    for check in ("issuer", "clock", "jwks", "endpoint", "database", "keys", "gateway", "server"):
        assert any(line.split()[:2] == ["ok", check] for line in shown.splitlines()), shown


@pytest.mark.requirement("operator-doctor")
def test_doctor_at_another_address_says_that_the_issuer_differs(deployment: Deployment) -> None:
    with contextlib.ExitStack() as holding:
        port = held_port(holding)
    with contextlib.closing(Balancer(port, (deployment.first.ports.issuer,))):
        code, found = doctor(deployment, "--issuer", f"http://127.0.0.1:{port}")
    assert code == 2
    documents = [each for each in found if "openid-configuration" in each["subject"]]
    assert "every client must refuse it" in documents[0]["found"]
    assert "byte for byte" in documents[0]["remedy"]


@pytest.mark.requirement("operator-doctor")
def test_doctor_finds_a_server_that_cannot_be_reached_and_how_to_mend_it(
    deployment: Deployment,
) -> None:
    stack = deployment.first
    with contextlib.ExitStack() as holding:
        url = f"http://127.0.0.1:{held_port(holding)}/mcp"
        dead = {"url": url, "credential": {"provider": "crm-token"}}
        gateway = {"base_url": stack.base_url, "servers": ["crm", "notes", "dead"]}
        apply(
            deployment,
            {"kind": "McpServer", "name": "dead", "spec": dead},
            {"kind": "Gateway", "name": stack.gateway, "spec": gateway},
        )
        code, found = doctor_until(deployment, "cannot list its tools")
        listed = typed(stack, "tools", "list", "dead", socket=True)
        described = typed(stack, "describe", "mcpserver", "dead", socket=True).stdout

    assert code == 2
    (problem,) = (each for each in found if each["subject"] == "dead")
    assert "upstream_unreachable" in problem["found"]
    assert "correct its url" in problem["remedy"]
    assert "NOT reachable" in listed.stderr
    assert "NOT reachable" in described
    gateway["servers"] = ["crm", "notes"]
    apply(deployment, {"kind": "Gateway", "name": stack.gateway, "spec": gateway})
    typed(stack, "delete", "McpServer", "dead", "-y", socket=True)
    assert_mended(deployment)


@pytest.mark.requirement("operator-doctor")
@pytest.mark.requirement("operator-warnings")
def test_doctor_names_the_tools_that_policies_wait_for(deployment: Deployment) -> None:
    cedar = '@id("late") permit (principal, action == Action::"crm/get_acount", resource);'
    said = apply(deployment, {"kind": "Policy", "name": "late", "spec": {"cedar": cedar}})
    code, found = doctor_until(deployment, "crm/get_acount")
    typed(deployment.first, "delete", "Policy", "late", "-y", socket=True)

    assert "did you mean 'crm/get_account'" in said
    assert (code, [each["check"] for each in found]) == (1, ["policies"])
    assert "countersign tools approve crm" in found[0]["remedy"]
    assert_mended(deployment)


@pytest.mark.requirement("operator-files")
def test_export_of_everything_is_no_difference_and_get_can_be_applied(
    deployment: Deployment, tmp_path: Path
) -> None:
    stack = deployment.first
    typed(stack, "export", "--output", str(tmp_path / "out"), socket=True)
    same = typed(stack, "diff", "-f", str(tmp_path / "out"), socket=True)
    got = typed(stack, "get", "-o", "yaml", socket=True).stdout
    again = typed(stack, "apply", "-y", "-f", "-", stdin=got, socket=True).stdout
    file = tmp_path / "out" / "Agent.support-bot.yaml"
    file.write_text(file.read_text().replace("invocation_seconds: 900", "invocation_seconds: 901"))
    other = typed(stack, "diff", "-f", str(tmp_path / "out"), socket=True, check=False)

    assert same.stdout == "No difference.\n"
    assert "Nothing changed." in again
    assert other.returncode == 1
    assert "invocation_seconds: 900 → 901" in other.stdout
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert stack.notes_key not in written
    assert "notes-api-key" in written  # its name


@pytest.mark.requirement("operator-explain")
@pytest.mark.parametrize(
    ("person", "tool", "arguments", "says"),
    [
        ("alice", "get_account", {"id": 17}, "grant-support-read"),
        ("alice", "refund", {"account_id": 17, "amount": 900}, "amount is at most 500"),
        ("alice", "refund", {"account_id": 17, "amount": 100}, "grant-refund"),
        ("bob", "get_account", {"id": 17}, "bob is in local/support"),
        ("bob", "list_hours", {}, "grant-staff-hours"),
    ],
)
def test_explain_says_what_the_gateway_then_does(
    deployment: Deployment, person: str, tool: str, arguments: dict[str, Any], says: str
) -> None:
    agent = deployment.agent(deployment.first)
    agent.token_for(person, "crm", TOOLS)
    stack = deployment.first

    explained = typed(
        stack, "explain", "--agent", "support-bot", "--user", person, "--tool", f"crm/{tool}",
        "--args", json.dumps(arguments), socket=True, check=False,
    )  # fmt: skip
    answer = agent.call("crm", tool, arguments)

    result = answer.json()["result"]
    was_denied = "decision_id" in json.dumps(result.get("_meta", {}))
    assert explained.returncode == (1 if was_denied else 0), explained.stdout + answer.text
    assert says in explained.stdout, explained.stdout


@pytest.mark.requirement("operator-names")
def test_kill_and_restore_of_a_person_by_login_name(deployment: Deployment) -> None:
    agent = deployment.agent(deployment.first)
    agent.token_for("bob", "crm", TOOLS)
    assert agent.call("crm", "list_hours").status_code == httpx2.codes.OK

    typed(deployment.first, "kill", "user/bob", "--reason", "gone", socket=True)
    refused = agent.call("crm", "list_hours")
    explain = ("explain", "--agent", "support-bot", "--user", "bob", "--tool", "crm/list_hours")
    cut = typed(deployment.first, *explain, socket=True, check=False)
    typed(deployment.first, "restore", "user/bob", socket=True)

    assert refused.status_code == httpx2.codes.UNAUTHORIZED
    assert "user/bob is cut off" in cut.stdout
    assert "countersign restore user/bob" in cut.stdout
    nobody = typed(
        deployment.first, "kill", "user/bobby", "--reason", "x", socket=True, check=False
    )
    assert (nobody.returncode, "nobody called 'bobby'" in nobody.stderr) == (1, True)


@pytest.mark.requirement("operator-doctor")
def test_doctor_finds_a_gateway_that_stopped(deployment: Deployment) -> None:
    second = deployment.second
    deployment.process(second).stop()
    code, found = doctor_until(deployment, "no process of it is heard of")
    process = deployment.start_gateway(second)
    second.await_gateway()

    assert code == 2
    (gone,) = (each for each in found if each["check"] == "gateway")
    assert (gone["subject"], gone["level"]) == ("second", "problem")
    assert "mcp-gateway" in gone["remedy"]
    assert {each["check"] for each in found} == {"gateway", "endpoint"}
    assert process.popen.poll() is None


def test_completion_offers_the_commands() -> None:
    environment = {
        **os.environ,  # noqa: TID251 - passed to the child
        "_COUNTERSIGN_COMPLETE": "complete_bash",
        "COMP_WORDS": "countersign ex",
        "COMP_CWORD": "1",
    }
    command = [str(Path(COUNTERSIGN[0]).with_name("countersign"))]
    done = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=False, timeout=30, env=environment
    )
    assert set(done.stdout.split()) == {"explain", "export"}, done.stderr


@contextlib.contextmanager
def tls_listener(both: Path) -> Iterator[int]:
    """Accepts one handshake after the other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with contextlib.suppress(OSError):
                        context.wrap_socket(connection, server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(
    ("days", "is_trusted", "level"),
    [(60, True, "ok"), (10, True, "warning"), (60, False, "problem")],
)
def test_certificate_of_an_https_issuer_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, is_trusted: bool, level: str
) -> None:
    authority, both = issued(tmp_path, days)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with tls_listener(both) as port:
        url = f"https://127.0.0.1:{port}/tenant"
        (found,) = certificate_findings(url, time.time())  # noqa: TID251 - TLS has real time
    assert (found.check, found.level.value) == ("tls", level)
    (closed,) = certificate_findings(url, 0)
    assert "no TLS connection" in closed.found
    assert list(certificate_findings("http://127.0.0.1", 0)) == []
