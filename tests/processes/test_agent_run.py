"""`countersign agent run`: an agent without a line of authentication, and everybody else."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from compose.demo.stack import Stack
from tests.stack import admin, await_event, demo_objects, prepare, running_stack

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

COUNTERSIGN = Path(__file__).with_name("countersign_script.py")
PLAIN_AGENT = Path(__file__).with_name("plain_agent.py")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo; its agent is what runs under the command, and may act alone."""
    with running_stack(tmp_path_factory.mktemp("agent-run"), prepared=False) as running:
        objects = demo_objects(running)
        for each in objects:
            if each["kind"] == "Agent":
                digest = f"sha-256:{hashlib.sha256(COUNTERSIGN.read_bytes()).hexdigest()}"
                each["spec"]["attestation"]["match"]["unix.script_digest"] = digest
                each["spec"]["acts_alone"] = True
            if each["kind"] == "Policy" and each["name"] == "support":
                each["spec"]["cedar"] += ALONE
        prepare(running, objects)
        yield running


ALONE = """
@id("grant-alone")
permit (principal == Agent::"support-bot", action in Action::"call_read", resource == Tool::"crm/list_hours")
unless { context.run has user };
"""


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


def test_agent_without_authentication_lists_and_calls_tools(stack: Stack) -> None:
    done = run(stack, command=[sys.executable, str(PLAIN_AGENT), "list_hours", "{}"])
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert "list_hours" in told["tools"]
    assert told["is_error"] is False, told
