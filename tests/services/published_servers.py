"""MCP servers that somebody else published, at the versions their tests were written for."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.services.common import (
    CannotInstallError,
    Server,
    node_modules,
    python_environment,
    started,
)

FILESYSTEM = "@modelcontextprotocol/server-filesystem@2026.8.31"
EVERYTHING = "@modelcontextprotocol/server-everything@2026.8.31"


def install_everything() -> Path:
    """The reference server of the protocol's own project; its entry file."""
    folder = node_modules("everything", EVERYTHING)
    return folder / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"


@contextlib.contextmanager
def everything(entry: Path, port: int, directory: Path) -> Iterator[Server]:
    """The reference server over streamable HTTP, which in this version is the legacy one."""
    environment = {"PORT": str(port), "PATH": os.environ["PATH"]}  # noqa: TID251 - a child's
    command: list[str | Path] = [_node(), entry, "streamableHttp"]
    with started("everything", command, directory, environment=environment) as server:
        server.await_ready(lambda: is_listening(port))
        yield server


def is_listening(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def install_time() -> Path:
    """The reference time server, which speaks stdio; its command."""
    interpreter = python_environment("mcp-server-time", "mcp-server-time==2026.10.19")
    return interpreter.with_name("mcp-server-time")


def install_git() -> Path:
    """The reference git server, which speaks stdio; its command."""
    interpreter = python_environment("mcp-server-git", "mcp-server-git==2026.10.19")
    return interpreter.with_name("mcp-server-git")


def install_filesystem() -> tuple[str, Path]:
    """The reference file system server, which speaks stdio; node and its entry file.

    Raises:
        CannotInstallError: node is missing.
    """
    folder = node_modules("filesystem", FILESYSTEM)
    package = folder / "node_modules/@modelcontextprotocol/server-filesystem"
    return _node(), package / "dist/index.js"


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        message = "node is not installed"
        raise CannotInstallError(message)
    return node
