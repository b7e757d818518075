"""Whether the process at the other end of a loopback connection belongs to the run. Linux only.

In this order, by the kernel's word alone:

1. the peer's own end of the connection is found (`loopback_sockets`): its inode
2. a descendant of this process has a socket of that number open (`/proc/PID/fd`)
3. that process is pinned by a pidfd; what was read of it is read again; and its socket is the other
   end of this connection: a number alone is no proof, for the kernel gives it anew after 2^32
4. from it, parent by parent, one comes to this process, and nobody on the way is younger than their
   child (a pid used again would be)
5. it is still alive and still has the socket open

This process is a subreaper (`adopt_orphans`), so whoever loses their parent stays below it; nobody
can become a descendant but by being forked by one. INVARIANT: what cannot be read is refused.

What this does not stop: a member of the tree that hands its connection on (SCM_RIGHTS, or by being
a proxy itself), and whoever may trace a member, which is root or, where `ptrace_scope` is 0, any
process of the same user. Between two requests the holder is looked at again (`still_holds`), so a
connection outlives neither the process that made it nor that process's own closing of it.
"""

import ctypes
import errno
import os
import select
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from countersign.loopback_sockets import Address, PeerSocket, is_between, is_only_one, peer_socket

MAXIMUM_DEPTH: Final = 256
_PROC: Final = Path("/proc")
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PIDFD_GETFD: Final = 438  # the system call; Linux 5.6, and one number for all architectures
_NOT_ALLOWED: Final = frozenset({errno.EPERM, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class Holder:
    """A process of the run that has a socket open, pinned by a pidfd until `close`."""

    pid: int
    descriptor: int
    inode: int
    pidfd: int

    def still_holds(self) -> bool:
        """Whether this very process is alive and has the socket open where it had it."""
        return _is_alive(self.pidfd) and _socket_at(self.pid, self.descriptor) == self.inode

    def close(self) -> None:
        """Forget the process."""
        os.close(self.pidfd)


def unsupported_reason() -> str | None:
    """Why runs cannot be told from other processes here; None where they can."""
    if sys.platform != "linux":
        return f"the peers of a loopback connection cannot be identified on {sys.platform}"
    if not hasattr(os, "pidfd_open"):
        return "this Python has no pidfd_open"
    if not (_PROC / "net" / "tcp").exists():
        return "/proc is not mounted"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"this kernel has no pidfd_open ({error.strerror}); Linux 5.3 is needed"
    return None


def adopt_orphans() -> None:
    """Be the one to whom processes below us fall when their parent dies (prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """No process of our user may read or trace us: key and tokens are in our memory."""
    _prctl(_PR_SET_DUMPABLE, 0)


def member_of_run(peer: Address, ours: Address) -> Holder | None:
    """The process below us at the other end of `ours`; None if it is not, or not beyond doubt.

    `peer` and `ours` are the two ends as our accepted socket names them. Blocks for `/proc` reads.
    """
    found = peer_socket(peer, ours)
    if found is None:
        return None
    for pid in descendants(os.getpid()):
        for descriptor in _descriptors_of(pid, found.inode):
            holder = _pinned(pid, descriptor, found, (peer, ours))
            if holder is not None:
                return holder
    return None


def descendants(root: int) -> tuple[int, ...]:
    """Every process below `root` now, nearest first; `root` itself is none of them."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        facts = _stat(pid)
        if facts is not None:
            children.setdefault(facts[0], []).append(pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = [child for parent in waiting for child in children.pop(parent, ())]
        found += below
        waiting = below
    return tuple(found)


def _pinned(
    pid: int, descriptor: int, found: PeerSocket, ends: tuple[Address, Address]
) -> Holder | None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    holder = Holder(pid, descriptor, found.inode, pidfd)
    if _descends_from_us(pid) and holder.still_holds() and _is_that_end(holder, found, ends):
        return holder
    holder.close()
    return None


def _is_that_end(holder: Holder, found: PeerSocket, ends: tuple[Address, Address]) -> bool:
    """Whether the holder's socket is the one between `ends`, seen from the peer.

    Attack: a stranger makes sockets until one has the number of one a member has open.
    """
    number = _libc().syscall(_PIDFD_GETFD, holder.pidfd, holder.descriptor, 0)
    if number >= 0:
        with socket.socket(fileno=number) as held:  # closes the copy alone
            return is_between(held, *ends)
    if ctypes.get_errno() not in _NOT_ALLOWED:
        return False
    # A kernel or a container that lets nobody look: then the number must be nobody else's now.
    try:
        uid = (_PROC / str(holder.pid)).stat().st_uid
    except OSError:
        return False
    return uid == found.uid and is_only_one(found.inode)


def _descends_from_us(pid: int) -> bool:
    ours = os.getpid()
    child = _stat(pid)
    for _ in range(MAXIMUM_DEPTH):
        if child is None:
            return False
        parent_pid, started = child
        parent = _stat(parent_pid)
        # Attack: the true parent ends, and its number is given to a process of the run.
        if parent is None or parent[1] > started:
            return False
        if parent_pid == ours:
            return True
        child = parent
    return False


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


def _stat(pid: int) -> tuple[int, int] | None:
    """The parent's pid, and when the process started in clock ticks since boot (proc(5))."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
        # The command in parentheses may itself contain spaces and parentheses.
        fields = text[text.rindex(b")") + 2 :].split()
        return int(fields[1]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _descriptors_of(pid: int, inode: int) -> list[int]:
    try:
        numbers = [int(entry.name) for entry in (_PROC / str(pid) / "fd").iterdir()]
    except OSError:  # gone, or another user's
        return []
    return [number for number in numbers if _socket_at(pid, number) == inode]


def _socket_at(pid: int, descriptor: int) -> int | None:
    try:
        target = str((_PROC / str(pid) / "fd" / str(descriptor)).readlink())
    except OSError:
        return None
    if not target.startswith("socket:["):
        return None
    return int(target.removeprefix("socket:[").removesuffix("]"))


def _is_alive(pidfd: int) -> bool:
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return not ended.poll(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
