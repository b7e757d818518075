"""Who is at the other end of a loopback connection: the kernel's tables, and real processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from countersign.agent_run.process_tree import (
    Holder,
    descendants,
    member_of_run,
)

CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(connection.getsockname()[1], flush=True)
connection.recv(1)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def client(listener: socket.socket, *before: str) -> "subprocess.Popen[str]":
    command = [*before, sys.executable, "-c", CLIENT, str(listener.getsockname()[1])]
    return subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def accepted(listener: socket.socket, process: "subprocess.Popen[str]") -> socket.socket:
    assert process.stdout is not None
    port = int(process.stdout.readline())
    while True:
        connection, peer = listener.accept()
        if peer[1] == port:
            return connection
        connection.close()


def judged(connection: socket.socket) -> Holder | None:
    return member_of_run(connection.getpeername()[:2], connection.getsockname()[:2])


@pytest.mark.processes
@pytest.mark.requirement("agent-run-tree")
def test_child_is_a_member_until_it_ends(listener: socket.socket) -> None:
    with client(listener) as process, accepted(listener, process) as connection:
        holder = judged(connection)
        assert holder is not None
        assert holder.pid == process.pid
        assert process.pid in descendants(os.getpid())
        assert holder.still_holds()
        process.kill()
        process.wait()
        assert not holder.still_holds()
        assert judged(connection) is None
        holder.close()


# A middle process, a subreaper like us, asks of connections of its child and of others.
ASKER = """
import json, os, socket, subprocess, sys
from countersign.agent_run.process_tree import adopt_orphans, member_of_run
adopt_orphans()
connection = socket.socket(fileno=int(sys.argv[1]))
holder = member_of_run(connection.getpeername()[:2], connection.getsockname()[:2])
print(json.dumps(None if holder is None else holder.pid))
"""


@pytest.mark.processes
@pytest.mark.requirement("agent-run-tree")
def test_process_of_the_same_user_outside_the_tree_is_no_member(listener: socket.socket) -> None:
    with client(listener) as process, accepted(listener, process) as connection:
        asked = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", ASKER, str(connection.fileno())],
            pass_fds=[connection.fileno()],
            capture_output=True,
            check=True,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
        assert json.loads(asked.stdout) is None
        holder = judged(connection)  # the twin: of our own tree it is one
        assert holder is not None
        holder.close()
        process.kill()


@pytest.mark.processes
@pytest.mark.requirement("agent-run-tree")
def test_orphan_falls_to_the_subreaper_and_stays_a_member() -> None:
    code = f"""
import subprocess, sys, socket
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from countersign.agent_run.process_tree import adopt_orphans, member_of_run
adopt_orphans()
listener = socket.create_server(("127.0.0.1", 0))
port = str(listener.getsockname()[1])
middle = subprocess.Popen(["/bin/sh", "-c", '"$@" & exit 0', "sh", sys.executable, "-c",
    {CLIENT!r}, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
connection, _ = listener.accept()
middle.wait()
holder = member_of_run(connection.getpeername()[:2], connection.getsockname()[:2])
print(holder is not None and holder.still_holds())
connection.close()
"""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.processes
def test_nobody_else_reads_our_memory_once_it_is_hidden() -> None:
    code = """
import os
from countersign.agent_run.process_tree import hide_memory
before = os.stat("/proc/self/environ").st_uid
hide_memory()
print(before == os.getuid(), os.stat("/proc/self/environ").st_uid)
"""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == ["True", "0"]  # the kernel gives such files to root
