"""Where the workers of a gateway find each other: a Unix socket each, in a directory of ours.

A socket that is bound and does not listen yet looks like a dead worker's. So whoever removes those
or makes one has the lock of the directory; the kernel takes it back from a worker that dies.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from idp_connectors.workload.unix_socket import bind_unix_socket
from mcp_gateway.other_workers import SUFFIX

MODE: Final = 0o600
PROBE_SECONDS: Final = 1.0


@contextlib.contextmanager
def worker_socket(directory: Path, name: str) -> Iterator[socket.socket]:
    """The listening socket of the worker `name`, gone at the end; removes those of the dead.

    Raises:
        SocketPathError: the path is too long, or others may write to the directory.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{name}{SUFFIX}"
    with _alone_in(directory):
        for other in directory.glob(f"*{SUFFIX}"):
            _remove_if_dead(other)
        bound = bind_unix_socket(path, mode=MODE)
    with contextlib.closing(bound) as listener:
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """No other worker begins meanwhile."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # busy, or gone already
