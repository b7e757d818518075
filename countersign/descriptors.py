"""How many connections strangers may hold, so that descriptors remain for what must always work.

Every connection is a file descriptor, and so are the admin socket's connections, the database and
the audit spool. Whoever could take them all would make `kill` impossible. The process therefore
raises its soft limit to what it may have, and a public listener gives out what is left above a
reserve (`bounded_connections`).
"""

import resource
from collections.abc import Callable
from typing import Final

WANTED: Final = 65_536
RESERVED: Final = 256  # admin and attestation sockets, database pool, spool, outgoing connections
MAXIMUM_CONNECTIONS: Final = 10_000
MINIMUM_CONNECTIONS: Final = 16
MAXIMUM_BACKLOG: Final = 2_048

Limits = Callable[[int], tuple[int, int]]


def raise_limit() -> int:
    """Raise this process's soft limit of open files, as far as it may; the limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def connections_allowed(each: int = 1, limits: Limits = resource.getrlimit) -> int:
    """How many connections a public listener may hold, by the limit as it is now.

    Args:
        each: Descriptors one connection may come to need: a gateway's call has one upstream too.
        limits: `resource.getrlimit`.
    """
    soft, _ = limits(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAXIMUM_CONNECTIONS
    return max(MINIMUM_CONNECTIONS, min(MAXIMUM_CONNECTIONS, (soft - RESERVED) // each))


def backlog_for(connections: int) -> int:
    """How many connections may wait: they are accepted at once, before any can be refused."""
    return max(MINIMUM_CONNECTIONS, min(MAXIMUM_BACKLOG, connections // 4))
