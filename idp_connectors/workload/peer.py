"""Who is at the other end of a Unix socket: the kernel's word, safe against pid reuse.

Order: the credentials the kernel noted at connect → a pidfd of that very process
(`SO_PEERPIDFD`; without it one opened by pid, which is weaker and said so) → the pidfd's pid is
that pid → `/proc` → the process still runs under the user that connected → it is still alive.
INVARIANT: facts count only if the process was alive after the last of them was read, for a pid
cannot be given to another process before that.

Left out: whether the peer may do anything.
"""

import errno
import os
import select
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from idp_connectors.workload.process_facts import (
    ProcessFacts,
    ProcessGoneError,
    parent_of,
    read_process,
)

SO_PEERPIDFD: Final = 77  # Linux 6.5; the name is missing from Python 3.11
MAXIMUM_ANCESTORS: Final = 64
OVERFLOW_ID: Final = 65_534  # what the kernel shows for a user it cannot name here

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The process at the other end of a Unix socket.

    `is_pinned`: the kernel itself named the process (`SO_PEERPIDFD`). `ancestors`: its parent
    first, up to the topmost process; empty unless asked for.
    """

    process: ProcessFacts
    is_pinned: bool
    ancestors: tuple[ProcessFacts, ...] = ()

    @property
    def uid(self) -> int:
        """The user it connected as."""
        return self.process.uid

    @property
    def unit(self) -> str | None:
        """The systemd unit it runs in."""
        return self.process.unit


def identify_peer(
    connection: socket.socket, *, with_script: bool = False, with_ancestors: bool = False
) -> PeerIdentity:
    """Identify the peer of a connected Unix stream socket. Blocks for some `/proc` reads.

    Raises:
        ProcessGoneError: The peer cannot be identified beyond doubt.
    """
    pid, uid, gid = peer_credentials(connection)
    if pid <= 0 or OVERFLOW_ID in (uid, gid):
        raise ProcessGoneError("the peer is outside our process or user namespace")
    with ExitStack() as stack:
        descriptor, is_pinned = _pidfd_of_peer(connection, pid)
        stack.callback(os.close, descriptor)
        process = read_process(pid, with_script=with_script)
        # Attack: connect, then execute a set-user-id program to be taken for it.
        if set(process.uids) != {uid} or process.gid != gid:
            raise ProcessGoneError("the peer does not run as the user that connected")
        ancestors = _ancestors(process, stack, with_script=with_script) if with_ancestors else ()
        require_alive(descriptor, pid)
    return PeerIdentity(process, is_pinned, ancestors)


def peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of the peer as the kernel noted them at connect."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def supports_peer_pidfd() -> bool:
    """Whether this kernel names peers by pidfd."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
        except OSError:
            return False
    return True


def require_alive(descriptor: int, pid: int) -> None:
    """Check that a pidfd is of process `pid`, and that the process has not ended.

    Raises:
        ProcessGoneError: It has ended, or the pidfd is of another one.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):  # pidfd_open(2): readable when the process has ended
        raise ProcessGoneError(f"process {pid} ended")
    if _pid_of(descriptor) != pid:
        raise ProcessGoneError(f"the pidfd is not of process {pid}")


def _pidfd_of_peer(connection: socket.socket, pid: int) -> tuple[int, bool]:
    try:
        descriptor, is_pinned = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD), True
    except OSError as cause:
        # Only an old kernel may weaken the evidence: a peer that is gone must not.
        if cause.errno != errno.ENOPROTOOPT:
            raise ProcessGoneError(f"process {pid} is gone") from cause
        descriptor, is_pinned = _pidfd_open(pid), False
    try:
        require_alive(descriptor, pid)
    except ProcessGoneError:
        os.close(descriptor)
        raise
    return descriptor, is_pinned


def _ancestors(
    process: ProcessFacts, stack: ExitStack, *, with_script: bool
) -> tuple[ProcessFacts, ...]:
    """The chain of parents, each held by a pidfd until the chain is complete."""
    chain: list[ProcessFacts] = []
    child = process
    while child.parent_pid > 0:
        if len(chain) == MAXIMUM_ANCESTORS:
            raise ProcessGoneError("too many ancestors")
        descriptor = _pidfd_open(child.parent_pid)
        stack.callback(os.close, descriptor)
        parent = read_process(child.parent_pid, with_script=with_script)
        require_alive(descriptor, parent.pid)
        # The parent may have ended and its pid gone to another before we opened it.
        if parent_of(child.pid) != parent.pid:
            raise ProcessGoneError(f"process {child.pid} changed its parent")
        chain.append(parent)
        child = parent
    return tuple(chain)


def _pidfd_open(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as cause:
        raise ProcessGoneError(f"process {pid} cannot be opened") from cause


def _pid_of(descriptor: int) -> int:
    """The pid of a pidfd; -1 when the process is gone, 0 when it is in another namespace."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return int(value)
    return -1
