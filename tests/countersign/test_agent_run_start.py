"""What a run refuses to start with, and how it ends a command that does not want to."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from countersign.agent_run import process_tree
from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.errors import AgentRunError
from countersign.agent_run.platform_proofs import TokenFile
from countersign.agent_run.run import RunPlan, run_agent

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
