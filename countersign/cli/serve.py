"""`serve`, `authz-server`, `mcp-gateway`, `stdio-host`: the processes themselves.

What a process is made of is imported inside its command, so that the other commands start fast.
"""
# ruff: noqa: PLC0415 - see above

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from countersign.admin_client import AdminError
from countersign.cli.context import clock
from countersign.loading import kept_for_good
from countersign.settings import (
    AuthzServerSettings,
    McpGatewaySettings,
    ServeSettings,
    StdioHostSettings,
)
from countersign.start_errors import told_in_a_sentence

MAXIMUM_JOIN_CODE_BYTES = 4096


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(serve)
    app.command("authz-server")(authz_server)
    app.command("mcp-gateway")(mcp_gateway)
    app.command("stdio-host")(stdio_host)


def serve(
    *,
    gateway_workers: Annotated[
        int | None,
        typer.Option(help="Workers of the gateway. [env: COUNTERSIGN_GATEWAY_WORKERS]"),
    ] = None,
) -> None:
    """Run an authorization server and one gateway on this machine, on SQLite.

    Nothing else is needed. Settings come from COUNTERSIGN_* variables (docs/settings.md). The
    gateway starts as soon as the Gateway object named by COUNTERSIGN_GATEWAY is declared.
    """
    with kept_for_good():
        from countersign.logging import configure
        from countersign.supervisor import Supervisor

    settings = ServeSettings(**_given(gateway_workers))
    configure(settings, "serve")
    raise typer.Exit(asyncio.run(Supervisor(settings, clock).run()))


def authz_server() -> None:
    """Run the authorization server: login, consent, tokens, control channel, admin API."""
    with kept_for_good():
        from audit_log.spool import SpoolUnavailable
        from authz_server.issuing.signing_keys import KeyRingError
        from countersign.authz_process import run_authz_server
        from countersign.key_files import KeyFileError
        from countersign.logging import configure
        from database.errors import DatabaseError
        from idp_connectors.workload.unix_socket import SocketPathError

    settings = AuthzServerSettings()
    configure(settings, "authz-server")
    known = (DatabaseError, KeyFileError, KeyRingError, SocketPathError, SpoolUnavailable)
    with told_in_a_sentence(*known):
        run_authz_server(settings, clock)


def mcp_gateway(
    *,
    join_code_file: Annotated[
        Path | None, typer.Option(help="A file with the code of `countersign gateway join`.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes behind one port. [env: COUNTERSIGN_GATEWAY_WORKERS]"),
    ] = None,
    join_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    listen_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a gateway. The first start needs a join code; later ones reuse its key."""
    with kept_for_good():
        from audit_log.spool import SpoolUnavailable
        from countersign.gateway_process import run_mcp_gateway
        from countersign.logging import configure
        from idp_connectors.workload.unix_socket import SocketPathError
        from mcp_gateway.enrolment import EnrolmentError

    settings = McpGatewaySettings(**_given(workers))
    configure(settings, "mcp-gateway")
    code = _join_code(join_code_file, join_fd)
    try:
        with told_in_a_sentence(SocketPathError, SpoolUnavailable):
            status = run_mcp_gateway(settings, clock, code, listen_fd)
    except EnrolmentError as error:
        raise AdminError("enrolment_failed", str(error)) from error
    raise typer.Exit(status)


def stdio_host() -> None:
    """Run the stdio servers of this machine for its gateway (docs/guides/stdio-servers.md)."""
    with kept_for_good():
        from countersign.logging import configure
        from countersign.stdio_declared import StdioDeclarationError
        from countersign.stdio_host_process import run_stdio_host
        from idp_connectors.workload.unix_socket import SocketPathError

    settings = StdioHostSettings()
    configure(settings, "stdio-host")
    with told_in_a_sentence(StdioDeclarationError, SocketPathError):
        run_stdio_host(settings)


def _given(gateway_workers: int | None) -> dict[str, Any]:
    return {} if gateway_workers is None else {"gateway_workers": gateway_workers}


def _join_code(file: Path | None, descriptor: int | None) -> str | None:
    if descriptor is not None:
        with os.fdopen(descriptor, "rb") as pipe:
            return pipe.read(MAXIMUM_JOIN_CODE_BYTES).decode().strip()
    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    return None
