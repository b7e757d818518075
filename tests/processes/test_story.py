"""The story of `make run` holds, and breaks at the right step when any one thing is broken."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.saboteurs.saboteurs import SABOTEURS
from tests.stack import free_ports

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(240)]

SECONDS = 150
REPOSITORY = Path(__file__).parents[2]
STEPS = (
    "attest",
    "login",
    "consent",
    "token",
    "call",
    "call",
    "call",
    "call",
    "call",
    "bob",
    "bypass",
    "kill",
    "audit",
)


def play(directory: Path, saboteur: str | None = None) -> subprocess.CompletedProcess[str]:
    """`make run ONCE=1` on free ports, with the saboteur in every process it starts."""
    environment = dict(os.environ)  # noqa: TID251 - passed to the children
    if saboteur is not None:
        environment["SABOTEUR"] = saboteur
        environment["PYTHONPATH"] = f"{REPOSITORY / 'tests' / 'saboteurs'}:{REPOSITORY}"
    ports = free_ports()
    numbers = (ports.issuer, ports.gateway, ports.crm, ports.notes)
    command = [sys.executable, "-m", "compose.demo.story", "--once"]
    command += ["--directory", str(directory / "run"), "--ports", ",".join(map(str, numbers))]
    with subprocess.Popen(  # noqa: S603 - our own command
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as story:
        try:
            stdout, stderr = story.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(story.pid, signal.SIGTERM)  # it and everything it started
            raise
    return subprocess.CompletedProcess(command, story.returncode, stdout, stderr)


def test_story_unbroken_shows_every_step_and_ends_with_0(tmp_path: Path) -> None:
    story = play(tmp_path)
    assert story.returncode == 0, story.stdout + story.stderr
    shown = re.findall(r"^ ?(\d+) (\w+) ", story.stdout, re.MULTILINE)
    assert shown == [(str(number), name) for number, name in enumerate(STEPS, start=1)]
    assert "Every step held" in story.stdout


@pytest.mark.soak
@pytest.mark.parametrize("name", SABOTEURS)
def test_story_with_one_thing_broken_ends_with_1_and_names_the_step(
    tmp_path: Path, name: str
) -> None:
    story = play(tmp_path, name)
    assert story.returncode == 1, story.stdout + story.stderr
    assert f"step {SABOTEURS[name].step} failed" in story.stdout, story.stdout + story.stderr
    assert "Every step held" not in story.stdout
