"""Plays docs/guides/compose.md in a place of its own; run by `test_compose.py`.

unshare --mount --net python -m tests.interop.compose_rehearsal PROJECT.json DIRECTORY
"""

import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from compose.demo.browser import Browser, log_in_and_allow
from compose.demo.people import PASSWORDS
from tests.interop.compose_engine import Engine, engine

CALLBACK = "http://127.0.0.1"


def step(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def start_everything(running: Engine) -> None:
    running.postgres()
    running.valkey()
    running.front()
    running.keycloak()
    running.notes()
    running.countersign("authz-server")
    step("the authorization server is healthy")


def declare(running: Engine) -> None:
    for name in ("keycloak-client", "keycloak-watch", "notes-api-key"):
        running.operator("secret", "set", name, "--value-file", f"/run/secrets/{name}")
    running.operator("apply", "-f", "/objects", "--yes")
    for name in ("one", "two"):
        code = f"/var/lib/countersign/join/{name}.code"
        running.operator("gateway", "join", name, "--out", code)
        running.countersign(f"gateway-{name}")
    step("both gateways are healthy")
    running.operator("tools", "approve", "notes", "--all", "--yes", "--wait", "30")
    running.operator("apply", "-f", "/objects", "--yes", "--wait", "30")


def call(running: Engine, gateway: str) -> None:
    """The agent calls through one of the gateways, for alice."""
    name = "agent"
    words = [*running.command(name, [sys.executable])]
    words = [str(word).replace("//one.", f"//{gateway}.") for word in words]
    with subprocess.Popen(  # noqa: S603 - our own example
        words,
        env=running.environment(name) | {"BROWSER": "/bin/true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        try:
            assert agent.stdout is not None
            first = agent.stdout.readline()
            assert "Log in" in first, first + (agent.stderr.read() if agent.stderr else "")
            url = agent.stdout.readline().strip()
            come_back(url, running)
            output, errors = agent.communicate(timeout=30)
        finally:
            agent.kill()
    assert (agent.returncode, errors) == (0, ""), output + errors
    assert "Q3 numbers" in output, output
    step(f"a call for alice through {gateway}")


def come_back(url: str, running: Engine) -> None:
    """Alice at her browser, which trusts the state directory's authority."""
    callback = dict(httpx2.URL(url).params)["redirect_uri"]
    trusted = ssl.create_default_context(cafile=running.place("agent", "/run/secrets/ca.pem"))
    browser = Browser(stop_at=callback, verify=trusted)
    try:
        redirect, consent = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
    finally:
        browser.close()
    assert consent is not None or "code=" in redirect
    assert httpx2.get(redirect, trust_env=False).status_code == httpx2.codes.OK


def look_back(running: Engine) -> None:
    found = json.loads(running.operator("-o", "json", "audit", "search", "--limit", "1000"))
    assert found["complete"], found["gaps"]
    calls = [event for event in found["events"] if event["type"] == "call.finished"]
    assert {event["target_service"] for event in calls} == {"notes"}
    assert len(calls) == 2, calls
    step("the audit is complete")


def main() -> None:
    project: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    with engine(project, Path(sys.argv[2])) as running:
        start_everything(running)
        declare(running)
        for gateway in ("one", "two"):
            call(running, gateway)
        look_back(running)
    step("rehearsed")


if __name__ == "__main__":
    main()
