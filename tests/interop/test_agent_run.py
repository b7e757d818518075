"""`countersign agent run` with what people have: SPIRE, a platform's token, a user of its own.

And the MCP Inspector, which knows none of it.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from joserfc.jwk import ECKey

from compose.demo.stack import Stack
from tests.services import spire
from tests.services.common import service
from tests.services.mcp_clients import install_inspector
from tests.stack import await_event, demo_objects, free_ports, prepare
from tests.token_exchange.signing import public_jwk, sign

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PROD: Final = "prod.example.com"
CI: Final = "https://ci.example.com"
ROOT: Final = Path(__file__).parents[2]
PLAIN_AGENT: Final = ROOT / "examples" / "plain_agent.py"
OTHER_USER: Final = 64_999  # not "nobody", which the kernel gives to users it cannot name
POLICY = """
@id("grant-run-agents")
permit (principal in AgentGroup::"run-agents", action == Action::"crm/list_hours", resource);
"""
AWAIT_SECONDS = 30.0


@dataclass(frozen=True)
class World:
    """The running product, a trust domain, and the key of a CI system."""

    stack: Stack
    prod: spire.TrustDomain
    ci: ECKey

    def run(
        self,
        *options: str,
        command: list[str],
        variables: Mapping[str, str] | None = None,
        user: int | None = None,
        python: str = sys.executable,
    ) -> subprocess.CompletedProcess[str]:
        """A whole run, alone at crm."""
        own = [python, "-m", "countersign", "--issuer", self.stack.issuer, "agent", "run"]
        own += ["--alone", "--server", "crm", "--gateway", self.stack.base_url, *options, "--"]
        packages = f"{ROOT}:{sysconfig.get_path('purelib')}"
        kept = {"PATH": os.environ["PATH"], "PYTHONPATH": packages, "HOME": "/nowhere"}  # noqa: TID251
        return subprocess.run(  # noqa: S603 - our own command
            [*own, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd="/",
            env=kept | dict(variables or {}),
            user=user,
            group=user,
            extra_groups=None if user is None else (),
        )

    def token_file(self, directory: Path, **changes: Any) -> Path:
        """A fresh token of the CI system, in a file."""
        now = int(time.time())  # noqa: TID251 - real processes have real time
        claims = {
            "iss": CI,
            "sub": "job:1",
            "aud": self.stack.issuer,
            "iat": now,
            "exp": now + 300,
            "repository_id": "4711",
        }
        file = directory / "token"
        header = {"alg": "ES256", "typ": "JWT", "kid": "ci-1"}
        file.write_text(sign(header, claims | changes, self.ci))
        return file


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with service("SPIRE"):
        spire.install()
    directory = Path(tempfile.mkdtemp(prefix="cs-run-"))
    directory.chmod(0o755)  # another user finds the socket there
    ci = ECKey.generate_key("P-256")
    try:
        with (
            spire.running_trust_domain(PROD, directory / "p") as prod,
            Stack(directory / "stack", ports=free_ports()) as stack,
        ):
            prod.register("/other", f"unix:uid:{os.getuid()}")
            prod.register("/runner", f"unix:uid:{os.getuid()}")
            bundle = directory / "prod.json"
            bundle.write_text(prod.bundle())
            stack.start_all()
            prepare(stack, [*demo_objects(stack), *objects(bundle, ci)])
            yield World(stack, prod, ci)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def objects(bundle: Path, ci: ECKey) -> list[dict[str, Any]]:
    """Who vouches here, and one agent for each."""
    domain = {"type": "spiffe", "trust_domain": PROD, "bundle_file": str(bundle)}
    platform = {
        "type": "platform_token",
        "issuer": CI,
        "jwks": {"keys": [public_jwk(ci) | {"kid": "ci-1", "alg": "ES256", "use": "sig"}]},
        "algorithms": ["ES256"],
        "claims": {"ci.repository": "/repository_id"},
        "level": 2,
    }
    return [
        {"kind": "TrustProvider", "name": "prod", "spec": domain},
        {"kind": "TrustProvider", "name": "ci", "spec": platform},
        agent("svid-runner", "prod", 2, {"spiffe.id": f"spiffe://{PROD}/runner"}),
        agent("ci-runner", "ci", 2, {"ci.repository": "4711"}),
        agent("user-runner", "local", 1, {"unix.uid": str(OTHER_USER)}),
        {"kind": "Policy", "name": "runners", "spec": {"cedar": POLICY}},
    ]


def agent(name: str, provider: str, level: int, match: dict[str, str]) -> dict[str, Any]:
    rule = {"providers": [provider], "minimum_level": level, "match": match}
    spec = {
        "owner": "platform@example.com",
        "attestation": rule,
        "groups": ["run-agents"],
        "tools": ["crm/list_hours"],
    }
    return {"kind": "Agent", "name": name, "spec": spec}


def require_called(done: "subprocess.CompletedProcess[str]") -> None:
    """The plain agent listed its one tool and called it."""
    assert done.returncode == 0, done.stderr + done.stdout
    said = json.loads(done.stdout)
    assert (said["tools"], said["is_error"]) == (["list_hours"], False)


def plain_agent() -> list[str]:
    return [sys.executable, str(PLAIN_AGENT), "list_hours", "{}"]


@pytest.mark.requirement("C7")
@pytest.mark.requirement("spiffe-real")
def test_agent_run_finds_its_svid_at_the_workload_api_of_spire(world: World) -> None:
    variables = {"SPIFFE_ENDPOINT_SOCKET": world.prod.workload_api}
    options = ("--spiffe-id", f"spiffe://{PROD}/runner")
    until = time.monotonic() + AWAIT_SECONDS  # SPIRE's agent looks for new entries now and then
    while True:
        done = world.run(*options, command=plain_agent(), variables=variables)
        if done.returncode == 0 or "no_proof" not in done.stderr:
            break
        assert time.monotonic() < until, done.stderr
    require_called(done)
    assert f"SPIFFE Workload API at {world.prod.workload_api}" in done.stderr
    issued = await_event(world.stack, type="token.issued", agent="svid-runner")
    assert issued["workload_svid"] == f"spiffe://{PROD}/runner"
    ended = await_event(world.stack, type="invocation.ended", agent="svid-runner")
    assert ended["invocation"] == issued["invocation"]


def test_agent_run_with_an_identity_that_is_no_agent_is_refused(world: World) -> None:
    variables = {"SPIFFE_ENDPOINT_SOCKET": world.prod.workload_api}
    options = ("--spiffe-id", f"spiffe://{PROD}/other")
    done = world.run(*options, command=plain_agent(), variables=variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert "invalid_client" in done.stderr


@pytest.mark.requirement("C7")
def test_agent_run_takes_the_platforms_token_from_its_file(world: World, tmp_path: Path) -> None:
    file = world.token_file(tmp_path)
    done = world.run("--token-file", str(file), command=plain_agent())
    require_called(done)
    assert str(file) in done.stderr
    other = world.token_file(tmp_path, repository_id="1")
    refused = world.run("--token-file", str(other), command=plain_agent())
    assert refused.returncode == 1
    assert "invalid_client" in refused.stderr


@pytest.mark.requirement("agent-run-tree")
@pytest.mark.skipif(os.getuid() != 0, reason="only root starts a process of another user")
def test_agent_run_serves_a_user_without_privileges(world: World) -> None:
    socket = ("--attestation-socket", str(world.stack.attestation_socket))
    python = f"/usr/bin/python3.{sys.version_info.minor}"  # ours may be where only root reads
    if not Path(python).exists():
        pytest.skip(f"there is no {python} that another user may run")
    command = [python, *plain_agent()[1:]]
    done = world.run(*socket, command=command, user=OTHER_USER, python=python)
    require_called(done)
    # The key is out of reach of the very user that runs it, and so of the command.
    script = (
        "import os; parent = os.getppid()\n"
        "for name in ('environ', 'mem', 'maps'):\n"
        "    try: open(f'/proc/{parent}/{name}', 'rb').read(1); print(name, 'was read')\n"
        "    except OSError as error: print(name, type(error).__name__)\n"
    )
    done = world.run(*socket, command=[python, "-c", script], user=OTHER_USER, python=python)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == [
        "environ PermissionError",
        "mem PermissionError",
        "maps PermissionError",
    ]


@pytest.mark.requirement("agent-run-inspector")
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_inspector_lists_and_calls_tools_and_never_logs_in(
    world: World, tmp_path: Path, era: str
) -> None:
    with service("the MCP Inspector"):
        inspector = install_inspector()
    home = tmp_path / "home"
    home.mkdir()
    variables = {"HOME": str(home), "MCP_INSPECTOR_SECRET_STORE": "file"}
    script = f'exec "$@" --server-url "$COUNTERSIGN_MCP_URL" --protocol-era {era}'

    def asked(*words: str) -> Any:
        own = ("--cli", "--transport", "http", "--format", "json", *words)
        command = ["/bin/sh", "-c", script, "sh", *inspector, *own]
        file = ("--token-file", str(world.token_file(tmp_path)))
        done = world.run(*file, command=command, variables=variables)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)["result"]

    listed = asked("--method", "tools/list")
    assert [tool["name"] for tool in listed["tools"]] == ["list_hours"]
    called = asked("--method", "tools/call", "--tool-name", "list_hours")
    assert not called.get("isError"), called
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if b"eyJ" in path.read_bytes()] == []
