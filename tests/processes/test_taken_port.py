"""A server whose port is taken touches nothing, says which setting to change, and ends."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from countersign.settings import environment_for_child

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("authz-server", "COUNTERSIGN_LISTEN_PORT"),
        ("serve", "COUNTERSIGN_LISTEN_PORT"),
        ("mcp-gateway", "COUNTERSIGN_GATEWAY_PORT"),
    ],
)
def test_taken_port_ends_the_process_before_anything_is_written(
    tmp_path: Path, command: str, setting: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "countersign", command],
            cwd=tmp_path,
            env={**environment_for_child(), setting: str(port)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert f"cannot listen at 127.0.0.1:{port} ({setting})" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.db"))
    assert not list(tmp_path.rglob("setup-code"))
