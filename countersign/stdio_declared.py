"""Reads which commands a stdio host may run: a YAML file of the operator of that machine.

The file is as good as a shell on this machine, so it must belong to the host's user or root and
nobody else may write to it. All problems are reported at once.
"""

import os
import pwd
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mcp_gateway.stdio_host.declared import Handover, Limits, StdioServer
from registry.objects import Name

MAXIMUM_FILE_BYTES = 1_048_576
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
_HEADER = r"^[a-z0-9-]{1,64}$"

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$", max_length=4096)]
Variable = Annotated[str, StringConstraints(pattern=_VARIABLE)]
Environment = Callable[[Iterable[str]], Mapping[str, str]]


class StdioDeclarationError(Exception):
    """The file cannot be used; the text says why."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Limits(_Model):
    memory_mb: int | None = Field(default=None, ge=16)
    cpu_seconds: int | None = Field(default=None, ge=1)
    open_files: int | None = Field(default=1024, ge=16)
    processes: int | None = Field(default=None, ge=1)
    file_mb: int | None = Field(default=1024, ge=1)


class _Credential(_Model):
    variable: Variable
    header: Annotated[str, StringConstraints(pattern=_HEADER)] = "authorization"


class _Server(_Model):
    command: AbsolutePath
    args: tuple[str, ...] = ()
    working_directory: AbsolutePath = "/"
    environment: tuple[Variable, ...] = ()
    user: str | None = None
    limits: _Limits = _Limits()
    per_principal: bool = False
    maximum_processes: int = Field(default=16, ge=1, le=1024)
    credential: _Credential | None = None
    call_seconds: float = Field(default=600.0, gt=0, le=3600)
    stderr: Literal["discard", "inherit"] = "discard"

    @model_validator(mode="after")
    def _personal_credential_has_its_own_process(self) -> Self:
        if self.credential is not None and not self.per_principal:
            message = "a credential is somebody's: it needs per_principal: true"
            raise ValueError(message)
        return self


class _File(_Model):
    servers: dict[Name, _Server] = Field(min_length=1)


def read_stdio_servers(path: Path, environment: Environment) -> dict[str, StdioServer]:
    """The declared servers; `environment` looks up the host's own variables.

    Raises:
        StdioDeclarationError: the file is not there, not private, or names a user we cannot be.
        pydantic.ValidationError: with every problem of its content.
    """
    try:
        content = yaml.safe_load(_read_private(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"{path} is not YAML"
        raise StdioDeclarationError(message) from error
    declared = _File.model_validate(content)
    return {
        name: StdioServer(
            name=name,
            command=(server.command, *server.args),
            working_directory=server.working_directory,
            environment=environment(server.environment),
            user=_user(name, server.user),
            limits=Limits(**server.limits.model_dump()),
            per_principal=server.per_principal,
            maximum_processes=server.maximum_processes,
            handover=None
            if server.credential is None
            else Handover(server.credential.variable, server.credential.header),
            call_seconds=server.call_seconds,
            keeps_stderr=server.stderr == "inherit",
        )
        for name, server in declared.servers.items()
    }


def uid_of(user: str) -> tuple[int, int]:
    """The uid and gid of a user of this machine.

    Raises:
        StdioDeclarationError: there is no such user.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        message = f"there is no user {user}"
        raise StdioDeclarationError(message) from error
    return entry.pw_uid, entry.pw_gid


def _user(name: str, user: str | None) -> tuple[int, int] | None:
    """Whom a server runs as: as root every server must be given a user, else there is no choice."""
    if user is None:
        if os.geteuid() == 0:
            message = f"{name}: say which user it runs as; the host is root"
            raise StdioDeclarationError(message)
        return None
    uid, gid = uid_of(user)
    if os.geteuid() == 0:
        return uid, gid
    if uid != os.geteuid():
        message = f"{name}: only a host that is root can run a server as {user}"
        raise StdioDeclarationError(message)
    return None


def _read_private(path: Path) -> str:
    # Without waiting: whoever opens a pipe for reading waits for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise StdioDeclarationError(message) from error
    try:
        _require_private(path, os.fstat(descriptor))
        content = os.read(descriptor, MAXIMUM_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAXIMUM_FILE_BYTES:
        message = f"{path} is too large"
        raise StdioDeclarationError(message)
    return content.decode()


def _require_private(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in {0, os.geteuid()}:
        message = f"{path} must be a file of yours or root's"
        raise StdioDeclarationError(message)
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"others may write to {path}"
        raise StdioDeclarationError(message)
