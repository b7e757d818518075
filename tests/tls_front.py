"""TLS for servers that were built without it."""

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path

SSL_REQUEST = struct.pack("!II", 8, 80877103)  # PostgreSQL protocol, "SSLRequest"


class TlsFront:
    """Speaks TLS to clients and plainly to the server behind it.

    `is_asked_for`: as PostgreSQL's clients do, by an SSLRequest that is answered `S`.
    """

    def __init__(
        self,
        target: int,
        certificate: Path,
        key: Path,
        *,
        port: int = 0,
        is_asked_for: bool = True,
    ) -> None:
        self._target = target
        self._is_asked_for = is_asked_for
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self._is_asked_for:
                if client.recv(8, socket.MSG_WAITALL) != SSL_REQUEST:
                    return
                client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secured,
                socket.create_connection(("127.0.0.1", self._target)) as server,
            ):
                back = threading.Thread(target=_copy, args=(server, secured), daemon=True)
                back.start()
                _copy(secured, server)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
