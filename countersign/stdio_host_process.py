"""Runs the stdio host from start to drain; loads no database library."""

import asyncio
import os
import shutil
import time
from collections.abc import Mapping
from typing import Final

import structlog
import uvloop

from countersign.settings import StdioHostSettings
from countersign.stdio_declared import StdioDeclarationError, read_stdio_servers, uid_of
from countersign.stdio_users import servers_with_an_operators_power
from idp_connectors.workload.unix_socket import bind_unix_socket
from mcp_gateway.stdio_host.app import StdioHostApp
from mcp_gateway.stdio_host.declared import TOOLS, StdioServer
from mcp_gateway.stdio_host.process_tree import ProcessTree, become_subreaper
from mcp_gateway.stdio_host.server import host_server
from mcp_gateway.stdio_host.sessions import Sessions

SOCKET_MODE: Final = 0o600

_logger = structlog.get_logger(__name__)


def run_stdio_host(settings: StdioHostSettings) -> None:
    """Run the host until SIGTERM or SIGINT.

    Raises:
        StdioDeclarationError: what is declared cannot be run here.
        SocketPathError: the socket cannot be where it should.
    """
    servers = read_stdio_servers(settings.stdio_servers, settings.variables)
    _require_no_operators(settings, servers)
    uvloop.run(_serve(settings, servers, _launching_tools()))


def _require_no_operators(settings: StdioHostSettings, servers: Mapping[str, StdioServer]) -> None:
    """Nothing behind the gateway may be able to change what the gateway enforces."""
    found = servers_with_an_operators_power(settings, servers)
    if not found:
        return
    if settings.stdio_servers_may_operate:
        _logger.warning("stdio_servers_are_operators", servers=sorted(found))
        return
    names, place = ", ".join(sorted(found)), next(iter(found.values()))
    message = (
        f"{names}: would run as a user that may use {place} of the authorization server, "
        "and so be its operator. Give each server a user of its own, "
        "or set COUNTERSIGN_STDIO_SERVERS_MAY_OPERATE=true to try things out"
    )
    raise StdioDeclarationError(message)


async def _serve(
    settings: StdioHostSettings, servers: Mapping[str, StdioServer], tools: Mapping[str, str]
) -> None:
    allowed_uid = os.geteuid()
    path = settings.stdio_socket
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = bind_unix_socket(path, mode=SOCKET_MODE)
    if settings.stdio_gateway_user is not None:
        allowed_uid, _ = uid_of(settings.stdio_gateway_user)
        os.chown(path, allowed_uid, -1)
    if any(server.user is None for server in servers.values()):
        _logger.warning("stdio_servers_run_as_the_hosts_own_user")
    tree = ProcessTree(is_subreaper=become_subreaper())
    sessions = Sessions(servers, tools, time.monotonic, tree=tree)
    app = StdioHostApp(sessions)
    sweeping = asyncio.create_task(app.sweep_for_ever())
    try:
        _logger.info("stdio_host_starting", servers=sorted(servers))
        await host_server(app, allowed_uid).serve(sockets=[listener])
    finally:
        sweeping.cancel()
        await sessions.aclose()
        path.unlink(missing_ok=True)


def _launching_tools() -> dict[str, str]:
    found = {name: shutil.which(name) for name in TOOLS}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        message = f"{' and '.join(missing)} of util-linux cannot be found"
        raise StdioDeclarationError(message)
    return {name: path for name, path in found.items() if path is not None}
