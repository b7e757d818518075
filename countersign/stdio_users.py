"""Which stdio servers would run as somebody who can operate the authorization server.

A process of the authorization server's own user may use its admin socket, read the keys beside its
database and write to both, so it is the operator, whatever the gateway in front of it allows. What
of an authorization server can be seen from here is looked at: its admin socket, its data and its
keys. One on another machine, or where nobody said it is, is not seen, and needs no looking at if
its user is none of this machine's servers'. Looked at once, when the host starts.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from countersign.settings import StdioHostSettings
from mcp_gateway.stdio_host.declared import StdioServer

ADMIN_SOCKET: Final = "admin.sock"
_ROOT: Final = 0


def servers_with_an_operators_power(
    settings: StdioHostSettings, servers: Mapping[str, StdioServer]
) -> dict[str, Path]:
    """By the name of a server, the first of the authorization server's places its user may use."""
    places = (
        settings.run_dir / ADMIN_SOCKET,
        settings.stdio_socket.parent / ADMIN_SOCKET,
        settings.keys_dir,
        settings.data_dir,
    )
    seen = list(_seen(places))
    found: dict[str, Path] = {}
    for name, server in servers.items():
        uid, groups = _whom(server)
        usable = (path for path, facts in seen if _may_write(uid, groups, facts))
        first = next(usable, None)
        if first is not None:
            found[name] = first
    return found


def _seen(places: Iterable[Path]) -> Iterable[tuple[Path, os.stat_result]]:
    for path in places:
        with suppress(OSError):
            yield path, path.stat()


def _whom(server: StdioServer) -> tuple[int, set[int]]:
    """The user and groups a server has: its own group alone, or all of the host's."""
    if server.user is not None:
        uid, gid = server.user
        return uid, {gid}
    return os.geteuid(), {os.getegid(), *os.getgroups()}


def _may_write(uid: int, groups: set[int], facts: os.stat_result) -> bool:
    return (
        uid in {_ROOT, facts.st_uid}
        or bool(facts.st_mode & stat.S_IWOTH)
        or (facts.st_gid in groups and bool(facts.st_mode & stat.S_IWGRP))
    )
