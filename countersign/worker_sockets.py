"""Where the workers of a gateway find each other: a Unix socket each, in a directory of ours."""

import contextlib
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
    for path in directory.glob(f"*{SUFFIX}"):
        _remove_if_dead(path)
    path = directory / f"{name}{SUFFIX}"
    with contextlib.closing(bind_unix_socket(path, mode=MODE)) as listener:
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # busy, or gone already
