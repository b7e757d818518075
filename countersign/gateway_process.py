"""Runs a gateway process from start to drain; loads no database library.

At the end it stops taking calls, ends its streams, pushes its last audit events, and keeps what
it could not push in its spool for the next start.
"""

import asyncio
import contextlib
import secrets
import signal
import socket
import time
from collections.abc import Callable
from types import new_class
from typing import Final

import structlog
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from audit_log.spool import Spool
from countersign.descriptors import backlog_for, connections_allowed, raise_limit
from countersign.gateway_workers import GatewayWorkers
from countersign.settings import McpGatewaySettings
from countersign.web_server import listen
from countersign.worker_sockets import worker_socket
from listeners.bounded_connections import Room, bounded_connections
from mcp_gateway.app import GatewayApp
from mcp_gateway.assembly import Beside, gateway_app
from mcp_gateway.authority import HttpAuthority
from mcp_gateway.enrolment import (
    EnrolmentError,
    GatewayIdentity,
    enrol,
    load_identity,
    save_identity,
)
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.proof_memory import PROOFS_FILE, open_proof_memory
from mcp_gateway.web_server import GatewayHttpProtocol, new_server

Clock = Callable[[], float]

KEY_FILE: Final = "gateway.key"
ENROLMENT_FILE: Final = "enrolment.json"
SOCKETS: Final = "workers"

_logger = structlog.get_logger(__name__)


def run_mcp_gateway(
    settings: McpGatewaySettings,
    clock: Clock,
    join_code: str | None,
    inherited: int | None = None,
) -> int:
    """Run a gateway process, or its workers, until SIGTERM or SIGINT; the exit status.

    `inherited` is the descriptor of a listening socket: this is one of the workers.

    Raises:
        EnrolmentError: It is not enrolled and has no join code, or the code was refused.
        OSError: Its port is taken, or not ours.
    """
    raise_limit()
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # First the port: a process that cannot serve must not use up its join code.
    listener = _listener(settings) if inherited is None else _inherited(inherited)
    with contextlib.closing(listener):
        if inherited is None and settings.gateway_workers > 1:
            asyncio.run(_enrolled(settings, clock, join_code))
            return asyncio.run(GatewayWorkers(settings, listener, clock).run())
        uvloop.run(_mcp_gateway(settings, clock, join_code, listener))
    return 0


def _listener(settings: McpGatewaySettings) -> socket.socket:
    return listen(
        settings.gateway_host,
        settings.gateway_port,
        setting="COUNTERSIGN_GATEWAY_PORT",
        backlog=backlog_for(_connections_allowed()),
    )


def _inherited(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


async def _enrolled(
    settings: McpGatewaySettings, clock: Clock, join_code: str | None
) -> tuple[GatewayKey, GatewayIdentity]:
    key = GatewayKey.load_or_create(settings.state_dir / KEY_FILE, secrets.token_bytes)
    return key, await _identity(settings, key, clock, join_code)


async def _mcp_gateway(
    settings: McpGatewaySettings, clock: Clock, join_code: str | None, listener: socket.socket
) -> None:
    is_first_start = not (settings.state_dir / ENROLMENT_FILE).exists()
    key, identity = await _enrolled(settings, clock, join_code)
    _logger.info(
        "mcp_gateway.starting",
        gateway=identity.gateway,
        issuer=identity.issuer,
        key=key.thumbprint,  # by it an operator knows which key is this machine's
    )
    spool = Spool.open(
        settings.state_dir / "spool",
        f"gateway.{identity.gateway}",
        clock=clock,
        durability=settings.audit_durability,
    )
    with contextlib.ExitStack() as opened:
        opened.enter_context(contextlib.closing(spool))
        listeners, beside, proofs = [listener], None, None
        if settings.valkey_url is not None:
            # Here, because a process that is alone need not wait for the client of Valkey to load.
            from countersign.gateway_shared_memory import shared_memory  # noqa: PLC0415

            name = spool.source.rpartition(".")[2]
            proofs = shared_memory(
                settings, settings.valkey_url, identity.gateway, clock, secrets.token_bytes
            )
            sockets = settings.state_dir / SOCKETS
            listeners.append(opened.enter_context(worker_socket(sockets, name)))
            beside = Beside(name, sockets, proofs.run)
        app = gateway_app(
            identity=identity,
            key=key,
            spool=spool,
            worker=spool.source,  # the admin API tells live workers from dead ones by it
            clock=clock,
            monotonic=time.monotonic,
            random=secrets.token_bytes,
            proofs=proofs
            or open_proof_memory(
                settings.state_dir / PROOFS_FILE, clock(), is_first_start=is_first_start
            ),
            stdio_socket=settings.stdio_socket,
            beside=beside,
        )
        await _serve(app, settings, listeners)


async def _serve(
    app: GatewayApp,
    settings: McpGatewaySettings,
    listeners: list[socket.socket],
) -> None:
    server = new_server(
        app,
        host=settings.gateway_host,
        port=settings.gateway_port,
        drain_seconds=settings.shutdown_seconds,
        protocol=_protocol(),
        backlog=backlog_for(_connections_allowed()),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    await server.serve(listeners)


def _connections_allowed() -> int:
    return connections_allowed(each=2)  # the agent's, and the one to the server behind us


def _protocol() -> type[HttpToolsProtocol]:
    bounded = bounded_connections(Room(_connections_allowed))
    return new_class("BoundedHttpProtocol", (bounded, GatewayHttpProtocol))


async def _identity(
    settings: McpGatewaySettings, key: GatewayKey, clock: Clock, join_code: str | None
) -> GatewayIdentity:
    """Who we are: as enrolled before, or now with the join code."""
    path = settings.state_dir / ENROLMENT_FILE
    known = load_identity(path)
    if known is not None:
        if known.issuer != settings.issuer:
            raise EnrolmentError(
                f"{path} is an enrolment at {known.issuer}, not at {settings.issuer}."
            )
        return known
    if join_code is None:
        raise EnrolmentError(
            "This gateway is not enrolled: run `countersign gateway join NAME` and give the code"
            " with --join-code-file."
        )
    authority = HttpAuthority()
    try:
        identity = await enrol(
            authority=authority, key=key, issuer=settings.issuer, join=join_code, clock=clock
        )
    finally:
        await authority.aclose()
    save_identity(path, identity)
    return identity
