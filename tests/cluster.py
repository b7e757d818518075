"""Two authorization servers behind one address, and three Gateways with a process each.

As in a real deployment of many processes: a balancer listens at the issuer's address and gives
each connection to one of the servers that accept one. On PostgreSQL the two share the database and
the key-encryption keys, and nothing else; on SQLite they are of one machine and share its data
directory. A Gateway is the same stack under another `base_url`, so agents and helpers that take a
`Stack` work at each.
"""

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compose.demo.stack import COUNTERSIGN, Process, Stack
from countersign.admin_client import AdminClient
from tests.stack import admin, demo_objects, free_ports, held_port, prepare

GATEWAYS = ("main", "second", "third")


class Balancer:
    """Passes every connection on to one of `targets` that accepts it, taking turns."""

    def __init__(self, port: int, targets: tuple[int, ...]) -> None:
        self._targets = targets
        self._turns = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = self._connected()
        if server is None:
            client.close()
            return
        back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
        back.start()
        _pass_on(client, server)
        back.join()
        client.close()
        server.close()

    def _connected(self) -> socket.socket | None:
        first = next(self._turns)
        for number in range(len(self._targets)):
            target = self._targets[(first + number) % len(self._targets)]
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", target), timeout=2)
        return None


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    source.settimeout(None)
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):  # a killed server's connections end on both sides
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class Elsewhere(Stack):
    """The stack as seen beside the second server: its sockets instead of the first one's."""

    @property
    def attestation_socket(self) -> Path:
        return self.directory / "run2" / "attest.sock"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "run2" / "admin.sock"


@dataclass
class Authority:
    """One of the authorization servers: its own port, sockets and, on PostgreSQL, data."""

    stack: Stack
    name: str
    port: int
    environment: dict[str, str]
    process: Process | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_socket(self) -> Path:
        return Path(self.environment["COUNTERSIGN_RUN_DIR"]) / "admin.sock"

    def admin(self) -> AdminClient:
        """The admin API of this very process."""
        return AdminClient(self.stack.issuer, timeout_seconds=10, socket=self.admin_socket)

    def start(self) -> None:
        """Start it (again), until it answers."""
        command = [*COUNTERSIGN, "authz-server"]
        self.process = self.stack.start(self.name, command, **self.environment)
        self.stack.await_url(f"{self.address}/healthz", self.process)

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.popen.send_signal(signal.SIGKILL)
        self.process.popen.wait()


@dataclass
class Cluster:
    """The running processes; `gateways` are views of one stack, a Gateway each."""

    stack: Stack
    authorities: tuple[Authority, Authority]
    gateways: tuple[Stack, ...]
    processes: dict[str, Process] = field(default_factory=dict)

    def attested_by(self, authority: Authority) -> Stack:
        """The stack for agents beside this server."""
        if authority is self.authorities[0]:
            return self.stack
        return Elsewhere(**vars(self.stack))

    def join(self, gateway: Stack) -> None:
        """Enrol a process into a Gateway with a fresh code."""
        code = self.stack.command("gateway", "join", gateway.gateway, socket=True).stdout
        file = self.stack.directory / f"join-{gateway.gateway}"
        file.touch(mode=0o600)
        file.write_text(code)
        self.start_gateway(gateway, "--join-code-file", str(file))

    def start_gateway(self, gateway: Stack, *arguments: str) -> None:
        """Start the process of a Gateway; it is not waited for."""
        state = self.state(gateway)
        command = [*COUNTERSIGN, "mcp-gateway", *arguments]
        name = f"gateway-{gateway.gateway}"
        self.processes[name] = gateway.start(name, command, COUNTERSIGN_STATE_DIR=str(state))

    def state(self, gateway: Stack) -> Path:
        """A gateway's own directory: its key and its spool."""
        return self.stack.directory / f"state-{gateway.gateway}"

    def kill_gateway(self, gateway: Stack) -> None:
        """`kill -9`."""
        process = self.processes[f"gateway-{gateway.gateway}"]
        os.kill(process.popen.pid, signal.SIGKILL)
        process.popen.wait()


@contextlib.contextmanager
def running_cluster(directory: Path, database_url: str | None) -> Iterator[Cluster]:
    """Everything started, declared, enrolled, approved and serving."""
    environment = {} if database_url is None else {"COUNTERSIGN_DATABASE_URL": database_url}
    ports = free_ports()
    with contextlib.ExitStack() as holding:
        others = [held_port(holding) for _ in range(4)]
    with (
        Stack(directory, ports=ports, environment=environment) as stack,
        contextlib.closing(Balancer(ports.issuer, (others[0], others[1]))),
    ):
        own = [
            {"COUNTERSIGN_LISTEN_PORT": str(port), "COUNTERSIGN_RUN_DIR": str(directory / run)}
            for port, run in zip(others, ("run", "run2"), strict=False)
        ]
        if database_url is not None:
            own[1]["COUNTERSIGN_DATA_DIR"] = str(directory / "data2")
        first = Authority(stack, "authz-server-1", others[0], own[0])
        second = Authority(stack, "authz-server-2", others[1], own[1])
        gateways = tuple(
            replace(stack, gateway=name, ports=replace(ports, gateway=port))
            for name, port in zip(GATEWAYS, (ports.gateway, others[2], others[3]), strict=True)
        )
        cluster = Cluster(stack, (first, second), gateways)
        first.start()
        second.start()
        stack.start_crm()
        stack.start_notes()
        objects = [*demo_objects(stack), *_more_gateways(gateways[1:])]
        for each in objects:
            if (each["kind"], each["name"]) == ("CredentialProvider", "crm-token"):
                each["spec"]["binding"] = "call"  # every call asks one of the servers
        with admin(stack) as api:
            api.call("POST", "/objects", json={"objects": objects})
        for gateway in gateways:
            cluster.join(gateway)
        prepare(stack, objects)
        for gateway in gateways:
            gateway.await_gateway()
        yield cluster


def _more_gateways(gateways: tuple[Stack, ...]) -> list[dict[str, Any]]:
    return [
        {
            "kind": "Gateway",
            "name": each.gateway,
            "spec": {"base_url": each.base_url, "servers": ["crm", "notes"]},
        }
        for each in gateways
    ]
