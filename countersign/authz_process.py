"""Runs an authorization server from start to drain.

The order of the end is the point: first it stops taking requests, then finishes those under way,
then writes its last audit events into the store, then closes the database.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import new_class
from typing import Any, Final

import structlog
import uvloop
from starlette.routing import Mount

from admin_console.api import create_admin_app
from audit_log.batch import Batch
from audit_log.pusher import SpoolPusher
from authz_server.app import create_app, create_mtls_app
from authz_server.directory_watch import DirectoryWatch
from authz_server.http_protocol import PublicHttpProtocol
from countersign.composition import AuthzServer, compose_authz_server
from countersign.descriptors import backlog_for, connections_allowed, raise_limit
from countersign.migrations.run import upgrade
from countersign.mtls_listener import MtlsContext
from countersign.settings import AuthzServerSettings
from countersign.setup_code_file import SetupCodeFile
from countersign.tls_gate import accept_tls
from countersign.web_server import WebServer, listen, web_server
from database.engine import Database
from idp_connectors.workload.attestation_listener import AttestationListener
from idp_connectors.workload.local_operator import attests_scripts, local_operator_refusal
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.peer_http import peer_http_protocol
from idp_connectors.workload.tls_peer import TlsPeerProtocol
from idp_connectors.workload.unix_socket import bind_unix_socket
from listeners.bounded_connections import Room, bounded_connections
from listeners.bounded_heads import BoundedHeads
from token_exchange.claims import Refusal

Clock = Callable[[], float]

ADMIN_SOCKET: Final = "admin.sock"
ATTESTATION_SOCKET: Final = "attest.sock"
SETUP_CODE_FILE: Final = "setup-code"

_logger = structlog.get_logger(__name__)


class MtlsHttpProtocol(TlsPeerProtocol, PublicHttpProtocol):
    """What the listener for client certificates speaks."""


def run_authz_server(settings: AuthzServerSettings, clock: Clock) -> None:
    """Run an authorization server until SIGTERM or SIGINT."""
    raise_limit()
    _make_directories(settings)
    # First the port: a second server of the same settings must not migrate the first one's
    # database, nor write another setup code over its file.
    listener = listen(
        settings.listen_host,
        settings.listen_port,
        setting="COUNTERSIGN_LISTEN_PORT",
        backlog=backlog_for(connections_allowed()),
    )
    with contextlib.closing(listener):
        upgrade(settings.database)
        uvloop.run(_authz_server(settings, clock, listener))


def _make_directories(settings: AuthzServerSettings) -> None:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Agents of other users must reach the attestation socket; the admin socket is 0600 itself.
    settings.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)


async def _authz_server(
    settings: AuthzServerSettings, clock: Clock, listener: socket.socket
) -> None:
    stopping = _stop_signal()
    database = Database.open(settings.database)
    with contextlib.closing(database):
        server = await compose_authz_server(settings, database, clock)
        setup_code = SetupCodeFile(settings.run_dir / SETUP_CODE_FILE, server.setup_codes, clock)
        setup_code.hand_out()
        room = Room(connections_allowed)  # of all public listeners together
        try:
            async with (
                _following(server, setup_code),
                _attesting(server),
                _serving(server, listener, room),
                _taking_certificates(server, room),
            ):
                _logger.info("authz_server.serving", issuer=settings.issuer)
                await stopping.wait()
                server.parts.stopping.begin()
        finally:
            for fetcher in server.fetchers:
                await fetcher.aclose()
            await _last_audit_events(server)


def _stop_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


@asynccontextmanager
async def _following(server: AuthzServer, setup_code: SetupCodeFile) -> AsyncIterator[None]:
    """Follow the database and the identity providers; carry the own spool into the store."""
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(server.live.run()),
            tasks.create_task(DirectoryWatch(server.parts).run()),
            tasks.create_task(SpoolPusher(server.spool).run(partial(_store, server))),
            tasks.create_task(setup_code.run()),
        ]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


@asynccontextmanager
async def _attesting(server: AuthzServer) -> AsyncIterator[None]:
    settings = server.settings
    listener = AttestationListener(
        settings.run_dir / ATTESTATION_SOCKET,
        server.attestation,
        mode=settings.attestation_socket_mode,
    )
    async with listener:
        yield


@asynccontextmanager
async def _serving(server: AuthzServer, listener: socket.socket, room: Room) -> AsyncIterator[None]:
    """The public listener and the local admin socket; both finish what is under way at the end."""
    settings = server.settings
    admin = Mount("/admin/v1", create_admin_app(server.admin))
    public = web_server(
        create_app(server.parts, mounts=[admin]),
        shutdown_seconds=settings.shutdown_seconds,
        http=new_class("PublicProtocol", (bounded_connections(room), PublicHttpProtocol)),
    )

    def judge(peer: PeerIdentity) -> Refusal | None:
        return local_operator_refusal(
            peer,
            server_uid=os.geteuid(),
            agents=server.live.snapshot.agents,
            trust_providers=server.live.snapshot.trust_providers,
        )

    with_peer = peer_http_protocol(
        judge, lambda: attests_scripts(server.live.snapshot.trust_providers)
    )
    local = web_server(
        create_app(server.parts, mounts=[admin]),
        shutdown_seconds=settings.shutdown_seconds,
        http=new_class("LocalHttpProtocol", (BoundedHeads, with_peer)),
    )
    admin_socket = settings.run_dir / ADMIN_SOCKET
    listeners = (
        (public, listener),
        (local, bind_unix_socket(admin_socket, mode=0o600)),
    )
    async with _running(*listeners):
        yield
    admin_socket.unlink(missing_ok=True)


@asynccontextmanager
async def _taking_certificates(server: AuthzServer, room: Room) -> AsyncIterator[None]:
    """The listener for client certificates, where one is configured."""
    settings = server.settings
    certificate, key = settings.mtls_certificate_file, settings.mtls_key_file
    if settings.mtls_listen_port is None or certificate is None or key is None:
        yield
        return
    context = MtlsContext(certificate, key, server.verifiers.x509_authorities)
    await context.refresh()
    http = new_class("MtlsProtocol", (bounded_connections(room), MtlsHttpProtocol))
    public = web_server(
        create_mtls_app(server.parts), shutdown_seconds=settings.shutdown_seconds, http=http
    )
    backlog = backlog_for(connections_allowed())
    listener = listen(
        settings.listen_host,
        settings.mtls_listen_port,
        setting="COUNTERSIGN_MTLS_LISTEN_PORT",
        backlog=backlog,
    )
    with contextlib.closing(listener):
        async with asyncio.TaskGroup() as tasks, _running((public, None)):
            accepting = tasks.create_task(
                accept_tls(listener, context.entry(), room, public.new_connection)
            )
            refreshing = tasks.create_task(context.run())
            try:
                yield
            finally:
                accepting.cancel()
                refreshing.cancel()


@asynccontextmanager
async def _running(*listeners: tuple[WebServer, Any]) -> AsyncIterator[None]:
    """Servers with their listening sockets; one without is given its connections."""
    async with asyncio.TaskGroup() as tasks:
        serving = [
            (server, tasks.create_task(server.serve([] if listener is None else [listener])))
            for server, listener in listeners
        ]
        try:
            yield
        finally:
            for server, task in serving:
                await server.stop(task)


async def _store(server: AuthzServer, batch: Batch) -> int:
    """Into the store of this very process: the authorization server is its own audit's receiver."""
    events = batch.decoded
    return await server.audit_store.ingest(events.source, events.high_water, events.events)


async def _last_audit_events(server: AuthzServer) -> None:
    server.spool.stop()
    await SpoolPusher(server.spool).drain(
        partial(_store, server), within_seconds=server.settings.shutdown_seconds
    )
    server.spool.close()
