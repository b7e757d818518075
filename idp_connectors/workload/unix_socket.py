"""Binding a Unix socket that strangers cannot replace and a dead process does not block."""

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

MAXIMUM_PATH_BYTES: Final = 107  # sun_path without its NUL
BACKLOG: Final = 128


class SocketPathError(Exception):
    """The path cannot hold our socket."""


def bind_unix_socket(path: Path, *, mode: int, group: int | None = None) -> socket.socket:
    """Bind and listen at `path`, replacing the socket a dead process left behind.

    The directory must belong to us or root, and nobody else may write to it: whoever can replace
    the socket can pose as the server. `mode` is the socket's permission bits.

    Raises:
        SocketPathError: The path is too long, taken, or in a directory others may write to.
    """
    if len(os.fsencode(path)) > MAXIMUM_PATH_BYTES:
        raise SocketPathError(f"{path} is longer than {MAXIMUM_PATH_BYTES} bytes")
    _require_own_directory(path.parent)
    _remove_dead_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody connects before the mode is set: without listen() the kernel refuses them.
        listener.bind(os.fspath(path))
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as cause:
        listener.close()
        raise SocketPathError(f"cannot listen at {path}: {cause.strerror}") from cause
    return listener


def _require_own_directory(directory: Path) -> None:
    try:
        facts = directory.stat()
    except OSError as cause:
        raise SocketPathError(f"there is no directory {directory}") from cause
    if facts.st_uid not in (0, os.geteuid()):
        raise SocketPathError(f"{directory} belongs to another user")
    others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others and not facts.st_mode & stat.S_ISVTX:
        raise SocketPathError(f"others may write to {directory}")


def _remove_dead_socket(path: Path) -> None:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise SocketPathError(f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as cause:
            raise SocketPathError(f"{path} cannot be looked at") from cause
    raise SocketPathError(f"another process listens at {path}")
