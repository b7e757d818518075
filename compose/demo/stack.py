"""Starts the real processes of the demo on loopback ports and stops them again.

Used by the story and by the tests: `countersign serve`, the two MCP servers, the agent. Nothing
is imported from the product; everything goes through its commands, as a person would.
"""

import contextlib
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Self

import httpx2

from compose.demo.agent_process import AgentProcess
from compose.demo.browser import system_authorities

HERE = Path(__file__).parent
START_SECONDS = 30.0


class StackError(Exception):
    """A process did not start, or a command failed."""


@dataclass(frozen=True)
class Ports:
    """The loopback ports of the demo."""

    issuer: int = 8700
    gateway: int = 8701
    crm: int = 8711
    notes: int = 8712

    @property
    def all(self) -> tuple[int, ...]:
        return (self.issuer, self.gateway, self.crm, self.notes)

    def taken(self) -> list[int]:
        """Those that somebody else listens on."""
        return taken_ports(self.all)


def taken_ports(ports: Sequence[int]) -> list[int]:
    """Those of some loopback ports that somebody listens on."""
    found = []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                found.append(port)
    return found


@dataclass
class Process:
    """One child process and where its output goes."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def stop(self, seconds: float = 10) -> int:
        """Ask it to end, then make it."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        return self.popen.wait()

    def tail(self) -> str:
        """The end of its log, for an error message."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-3000:]
        return ""


@dataclass
class Stack:
    """The running demo. Use as a context manager."""

    directory: Path
    ports: Ports = field(default_factory=Ports)
    gateway: str = "main"
    people: str = "local"  # the name of their identity provider
    object_folders: tuple[Path, ...] = ()  # what they hold takes the place of the demo's own
    values: dict[str, str] = field(default_factory=dict)  # for the placeholders in the objects
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    http: httpx2.Client = field(
        default_factory=lambda: httpx2.Client(
            timeout=20, trust_env=False, verify=system_authorities()
        )
    )
    notes_key: str = field(default_factory=lambda: "nk_" + secrets.token_urlsafe(24))

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.ports.issuer}"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def crm_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.crm}/mcp"

    @property
    def notes_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.notes}/mcp"

    @property
    def attestation_socket(self) -> Path:
        return self.directory / "run" / "attest.sock"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "run" / "admin.sock"

    def endpoint(self, server: str) -> str:
        return f"{self.base_url}/{server}/mcp"

    def child_environment(self) -> dict[str, str]:
        """Settings for the product's processes, all under the stack's own directory."""
        own = {
            "COUNTERSIGN_ISSUER": self.issuer,
            "COUNTERSIGN_LISTEN_PORT": str(self.ports.issuer),
            "COUNTERSIGN_GATEWAY_PORT": str(self.ports.gateway),
            "COUNTERSIGN_GATEWAY": self.gateway,
            "COUNTERSIGN_DATA_DIR": str(self.directory / "data"),
            "COUNTERSIGN_KEYS_DIR": str(self.directory / "keys"),
            "COUNTERSIGN_RUN_DIR": str(self.directory / "run"),
            "COUNTERSIGN_STATE_DIR": str(self.directory / "gateway"),
            "COUNTERSIGN_CONFIG_DIR": str(self.directory / "operator"),
            "COUNTERSIGN_LOG_FORMAT": "json",
        }
        return dict(os.environ) | own | self.environment  # noqa: TID251 - passed to the children

    def start(self, name: str, command: Sequence[str], **more: str) -> Process:
        """Start a child; its output goes to a file named after it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.child_environment() | more,
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def serve(self) -> Process:
        """`countersign serve`, until its authorization server answers."""
        process = self.start("serve", [*COUNTERSIGN, "serve"])
        self.await_url(f"{self.issuer}/healthz", process)
        return process

    def start_all(self) -> None:
        """Everything at once, until each answers."""
        with ThreadPoolExecutor(3) as starting:
            for started in [
                starting.submit(start) for start in (self.serve, self.start_crm, self.start_notes)
            ]:
                started.result()

    def start_crm(self) -> Process:
        arguments = ["--port", str(self.ports.crm), "--issuer", self.issuer]
        arguments += ["--database", str(self.directory / "crm.db")]
        process = self.start("crm", [sys.executable, str(HERE / "crm_server.py"), *arguments])
        self.await_url(self.crm_url, process)
        return process

    def start_notes(self) -> Process:
        arguments = [
            "--port",
            str(self.ports.notes),
            "--database",
            str(self.directory / "notes.db"),
        ]
        process = self.start(
            "notes",
            [sys.executable, str(HERE / "notes_server.py"), *arguments],
            NOTES_API_KEY=self.notes_key,
        )
        self.await_url(self.notes_url, process)
        return process

    def await_url(self, url: str, process: Process, seconds: float = START_SECONDS) -> None:
        """Wait until something answers at `url`, or say why it did not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if process.popen.poll() is not None:
                message = f"{process.name} ended:\n{process.tail()}"
                raise StackError(message)
            with contextlib.suppress(httpx2.HTTPError):
                self.http.get(url, timeout=2)
                return
            time.sleep(0.02)
        message = f"{process.name} does not answer at {url}:\n{process.tail()}"
        raise StackError(message)

    def await_gateway(self, server: str = "crm", seconds: float = START_SECONDS) -> None:
        """Wait until the gateway serves an endpoint: 401 instead of 503 or nothing."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.HTTPError):
                answer = self.http.post(self.endpoint(server), timeout=2, json={})
                if answer.status_code == httpx2.codes.UNAUTHORIZED:
                    return
            time.sleep(0.02)
        tails = "\n".join(process.tail() for process in self.processes if process.name != "crm")
        message = f"the gateway does not serve {self.endpoint(server)}:\n{tails}"
        raise StackError(message)

    def command(
        self, *arguments: str, stdin: str = "", socket: bool = False, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `countersign …` as the operator; by the admin socket if asked."""
        by = ["--socket", str(self.admin_socket)] if socket else []
        done = subprocess.run(  # noqa: S603 - our own command
            [*COUNTERSIGN, *by, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env=self.child_environment(),
        )
        if check and done.returncode != 0:
            message = f"countersign {' '.join(arguments)}: {done.stderr or done.stdout}"
            raise StackError(message)
        return done

    def objects(self) -> Path:
        """The demo's objects with this machine's values filled in."""
        target = self.directory / "objects"
        target.mkdir(parents=True, exist_ok=True)
        values = {
            "uid": str(os.getuid()),
            "agent_digest": digest_of(HERE / "agent.py"),
            "agent_run_digest": digest_of(HERE / "agent_run.py"),
            "crm_url": self.crm_url,
            "notes_url": self.notes_url,
            "gateway": self.gateway,
            "base_url": self.base_url,
            "people": self.people,
        } | self.values
        folders = (HERE / "objects", *self.object_folders)
        sources = {path.name: path for folder in folders for path in folder.glob("*.yaml")}
        for _, source in sorted(sources.items()):
            text = Template(source.read_text()).substitute(values)
            (target / source.name).write_text(text)
        return target

    def agent(self, name: str = "support-bot") -> AgentProcess:
        """Start an agent in a process of its own."""
        command = [sys.executable, str(HERE / "agent.py"), "--name", name]
        command += ["--issuer", self.issuer, "--socket", str(self.attestation_socket)]
        log = self.directory / f"agent-{secrets.token_hex(3)}.log"
        return AgentProcess(command, self.child_environment(), log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.stop()
        self.http.close()


def digest_of(script: Path) -> str:
    """A script as the kernel's word names it, `unix.script_digest`."""
    return f"sha-256:{hashlib.sha256(script.read_bytes()).hexdigest()}"


COUNTERSIGN = [sys.executable, "-m", "countersign"]
