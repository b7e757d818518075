"""Who is at the other end of a loopback connection: the kernel's tables, and real processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from countersign.agent_run import process_tree
from countersign.agent_run.process_tree import (
    Holder,
    descendants,
    member_of_run,
)
from countersign.loopback_sockets import PeerSocket, peer_socket

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


MEMBER = """
import socket
one, other = socket.socketpair()
print(one.fileno(), flush=True)
input()
"""


@pytest.fixture
def member() -> Iterator[tuple[int, int]]:
    """A member of the run, and the number of a socket that it has open for something else."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", MEMBER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        link = Path(f"/proc/{process.pid}/fd/{process.stdout.readline().strip()}").readlink()
        yield process.pid, int(str(link).removeprefix("socket:[").removesuffix("]"))
        process.kill()


@pytest.mark.processes
@pytest.mark.requirement("agent-run-tree")
@pytest.mark.parametrize("may_look", [True, False])
def test_socket_number_of_a_member_makes_nobody_else_one(
    listener: socket.socket,
    member: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    may_look: bool,
) -> None:
    """Numbers come round after 2^32: a stranger's may be one that a member has open as well."""
    if not may_look:
        monkeypatch.setattr(process_tree, "_PIDFD_GETFD", 10**6)  # ENOSYS, as on an old kernel
    stranger = socket.create_connection(listener.getsockname())  # of this very process
    with stranger, listener.accept()[0] as connection:
        collided = PeerSocket(inode=member[1], uid=os.getuid())
        monkeypatch.setattr(process_tree, "peer_socket", lambda *_: collided)
        if not may_look:
            # Its row is beside the member's, so the number is not only one socket's.
            monkeypatch.setattr(process_tree, "is_only_one", lambda inode: inode != member[1])
        assert judged(connection) is None


@pytest.mark.processes
@pytest.mark.requirement("agent-run-tree")
def test_member_is_known_where_nobody_may_look_at_its_sockets(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_tree, "_PIDFD_GETFD", 10**6)
    with client(listener) as process, accepted(listener, process) as connection:
        holder = judged(connection)
        assert holder is not None
        holder.close()
        found = peer_socket(connection.getpeername(), connection.getsockname())
        assert found is not None
        made_by_another = PeerSocket(found.inode, uid=found.uid + 1)
        monkeypatch.setattr(process_tree, "peer_socket", lambda *_: made_by_another)
        assert judged(connection) is None
        process.kill()
