"""The story of `make run-keycloak`, as its command line plays it."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from compose.services.keycloak import install
from tests.services.common import service
from tests.stack import held_port

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def test_the_story_holds_with_people_at_a_real_keycloak(tmp_path: Path) -> None:
    with service("Keycloak"):
        install()
    with contextlib.ExitStack() as holding:
        *ports, keycloak = (str(held_port(holding)) for _ in range(5))
    played = subprocess.run(  # noqa: S603 - our own program
        [
            *(sys.executable, "-m", "compose.demo.story", "--once"),
            *("--directory", str(tmp_path / "run"), "--ports", ",".join(ports)),
            *("--keycloak", keycloak),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert "Every step held" in played.stdout
    assert "keycloak/support, keycloak/staff" in played.stdout
    steps = [line[:2].strip() for line in played.stdout.splitlines() if line[:2].strip().isdigit()]
    assert steps == [str(number) for number in range(1, 14)]
