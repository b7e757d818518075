"""Clients that take their time, to see how long a server lets them."""

import contextlib
import socket
import time


def drip(port: int, first: bytes, piece: bytes, limit_seconds: float) -> tuple[bytes, float]:
    """Send a piece twice a second until the server has had enough; what it said, and when."""
    started, received = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(0.5)
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            while time.monotonic() - started < limit_seconds:
                connection.sendall(piece)
                with contextlib.suppress(TimeoutError):
                    data = connection.recv(65536)
                    received += data
                    if not data:
                        break
    return received, time.monotonic() - started
