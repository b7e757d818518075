"""What an operator declares of one stdio server, and the command line and environment it means.

Pure. A command comes from the host's own settings and from nowhere else: an object, a token or a
request can only name a server. The process starts with nothing but what is listed here: a cleared
environment, limits, no way to gain privileges, and death with the host (`setpriv`, `prlimit`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SETPRIV: Final = "setpriv"
PRLIMIT: Final = "prlimit"
_MEGABYTE: Final = 1024 * 1024
TOOLS: Final = (SETPRIV, PRLIMIT)  # of util-linux: part of every distribution


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process and what it starts (setrlimit(2)); None: as the host's own.

    `memory_mb` is address space; `processes` counts all of the user, so it wants a user of its own.
    """

    memory_mb: int | None
    cpu_seconds: int | None
    open_files: int | None
    processes: int | None
    file_mb: int | None


@dataclass(frozen=True, slots=True)
class Handover:
    """How a process gets the credential of the one it works for: a variable of its environment.

    `header` is the request header the credential comes in, in lower case.
    """

    variable: str
    header: str


@dataclass(frozen=True, slots=True)
class StdioServer:
    """One declared server. `user` is a uid and gid to run as; None: the host's own."""

    name: str
    command: tuple[str, ...]
    working_directory: str
    environment: Mapping[str, str] = field(repr=False)
    user: tuple[int, int] | None
    limits: Limits
    per_principal: bool
    maximum_processes: int
    handover: Handover | None
    call_seconds: float
    keeps_stderr: bool


def command_line(server: StdioServer, tools: Mapping[str, str]) -> tuple[str, ...]:
    """What is executed; `tools` are the paths of `TOOLS`."""
    user: tuple[str, ...] = ()
    if server.user is not None:
        uid, gid = server.user
        user = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    return (
        tools[SETPRIV],
        "--no-new-privs",
        "--pdeathsig=KILL",
        *user,
        "--",
        tools[PRLIMIT],
        *_limit_options(server.limits),
        "--core=0",  # a core dump would hold the credential
        "--",
        *server.command,
    )


def _limit_options(limits: Limits) -> tuple[str, ...]:
    given = (
        ("as", limits.memory_mb, _MEGABYTE),
        ("cpu", limits.cpu_seconds, 1),
        ("nofile", limits.open_files, 1),
        ("nproc", limits.processes, 1),
        ("fsize", limits.file_mb, _MEGABYTE),
    )
    return tuple(f"--{name}={value * unit}" for name, value, unit in given if value is not None)


def environment_for(server: StdioServer, credential: str | None) -> dict[str, str]:
    """The whole environment of a process that works for the holder of `credential`."""
    environment = dict(server.environment)
    if server.handover is not None and credential is not None:
        environment[server.handover.variable] = credential
    return environment


def credential_of(server: StdioServer, headers: Mapping[str, str]) -> str | None:
    """The credential of a request, if this server is to get it; a Bearer scheme is taken off."""
    if server.handover is None:
        return None
    value = headers.get(server.handover.header)
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else value
