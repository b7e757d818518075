"""SPIRE: a server and an agent per trust domain, built from the Go module proxy's own zip.

What is built is SPIRE 1.15.3 without the plugins for clouds, Kubernetes, vaults and containers:
none of them can run in a test, one needs a module the proxy refuses, and they double the build.
What stays is unchanged. Join tokens attest the agent, the `unix` plugin attests the workload.
"""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from spiffe import WorkloadApiClient
from spiffe.errors import PySpiffeError

from tests.services.common import CannotInstallError, Server, installing, run, started
from tests.stack import held_port

Answer = TypeVar("Answer")

VERSION: Final = "1.15.3"
MODULE: Final = "github.com/spiffe/spire"
# The plugins that are built in, by the folder of each; every other one is left out.
KEPT: Final = frozenset({"disk", "jointoken", "memory", "systemd", "uniqueid", "unix", "windows"})
UNSERVED_MODULE: Final = "github.com/Keyfactor/ejbca-go-client-sdk"
START_SECONDS: Final = 60.0
COMMAND_SECONDS: Final = 30.0
IDENTITY_SECONDS: Final = 30.0
SYNC_INTERVAL: Final = "1s"  # after which server and agent look for new entries; else five


@dataclass(frozen=True, slots=True)
class Binaries:
    """The built programs."""

    server: Path
    agent: Path


def install() -> Binaries:
    """Build once into the cache (minutes); afterwards only look.

    Raises:
        CannotInstallError: no Go, or the module or one it needs is not to be had.
    """
    with installing(f"spire-{VERSION}") as folder:
        built = Binaries(folder / "spire-server", folder / "spire-agent")
        if not (built.server.exists() and built.agent.exists()):
            _build(folder)
        return built


def _build(folder: Path) -> None:
    settings = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "1"}
    downloaded = run(
        ["go", "mod", "download", "-json", f"{MODULE}@v{VERSION}"], cwd=folder, environment=settings
    )
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(json.loads(downloaded)["Dir"], source)
    # The module cache is read-only, and so is a copy of it.
    run(["chmod", "-R", "u+w", source])
    _leave_plugins_out(source)
    output = folder / "new"
    output.mkdir(exist_ok=True)
    command = ["nice", "-n", "15", "go", "build", "-ldflags", "-s -w", "-o", f"{output}/"]
    run([*command, "./cmd/spire-server", "./cmd/spire-agent"], cwd=source, environment=settings)
    for program in output.iterdir():
        program.replace(folder / program.name)
    shutil.rmtree(source)


def _leave_plugins_out(source: Path) -> None:
    """Remove every plugin that is not in KEPT from the tables of plugins, and its import."""
    tables = [path for side in ("server", "agent") for path in _tables(source, side)]
    if not tables:
        raise CannotInstallError("the source of SPIRE has no tables of plugins where they were")
    for path in tables:
        path.write_text(_without_plugins(path.read_text()))
    module = source / "go.mod"
    lines = module.read_text().splitlines(keepends=True)
    module.write_text("".join(line for line in lines if UNSERVED_MODULE not in line))


def _tables(source: Path, side: str) -> list[Path]:
    folder = source / "pkg" / side / "catalog"
    return [path for path in folder.glob("*.go") if not path.name.endswith("_test.go")]


