"""Real Unix sockets and real child processes: what the kernel says of them."""

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from idp_connectors.workload import peer, process_facts
from idp_connectors.workload.peer import PeerIdentity, identify_peer, supports_peer_pidfd
from idp_connectors.workload.process_facts import ProcessGoneError, read_process
from idp_connectors.workload.unix_socket import SocketPathError, bind_unix_socket

pytestmark = pytest.mark.processes

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")

CONNECT = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(b"c")
"""
WAIT = "s.recv(1)\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    # Not tmp_path: other users must be able to reach it.
    with tempfile.TemporaryDirectory(prefix="peer") as directory:
        Path(directory).chmod(0o755)
        bound = bind_unix_socket(Path(directory, "peer.sock"), mode=0o666)
        bound.settimeout(10)
        with bound:
            yield bound


@contextmanager
def connected(
    listener: socket.socket, code: str = CONNECT + WAIT, *, program: Path | None = None
) -> Iterator[tuple[socket.socket, "subprocess.Popen[bytes]"]]:
    """A child process that connected and waits for one byte."""
    command = [sys.executable, *(["-c", code] if program is None else [str(program)])]
    child = subprocess.Popen([*command, listener.getsockname()])  # noqa: S603 - our own interpreter
    try:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            assert connection.recv(1) == b"c"
            yield connection, child
    finally:
        child.kill()
        child.wait()


def test_peer_is_the_process_that_connected(listener: socket.socket) -> None:
    with connected(listener) as (connection, child):
        found = identify_peer(connection)
    assert (found.process.pid, found.uid, found.process.gid) == (
        child.pid,
        os.getuid(),
        os.getgid(),
    )
    assert found.process.exe == os.path.realpath(sys.executable)
    assert found.process.parent_pid == os.getpid()
    assert found.process.script_digest is None
    assert found.ancestors == ()
    assert found.is_pinned == supports_peer_pidfd()


def test_peer_ancestors_reach_the_topmost_process(listener: socket.socket) -> None:
    with connected(listener) as (connection, _):
        found = identify_peer(connection, with_ancestors=True)
    assert found.ancestors[0].pid == os.getpid()
    assert found.ancestors[0].start_time <= found.process.start_time
    assert found.ancestors[-1].parent_pid == 0


def test_peer_script_digest_is_of_the_file_it_runs(listener: socket.socket, tmp_path: Path) -> None:
    script = tmp_path / "bot.py"
    script.write_text(CONNECT + WAIT)
    with connected(listener, program=script) as (connection, _):
        found = identify_peer(connection, with_script=True)
    assert (
        found.process.script_digest == "sha-256:" + hashlib.sha256(script.read_bytes()).hexdigest()
    )


def test_peer_without_a_script_has_no_digest(listener: socket.socket) -> None:
    with connected(listener) as (connection, _):
        assert identify_peer(connection, with_script=True).process.script_digest is None


@pytest.mark.requirement("trap-pid-reuse")
def test_peer_that_ended_is_refused(listener: socket.socket) -> None:
    with connected(listener, CONNECT) as (connection, child):
        child.wait()
        with pytest.raises(ProcessGoneError):
            identify_peer(connection)


@pytest.mark.requirement("trap-pid-reuse")
def test_peer_that_left_its_socket_to_a_child_and_ended_is_refused(
    listener: socket.socket,
) -> None:
    heir = CONNECT + "if os.fork(): os._exit(0)\n" + WAIT
    with connected(listener, heir) as (connection, child):
        child.wait()
        with pytest.raises(ProcessGoneError):
            identify_peer(connection)
        connection.send(b"x")


@pytest.mark.requirement("trap-pid-reuse")
def test_peer_that_ends_while_it_is_read_is_refused(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(listener) as (connection, child):

        def read_then_lose(pid: int, *, with_script: bool) -> process_facts.ProcessFacts:
            facts = read_process(pid, with_script=with_script)
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            return facts

        monkeypatch.setattr(peer, "read_process", read_then_lose)
        with pytest.raises(ProcessGoneError, match="ended"):
            identify_peer(connection)


@pytest.mark.requirement("trap-pid-reuse")
def test_pidfd_of_another_process_is_refused(listener: socket.socket) -> None:
    with connected(listener) as (_, child):
        own = os.pidfd_open(os.getpid())
        try:
            with pytest.raises(ProcessGoneError, match="not of process"):
                peer.require_alive(own, child.pid)
            peer.require_alive(own, os.getpid())
        finally:
            os.close(own)


@as_root
def test_peer_of_another_user_is_named_by_its_own_uid(listener: socket.socket) -> None:
    other = "import os, socket, sys; os.setgid(23456); os.setuid(12345)\n" + CONNECT + WAIT
    with connected(listener, other) as (connection, _):
        found = identify_peer(connection)
    assert (found.uid, found.process.gid) == (12345, 23456)


@as_root
@pytest.mark.requirement("trap-setuid-peer")
def test_peer_that_changed_its_user_after_connecting_is_refused(listener: socket.socket) -> None:
    changed = CONNECT + "os.setuid(12345); s.send(b'd')\n" + WAIT
    with connected(listener, changed) as (connection, _):
        assert connection.recv(1) == b"d"
        with pytest.raises(ProcessGoneError, match="user that connected"):
            identify_peer(connection)


@as_root
def test_peer_the_kernel_cannot_name_here_is_refused(listener: socket.socket) -> None:
    nobody = "import os, socket, sys; os.setuid(65534)\n" + CONNECT + WAIT
    with (
        connected(listener, nobody) as (connection, _),
        pytest.raises(ProcessGoneError, match="namespace"),
    ):
        identify_peer(connection)


def test_peer_on_a_kernel_without_peer_pidfd_is_found_but_not_pinned(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "SO_PEERPIDFD", 9999)
    with connected(listener) as (connection, child):
        found: PeerIdentity = identify_peer(connection)
    assert (found.process.pid, found.is_pinned) == (child.pid, False)
    assert not supports_peer_pidfd()


@pytest.mark.parametrize("kind", ["large", "pipe", "directory"])
def test_script_that_is_no_file_of_acceptable_size_has_no_digest(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "bot.py"
    if kind == "large":
        script.write_bytes(b"#" * (process_facts.MAXIMUM_SCRIPT_BYTES + 1))
    elif kind == "pipe":
        os.mkfifo(script)
    else:
        script.mkdir()
    assert process_facts._digest(script, os.getuid()) is None


def test_script_that_vanished_has_no_digest(listener: socket.socket, tmp_path: Path) -> None:
    script = tmp_path / "bot.py"
    script.write_text(CONNECT + WAIT)
    with connected(listener, program=script) as (connection, _):
        script.unlink()
        assert identify_peer(connection, with_script=True).process.script_digest is None


CLOSED = """
import ctypes, sys
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
print("closed", flush=True)
sys.stdin.read()
"""
READ = """
import sys
from idp_connectors.workload.process_facts import read_process
print(read_process(int(sys.argv[1]), with_script=True).script_digest)
"""


@pytest.mark.parametrize("is_absolute", [True, False])
def test_script_of_a_process_that_closed_its_memory_is_known_by_an_absolute_path(
    listener: socket.socket, is_absolute: bool
) -> None:
    """As `agent run` does, which without this could not be tried by the server's own user."""
    user = 64_999 if os.geteuid() == 0 else None  # to root nothing is closed
    python = f"/usr/bin/python3.{sys.version_info.minor}" if user else sys.executable
    if not Path(python).exists():
        pytest.skip(f"there is no {python} that another user may run")
    script = Path(listener.getsockname()).with_name("bot.py")
    script.write_text(CLOSED)
    with subprocess.Popen(  # noqa: S603 - our own program
        [python, str(script) if is_absolute else script.name],
        cwd=script.parent,
        user=user,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as bot:
        assert bot.stdout is not None
        assert bot.stdout.readline() == b"closed\n"
        done = subprocess.run(  # noqa: S603 - our own program
            [python, "-c", READ, str(bot.pid)],
            cwd=Path(__file__).parents[2],
            user=user,
            env={},
            capture_output=True,
            text=True,
            check=True,
        )
        bot.communicate()
    digest = "sha-256:" + hashlib.sha256(CLOSED.encode()).hexdigest()
    assert done.stdout.strip() == (digest if is_absolute else "None")


@pytest.mark.requirement("attack-26")
def test_script_its_process_may_not_read_has_no_digest(tmp_path: Path) -> None:
    script = tmp_path / "bot.py"
    script.write_text("# private")
    script.chmod(0o600)
    owner = script.stat().st_uid
    assert process_facts._digest(script, owner) is not None
    assert process_facts._digest(script, owner + 1) is None
    script.chmod(0o644)
    assert process_facts._digest(script, owner + 1) is not None


def test_read_of_a_process_that_is_not_there_raises() -> None:
    with pytest.raises(ProcessGoneError):
        read_process(2**22 + 1, with_script=False)
    with pytest.raises(ProcessGoneError):
        process_facts.parent_of(2**22 + 1)


def test_socket_replaces_what_a_dead_process_left_and_has_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "attest.sock"
    bind_unix_socket(path, mode=0o666).close()
    with bind_unix_socket(path, mode=0o600):
        assert path.stat().st_mode & 0o777 == 0o600


def test_socket_another_process_listens_at_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "attest.sock"
    with (
        bind_unix_socket(path, mode=0o666),
        pytest.raises(SocketPathError, match="another process"),
    ):
        bind_unix_socket(path, mode=0o666)


def test_socket_over_a_file_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "attest.sock"
    path.write_text("kept")
    with pytest.raises(SocketPathError, match="no socket"):
        bind_unix_socket(path, mode=0o666)
    assert path.read_text() == "kept"


def test_socket_in_a_directory_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(SocketPathError, match="others may write"):
        bind_unix_socket(tmp_path / "attest.sock", mode=0o666)
    tmp_path.chmod(0o1777)
    bind_unix_socket(tmp_path / "attest.sock", mode=0o666).close()


@pytest.mark.parametrize("name", ["x" * 200, "missing/attest.sock"])
def test_socket_at_an_impossible_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SocketPathError):
        bind_unix_socket(tmp_path / name, mode=0o666)
