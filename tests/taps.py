"""Recorders outside our processes: TCP taps between them, and eyes on their files.

A tap listens where a client expects its server and passes every byte on, both ways, recording
them; nothing in a recorded process knows. Who connected is told by the loopback address the test
gives its own clients: the kernel reports it, nobody can forget to set a header.
"""

import contextlib
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

AGENT_ADDRESS = "127.0.0.5"
BROWSER_ADDRESS = "127.0.0.6"
CLIENTS: Mapping[str, str] = {AGENT_ADDRESS: "agent", BROWSER_ADDRESS: "browser"}
LOOKS_PER_SECOND = 50


@dataclass
class Recording:
    """One connection: what went each way. Complete once `ended`."""

    client: str
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


class Tap:
    """Listens on `port` for `server` at `target`; clients are named by their address."""

    def __init__(self, server: str, *, port: int, target: int, others: str) -> None:
        """`others` names the clients that have no address of their own."""
        self.server = server
        self.port = port
        self.recordings: list[Recording] = []
        self._target = target
        self._others = others
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def streams(self) -> Iterator[tuple[str, bytes]]:
        """`client>server` and `server>client` with the bytes of each connection."""
        for recording in list(self.recordings):
            yield f"{recording.client}>{self.server}", bytes(recording.sent)
            yield f"{self.server}>{recording.client}", bytes(recording.received)

    def close(self) -> None:
        """End every connection and wait for its threads."""
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, (address, _) = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:  # not up yet: the client sees what it would have seen without us
                client.close()
                continue
            server.settimeout(None)
            recording = Recording(CLIENTS.get(address, self._others))
            self.recordings.append(recording)
            self._sockets += [client, server]
            for source, sink, record in (
                (client, server, recording.sent),
                (server, client, recording.received),
            ):
                pump = threading.Thread(target=_pump, args=(source, sink, record), daemon=True)
                self._threads.append(pump)
                pump.start()


def _pump(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            record += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class FileWatch:
    """Keeps what files under some directories ever held: spool segments vanish once delivered."""

    def __init__(self, *directories: Path) -> None:
        """Look until `close`."""
        self._directories = directories
        self._held: defaultdict[Path, dict[int, bytes]] = defaultdict(dict)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def contents(self) -> Iterator[tuple[Path, bytes]]:
        """Every file that was seen, at its longest; one per inode."""
        for path, versions in list(self._held.items()):
            for data in versions.values():
                yield path, data

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join(5)

    def _look(self) -> None:
        while not self._ended.wait(1 / LOOKS_PER_SECOND):
            for directory in self._directories:
                for path in directory.rglob("*"):
                    with contextlib.suppress(OSError):
                        if path.is_file():
                            data, inode = path.read_bytes(), path.stat().st_ino
                            if len(data) >= len(self._held[path].get(inode, b"")):
                                self._held[path][inode] = data