def _without_plugins(text: str) -> str:
    left_out: set[str] = set()
    kept: list[str] = []
    for line in text.splitlines(keepends=True):
        imported = re.fullmatch(r'\s*(\w+ )?"[^"]+/plugin/\w+/(\w+)"\s*', line)
        if imported and imported[2] not in KEPT:
            left_out.add((imported[1] or imported[2]).strip())
            continue
        used = re.fullmatch(r"\s*(\w+)\.BuiltIn\(\),\s*", line)
        if used and used[1] in left_out:
            continue
        kept.append(line)
    return "".join(kept)


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """A running trust domain: its server, one agent on this machine, and how to talk to both."""

    name: str
    directory: Path
    binaries: Binaries
    server_socket: Path
    agent_socket: Path

    @property
    def workload_api(self) -> str:
        """The Workload API's address, as workloads are told it."""
        return f"unix://{self.agent_socket}"

    def command(self, *words: str | Path) -> str:
        """Run one command of `spire-server` against the server; its output."""
        done = subprocess.run(  # noqa: S603 - our own words
            [self.binaries.server, *words, "-socketPath", self.server_socket],
            check=True,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        return done.stdout

    def bundle(self) -> str:
        """The bundle now, as a SPIFFE bundle document."""
        return self.command("bundle", "show", "-format", "spiffe")

    def rotate_jwt_authority(self) -> str:
        """Sign JWT-SVIDs with a new key from now on; its id. The bundle keeps the old one."""
        made = json.loads(self.command("localauthority", "jwt", "prepare", "-output", "json"))
        key_id = str(made["prepared_authority"]["authority_id"])
        self.command("localauthority", "jwt", "activate", "-authorityID", key_id)
        return key_id

    def register(
        self, path: str, *selectors: str, x509_seconds: int = 600, jwt_seconds: int = 300
    ) -> str:
        """Give processes that meet every selector (such as `unix:uid:1000`) an identity; it."""
        spiffe_id = f"spiffe://{self.name}{path}"
        options = [word for each in selectors for word in ("-selector", each)]
        self.command(
            "entry",
            "create",
            "-parentID",
            f"spiffe://{self.name}/node",
            "-spiffeID",
            spiffe_id,
            "-x509SVIDTTL",
            str(x509_seconds),
            "-jwtSVIDTTL",
            str(jwt_seconds),
            *options,
        )
        return spiffe_id

    def await_identity(self, spiffe_id: str) -> None:
        """Wait until the agent gives this very process an identity that was just registered."""

        def ask() -> None:
            with WorkloadApiClient(self.workload_api, default_timeout=5) as api:
                given = {str(each.spiffe_id) for each in api.fetch_x509_svids()}
            if spiffe_id not in given:
                raise PySpiffeError(f"only {sorted(given)} yet")

        eventually(ask)


def eventually(ask: Callable[[], Answer]) -> Answer:
    """What the agent says once a new entry has reached it."""
    until = time.monotonic() + IDENTITY_SECONDS
    while True:
        with contextlib.suppress(PySpiffeError):
            return ask()
        assert time.monotonic() < until, "SPIRE's agent gave no SVID"
        time.sleep(0.2)


@contextlib.contextmanager
def running_trust_domain(
    name: str, directory: Path, *, endpoint: "BundleEndpoint | None" = None
) -> Iterator[TrustDomain]:
    """A SPIRE server and agent of one trust domain, state in `directory` (a short path).

    `endpoint` publishes the bundle over https.
    """
    binaries = install()
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as holding:
        port = held_port(holding)
    domain = TrustDomain(
        name, directory, binaries, directory / "server.sock", directory / "agent.sock"
    )
    config = directory / "server.conf"
    config.write_text(_server_configuration(domain, port, endpoint))
    command: list[str | Path] = [binaries.server, "run", "-config", config]
    with started("spire-server", command, directory) as server:
        health: list[str | Path] = [
            binaries.server,
            "healthcheck",
            "-socketPath",
            domain.server_socket,
        ]
        server.await_ready(lambda: _is_healthy(domain.server_socket, health), START_SECONDS)
        with _agent(domain, port) as agent:
            health = [binaries.agent, "healthcheck", "-socketPath", domain.agent_socket]
            agent.await_ready(lambda: _is_healthy(domain.agent_socket, health), START_SECONDS)
            yield domain


@contextlib.contextmanager
def _agent(domain: TrustDomain, port: int) -> Iterator[Server]:
    node = f"spiffe://{domain.name}/node"
    told = domain.command("token", "generate", "-spiffeID", node)
    token = told.partition("Token: ")[2].split()[0]
    anchor = domain.directory / "anchor.pem"
    anchor.write_text(domain.command("bundle", "show"))
    config = domain.directory / "agent.conf"
    config.write_text(_agent_configuration(domain, port, anchor))
    command: list[str | Path] = [
        domain.binaries.agent,
        "run",
        "-config",
        config,
        "-joinToken",
        token,
    ]
    with started("spire-agent", command, domain.directory) as agent:
        yield agent


@dataclass(frozen=True, slots=True)
class BundleEndpoint:
    """Where a server publishes its bundle (profile `https_web`), and its certificate there."""

    port: int
    certificate: Path
    key: Path


def _server_configuration(domain: TrustDomain, port: int, endpoint: BundleEndpoint | None) -> str:
    return f"""
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{domain.server_socket}"
  trust_domain = "{domain.name}"
  data_dir = "{domain.directory}"
  log_level = "INFO"
  ca_ttl = "24h"
  experimental {{ cache_reload_interval = "{SYNC_INTERVAL}" }}
  {_federation(endpoint)}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{domain.directory}/server.sqlite3"
    }}
  }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""


def _federation(endpoint: BundleEndpoint | None) -> str:
    if endpoint is None:
        return ""
    return f"""
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {endpoint.port}
      refresh_hint = "1m"
      profile "https_web" {{
        serving_cert_file {{
          cert_file_path = "{endpoint.certificate}"
          key_file_path = "{endpoint.key}"
          file_sync_interval = "1m"
        }}
      }}
    }}
  }}
"""


def _agent_configuration(domain: TrustDomain, port: int, anchor: Path) -> str:
    return f"""
agent {{
  data_dir = "{domain.directory / "agent"}"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{domain.agent_socket}"
  trust_bundle_path = "{anchor}"
  trust_domain = "{domain.name}"
  experimental {{ sync_interval = "{SYNC_INTERVAL}" }}
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""


def _is_healthy(socket: Path, command: list[str | Path]) -> bool:
    """What its own health check says, once there is somebody to ask."""
    if not socket.exists():
        return False
    done = subprocess.run(  # noqa: S603 - our own words
        command, check=False, capture_output=True, timeout=COMMAND_SECONDS
    )
    return done.returncode == 0
