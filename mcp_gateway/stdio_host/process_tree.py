"""What a stdio server started and left behind: found by who its parent is, and ended with it.

Signals to a process group miss whoever left it (`setsid`). So the host is told of orphans: as a
*subreaper* (`prctl(2)`) it becomes the parent of every descendant whose own parent ended, instead
of PID 1. When a server ends, its descendants are ended first, by the tree; and whoever has become a
child of the host without having been started by it has lost its server, or hides from it, and is
ended, too: at once when any server ends, and else at the next sweep.

Left out: cgroups, which would end all at one word, but which an unprivileged host has none of. A
process that starts others faster than they are ended is stopped by `limits: processes`.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

PR_SET_CHILD_SUBREAPER: Final = 36
ROUNDS: Final = 10  # each ends what the one before could still start
_PROC: Final = Path("/proc")

_logger = structlog.get_logger(__name__)


class ProcessTree:
    """The processes a host has started, as far as it must tell them from strays."""

    def __init__(self, *, is_subreaper: bool = False) -> None:
        """`is_subreaper`: every child of this process is a server of ours or a stray."""
        self._is_subreaper = is_subreaper
        self._leaders: set[int] = set()
        self._starting = 0

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """A child is there before we know its number: until then nobody is a stray."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def add(self, pid: int) -> None:
        """A server was started."""
        self._leaders.add(pid)

    def forget(self, pid: int) -> None:
        """It was waited for."""
        self._leaders.discard(pid)

    def end_descendants(self, pid: int) -> None:
        """End whatever descends from a server, whichever group it is in."""
        for _ in range(ROUNDS):
            ended = [_kill(each, parent) for each, parent in _descendants(pid, _children())]
            if not any(ended):
                return

    def end_strays(self) -> None:
        """End and reap the children that we have not started, with what descends from them."""
        if not self._is_subreaper or self._starting:
            return
        own, left = os.getpid(), 0
        for _ in range(ROUNDS):
            # /proc is read once a round, however many there are: the host serves others, too.
            children = _children()
            strays = [each for each in children.get(own, ()) if each not in self._leaders]
            ended = 0
            for stray in strays:
                for each, parent in (*_descendants(stray, children), (stray, own)):
                    ended += _kill(each, parent)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(stray, os.WNOHANG)  # who has only just been killed, the next time
            left += ended
            if not ended:  # who is left is dead, and is reaped the next time
                break
        if left:
            _logger.warning("stdio_servers_left_processes", processes=left)


def become_subreaper() -> bool:
    """Become the parent of orphaned descendants. False: not on this system."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _descendants(pid: int, children: dict[int, list[int]]) -> list[tuple[int, int]]:
    """Whoever descends from `pid`, with their parent; `pid` itself is not among them."""
    found, at = [(pid, 0)], 0
    while at < len(found):
        parent = found[at][0]
        found.extend((child, parent) for child in children.get(parent, ()))
        at += 1
    return found[1:]


def _children() -> dict[int, list[int]]:
    """Who is whose child, those that only wait to be reaped among them."""
    found: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        parent = _parent_of(int(entry.name)) if entry.name.isdecimal() else None
        if parent is not None:
            found.setdefault(parent[0], []).append(int(entry.name))
    return found


def _parent_of(pid: int) -> tuple[int, bool] | None:
    """The parent of a process, and whether the process is alive; None when it is gone."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]  # the name before may have any characters
    return int(parent), state not in {"Z", "X"}


def _kill(pid: int, parent: int) -> bool:
    """End a process if it is still that child of that parent; whether it was."""
    try:
        held = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _parent_of(pid) != (parent, True):  # dead, or the number is another's by now
            return False
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(held)
    return True
