"""Accepts TLS connections: each is counted from then on, and given up when it takes its time.

Left to the event loop a handshake may take a minute, and nobody counts it: whoever opens
connections and says nothing uses up the descriptors of the process. So a connection is in the
listener's room from the moment it is accepted, among those that wait without a request, and has
`HANDSHAKE_SECONDS`. The protocol of the listener, which enters the room itself, begins when TLS
stands.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from listeners.bounded_connections import Room

HANDSHAKE_SECONDS: Final = 10.0  # two round trips and a signature, on the worst of networks
NO_DESCRIPTOR_SECONDS: Final = 1.0  # asyncio waits as long before it accepts again

_logger = structlog.get_logger(__name__)


class _Handshake:
    """A connection before TLS stands, as a room holds it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._task: asyncio.Task[None] | None = None
        self.is_taken = False  # by the event loop, whose the socket then is

    @property
    def transport(self) -> "_Handshake":
        """What ends it."""
        return self

    def abort(self) -> None:
        """End it, whether it has begun or not."""
        if self._task is None:
            self._connection.close()
        else:
            self._task.cancel()

    def begin(self, task: asyncio.Task[None]) -> None:
        """From now on it is for this task to end."""
        self._task = task
        task.add_done_callback(self._ended)

    def _ended(self, _task: asyncio.Task[None]) -> None:
        if not self.is_taken:  # cancelled before its first step
            self._connection.close()


async def accept_tls(
    listener: socket.socket,
    context: ssl.SSLContext,
    room: Room,
    served: Callable[[], asyncio.Protocol],
    *,
    handshake_seconds: float = HANDSHAKE_SECONDS,
) -> None:
    """Accept until cancelled; handshakes under way end with it. `served` makes the protocols."""
    loop = asyncio.get_running_loop()

    async def secure(connection: socket.socket, gate: _Handshake) -> None:
        gate.is_taken = True
        try:
            await loop.connect_accepted_socket(
                served, connection, ssl=context, ssl_handshake_timeout=handshake_seconds
            )
        except OSError:
            pass  # no TLS, no certificate we trust, or it took too long: nobody is told why
        except Exception:
            # One connection's trouble must not end the listener.
            _logger.exception("mtls.connection_failed")
        finally:
            room.leave(gate)

    async with asyncio.TaskGroup() as handshakes:
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(NO_DESCRIPTOR_SECONDS)
                continue
            gate = _Handshake(connection)
            leaving = room.enter(gate)
            if leaving is not None:
                leaving.transport.abort()
            if leaving is not gate:
                gate.begin(handshakes.create_task(secure(connection, gate)))
