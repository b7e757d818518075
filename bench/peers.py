"""What we are compared with: fetched or built once into a cache, started on loopback, pinned.

A peer that cannot be had here says why, and the rows that need it are left out. Nothing of a peer
is part of the product: nginx and wrk come from the distribution, the Go proxy is ours, built with
the machine's Go, and oidc-provider comes with its own Node from npm by a lock file.
"""

import http.client
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

from bench.process_tree import pin, stop

HERE: Final = Path(__file__).parent
CACHE: Final = Path("~/.cache/countersign/bench").expanduser()
INSTALL_SECONDS: Final = 120.0
START_SECONDS: Final = 15.0


class PeerUnavailableError(Exception):
    """A peer cannot be had on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """One for the load and the MCP server behind, one for what is measured.

    `beside` is for whatever of the product is not measured: a third core, or the load's.
    """

    load: int
    server: int
    beside: int

    @classmethod
    def choose(cls) -> "Cores":
        """The first two this process may use.

        Raises:
            PeerUnavailableError: There are not two.
        """
        available = sorted(os.sched_getaffinity(0))
        if len(available) < 2:
            raise PeerUnavailableError("two cores are needed: one loads, one is measured")
        return cls(available[0], available[1], available[2 if len(available) > 2 else 0])


@dataclass(frozen=True, slots=True)
class Workbench:
    """Where a run happens: its directory, its cores, and what has to be ended after it."""

    directory: Path
    cores: Cores
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, name: str, command: Sequence[str], *, core: int, port: int, **environment: str
    ) -> int:
        """Start a server on one core and wait until it listens; its process id."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=environment.pop("cwd", str(self.directory)),
                env=dict(os.environ) | environment,
            )
        self.processes.append(process)
        pin(process.pid, core)
        self._await_listening(name, process, port)
        pin(process.pid, core)  # threads it has made since
        return process.pid

    def stop_all(self) -> None:
        """End every process that was started here."""
        for process in reversed(self.processes):
            stop(process)

    def _await_listening(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            try:
                connection.connect()
            except OSError:
                time.sleep(0.02)
            else:
                return
            finally:
                connection.close()
        log = (self.directory / f"{name}.log").read_text(errors="replace")[-500:]
        raise PeerUnavailableError(f"{name} does not start: {log}")


def require_load_generator() -> None:
    """wrk, from the distribution if it is not here.

    Raises:
        PeerUnavailableError: Neither here nor to be had.
    """
    _debian("wrk", "wrk")


def build_upstream() -> Path:
    """The stub MCP server.

    Raises:
        PeerUnavailableError: There is no C compiler.
    """
    source = HERE / "upstream.c"
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", "{target}", str(source)]
    return _built("upstream", [source], command, HERE)


def start_nginx(workbench: Workbench, port: int, upstream_port: int) -> int:
    """Start nginx as a bare reverse proxy; its process id."""
    program = _debian("nginx", "nginx-light")
    values = {"directory": workbench.directory, "port": port, "upstream_port": upstream_port}
    configuration = workbench.directory / "nginx.conf"
    configuration.write_text(Template((HERE / "nginx.conf").read_text()).substitute(values))
    command = [program, "-c", str(configuration), "-p", str(workbench.directory)]
    return workbench.start("nginx", command, core=workbench.cores.server, port=port)


def start_go_proxy(workbench: Workbench, port: int, upstream_port: int) -> int:
    """The bare Go reverse proxy; its process id."""
    folder = HERE / "goproxy"
    sources = [folder / "main.go", folder / "go.mod"]
    program = _built("goproxy", sources, ["go", "build", "-o", "{target}", "."], folder)
    command = [str(program), str(port), str(upstream_port)]
    core = workbench.cores.server
    return workbench.start("goproxy", command, core=core, port=port, GOMAXPROCS="1")


def start_oidc_provider(workbench: Workbench, port: int, client_jwk: Path) -> int:
    """The npm token endpoint on its own Node; its process id."""
    folder = CACHE / "oidc_provider"
    node = folder / "node_modules" / "node" / "bin" / "node"
    lock = HERE / "oidc_provider" / "package-lock.json"
    installed = folder / "package-lock.json"
    if not node.exists() or not installed.exists() or installed.read_bytes() != lock.read_bytes():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(lock.with_name(name), folder / name)
        _run([_program("npm"), "ci", "--no-audit", "--no-fund"], folder)
    if not node.exists():
        raise PeerUnavailableError("oidc-provider: npm installed no Node for this machine")
    command = [str(node), str(HERE / "oidc_provider" / "server.mjs"), str(port), str(client_jwk)]
    return workbench.start(
        "oidc-provider",
        command,
        core=workbench.cores.server,
        port=port,
        cwd=str(folder),
        NODE_ENV="production",
    )


def _debian(program: str, package: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _run(["apt-get", "install", "-y", "-qq", package], HERE, DEBIAN_FRONTEND="noninteractive")
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise PeerUnavailableError(f"{program} is not installed (Debian package {package})")
    return found


def _built(name: str, sources: Sequence[Path], command: Sequence[str], folder: Path) -> Path:
    """A program of ours, built when its sources are newer than it."""
    target = CACHE / name
    newest = max(source.stat().st_mtime for source in sources)
    if not target.exists() or target.stat().st_mtime < newest:
        CACHE.mkdir(parents=True, exist_ok=True)
        _program(command[0])
        _run([part.format(target=target) for part in command], folder)
    return target


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerUnavailableError(f"{name} is not installed")
    return found


def _run(command: Sequence[str], folder: Path, **environment: str) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=dict(os.environ) | environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise PeerUnavailableError(f"{' '.join(command[:3])}: {done.stderr.strip()[-300:]}")


StartPeer = Callable[[Workbench, int, int], int]
GATEWAY_PEERS: Final[Mapping[str, StartPeer]] = {
    "nginx": start_nginx,
    "Go ReverseProxy": start_go_proxy,
}
