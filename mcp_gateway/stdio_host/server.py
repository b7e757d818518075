"""The host's web server on a Unix socket: nobody but the gateway's user is heard.

The socket is 0600 in a directory others cannot write to; beyond that the kernel is asked, for each
connection, which user is at the other end (SO_PEERCRED), before a byte of it is read.
"""

import asyncio
import socket
import struct
from typing import Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcp_gateway.stdio_host.app import StdioHostApp
from mcp_gateway.web_server import GatewayHttpProtocol

SHUTDOWN_SECONDS: Final = 5
MAXIMUM_CONNECTIONS: Final = 2_000
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid

_logger = structlog.get_logger(__name__)


def protocol_for(allowed_uid: int) -> type[HttpToolsProtocol]:
    """HTTP for one user's processes only."""

    class OneUsersProtocol(GatewayHttpProtocol):
        """Closes every connection of somebody else."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
            super().connection_made(transport)
            uid = peer_uid(transport.get_extra_info("socket"))
            if uid != allowed_uid:
                _logger.warning("stdio_host_peer_refused", uid=uid)
                transport.abort()

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing():
                super().data_received(data)

    return OneUsersProtocol


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as the kernel noted it at connect."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


def host_server(app: StdioHostApp, allowed_uid: int) -> uvicorn.Server:
    """A server for `serve(sockets=[...])`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=protocol_for(allowed_uid),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            limit_concurrency=MAXIMUM_CONNECTIONS,
        )
    )
