"""What a run refuses to start with, and how it ends a command that does not want to."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from countersign.agent_run import process_tree
from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.errors import AgentRunError
from countersign.agent_run.platform_proofs import TokenFile
from countersign.agent_run.run import RunPlan, run_agent
from countersign.open_browser import open_browser

ROOT = Path(__file__).parents[2]


def plan(touched: Path) -> RunPlan:
    return RunPlan(
        issuer="http://127.0.0.1:9",
        endpoints=(Endpoint("crm", "http://127.0.0.1:9/crm/mcp"),),
        proofs=TokenFile(Path("/nowhere")),
        login=None,
        command=["/usr/bin/touch", str(touched)],
        environment={},
        port=0,
    )


@pytest.mark.requirement("agent-run-tree")
@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_run_elsewhere_than_on_linux_starts_nothing_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str
) -> None:
    assert process_tree.unsupported_reason() is None
    monkeypatch.setattr(sys, "platform", platform)
    told: list[str] = []
    with pytest.raises(AgentRunError, match=f"cannot be identified on {platform}"):
        asyncio.run(run_agent(plan(tmp_path / "touched"), lambda: 0.0, told.append))
    assert not (tmp_path / "touched").exists()


STUBBORN = """
import asyncio, os, signal, sys
from countersign.agent_run import run
from countersign.agent_run.addresses import Endpoint
run.STOP_SECONDS = 0.2
shell = "trap '' TERM; kill -TERM $PPID; while :; do sleep 0.05; done"
plan = run.RunPlan("", (Endpoint("crm", ""),), None, None, ["/bin/sh", "-c", shell], os.environ, 0)
print(asyncio.run(run._run_command(plan, 4711, print)))
"""

ORPHANS = """
import asyncio, json, os
from countersign.agent_run import run
from countersign.agent_run.addresses import Endpoint
shell = "for n in 1 2 3; do ( ( sleep 0.05 ) & ) ; done; sleep 0.5"
plan = run.RunPlan("", (Endpoint("crm", ""),), None, None, ["/bin/sh", "-c", shell], os.environ, 0)

async def main():
    code = await run._run_command(plan, 4711, print)
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = None
    return code, left

print(json.dumps(asyncio.run(main())))
"""


def fresh(code: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_command_that_will_not_end_is_killed() -> None:
    assert fresh(STUBBORN).strip() == str(128 + 9)


@pytest.mark.processes
def test_orphans_are_taken_in_and_leave_no_zombie() -> None:
    assert json.loads(fresh(ORPHANS)) == [0, None]


@pytest.mark.processes
@pytest.mark.requirement("agent-run-tree")
def test_browser_that_shows_the_login_is_no_process_of_the_run(tmp_path: Path) -> None:
    said, script = tmp_path / "said", tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$$ $1" > {said}.part; mv {said}.part {said}; sleep 20\n')
    script.chmod(0o755)
    url = "https://as.example.com/oauth/authorize?state=x"
    subprocess.run(
        [sys.executable, "-m", "countersign.open_browser"],
        input=url.encode(),
        check=True,
        timeout=60,
        cwd=ROOT,
        env={"BROWSER": f"{script} %s", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    deadline = time.monotonic() + 20
    while not said.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid, shown = said.read_text().split()
    try:
        assert shown == url
        assert Path("/proc", pid).exists()
        assert int(pid) not in process_tree.descendants(os.getpid())
    finally:
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.processes
def test_login_runs_nothing_that_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "ran"
    package = tmp_path / "countersign"
    package.mkdir()
    for module in (package / "__init__.py", tmp_path / "webbrowser.py"):
        module.write_text(f"open({str(trap)!r}, 'w')\n")
    said, script = tmp_path / "said", tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {said}.part; mv {said}.part {said}\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROWSER", f"{script} %s")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    open_browser("https://as.example.com/")
    deadline = time.monotonic() + 20
    while not said.exists():
        assert not trap.exists()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not trap.exists()
