"""What a stdio server leaves behind ends with it, whatever it did to get away.

Each test is a process of its own that becomes a subreaper, as the host is, with its own children.
"""

import subprocess
import sys
import textwrap

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.requirement("stdio-left-behind")]

# A server that starts something in a session of its own, perhaps by way of a parent that ends.
SERVER = """
import os, sys, time
def away(how):
    if os.fork() == 0:
        os.setsid()
        if how == "orphan" and os.fork() != 0:
            os._exit(0)
        print(os.getpid(), flush=True)
        time.sleep(600)
        os._exit(0)
away(sys.argv[1])
if sys.argv[2] == "stays":
    time.sleep(600)
"""

HOST = """
import os, subprocess, sys, time
from mcp_gateway.stdio_host.process_tree import ProcessTree, become_subreaper, _parent_of

assert become_subreaper()
how, server, is_told = sys.argv[1], sys.argv[2], sys.argv[3] == "told"
tree = ProcessTree(is_subreaper=is_told)
with tree.starting():
    leader = subprocess.Popen(
        [sys.executable, "-c", os.environ["SERVER"], how, server],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    tree.end_strays()  # too early to tell who is one
    tree.add(leader.pid)
other = subprocess.Popen(["sleep", "600"])
tree.add(other.pid)
away = int(leader.stdout.readline())
if server == "stays":
    tree.end_descendants(leader.pid)
    leader.kill()
leader.wait()
tree.forget(leader.pid)
deadline = time.monotonic() + 10
while time.monotonic() < deadline and (is_told or server == "stays"):
    tree.end_strays()
    if _parent_of(away) is None:
        break
    time.sleep(0.01)
print("alive" if _parent_of(away) else "gone", "alive" if other.poll() is None else "gone")
for pid in (away, other.pid):
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass
other.wait()
"""


def outcome(*arguments: str) -> str:
    ran = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", textwrap.dedent(HOST), *arguments],
        env={"SERVER": SERVER, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.splitlines()[-1]


@pytest.mark.parametrize("how", ["session", "orphan"])
@pytest.mark.parametrize("server", ["stays", "leaves"])
def test_process_that_left_its_group_is_ended_and_reaped_and_no_other(
    how: str, server: str
) -> None:
    assert outcome(how, server, "told") == "gone alive"


def test_children_of_a_process_that_is_no_subreaper_are_nobodys_strays() -> None:
    assert outcome("orphan", "leaves", "not told") == "alive alive"


MANY = """
import subprocess, time
from mcp_gateway.stdio_host import process_tree

assert process_tree.become_subreaper()
looks, look = [], process_tree._children
process_tree._children = lambda: looks.append(1) or look()
leave = "for i in $(seq 40); do setsid sleep 600 & done"
subprocess.run(["sh", "-c", leave], check=True)
tree = process_tree.ProcessTree(is_subreaper=True)
tree.end_strays()
print(len(looks) <= process_tree.ROUNDS)
deadline = time.monotonic() + 10
while time.monotonic() < deadline and look().get(process_tree.os.getpid()):
    tree.end_strays()
    time.sleep(0.01)
print(look().get(process_tree.os.getpid(), "none left"))
"""


def test_processes_are_looked_for_as_often_however_many_were_left() -> None:
    ran = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", MANY], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.splitlines()[-2:] == ["True", "none left"]
