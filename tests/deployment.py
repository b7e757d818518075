"""One `authz-server` and two Gateways with a process each, apart as in a real deployment.

Each gateway process joins with the code of `countersign gateway join`, from a file. The second
Gateway is the same stack under another `base_url` (`Deployment.second`), so agents and helpers
that take a `Stack` work at either. There are two agents, told apart by the digest of their
programs: `support-bot` in the group `support-agents` and `other-bot` in `other-agents`.
"""

import contextlib
import hashlib
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compose.demo.stack import COUNTERSIGN, Process, Stack, StackError
from tests.stack import ATTEST_HELPER, TestAgent, admin, demo_objects, free_ports, prepare

OTHER_POLICY = """
@id("grant-others-read")
permit (principal in AgentGroup::"other-agents", action in Action::"call_read",
        resource in McpServer::"crm")
when { context.run has user && context.run.user in Group::"local/staff" };
"""


@dataclass
class Deployment:
    """The running processes. `first` and `second` are views of one stack, a Gateway each."""

    first: Stack
    second: Stack
    authority: Process

    @property
    def gateways(self) -> tuple[Stack, Stack]:
        return self.first, self.second

    def state(self, gateway: Stack) -> Path:
        """A gateway's own directory: its key and its spool."""
        return self.first.directory / f"state-{gateway.gateway}"

    def start_authority(self) -> Process:
        """Start the authorization server (again), until it answers."""
        process = self.first.start("authz-server", [*COUNTERSIGN, "authz-server"])
        self.first.await_url(f"{self.first.issuer}/healthz", process)
        self.authority = process
        return process

    def join(self, gateway: Stack) -> Process:
        """Enrol a process into a Gateway with a fresh code."""
        code = self.first.command("gateway", "join", gateway.gateway, socket=True).stdout
        file = self.first.directory / f"join-{gateway.gateway}"
        file.touch(mode=0o600)
        file.write_text(code)
        return self.start_gateway(gateway, "--join-code-file", str(file))

    def start_gateway(self, gateway: Stack, *arguments: str) -> Process:
        """Start the process of a Gateway; it is not waited for."""
        command = [*COUNTERSIGN, "mcp-gateway", *arguments]
        name = f"gateway-{gateway.gateway}"
        return gateway.start(name, command, COUNTERSIGN_STATE_DIR=str(self.state(gateway)))

    def await_link(self, seconds: float = 15) -> None:
        """Wait until both Gateways hear the authority: a revocation of nothing is confirmed."""
        body = {"kind": "jti", "id": f"tok_{secrets.token_hex(8)}", "reason": "are you there?"}
        deadline = time.monotonic() + seconds
        with admin(self.first) as api:
            sequence = api.call("POST", "/blocks", json=body)["sequence"]
            while time.monotonic() < deadline:
                acks = api.call("GET", f"/blocks/acks/{sequence}")["acks"]
                heard = {ack["gateway"] for ack in acks if ack["applied_at_ms"] is not None}
                if heard == {gateway.gateway for gateway in self.gateways}:
                    return
                time.sleep(0.02)
        message = f"only {heard} hear the authorization server"
        raise StackError(message)

    def process(self, gateway: Stack) -> Process:
        """The newest process of a Gateway."""
        name = f"gateway-{gateway.gateway}"
        return next(each for each in reversed(self.first.processes) if each.name == name)

    def agent(self, gateway: Stack, name: str = "support-bot") -> TestAgent:
        """An agent that calls at one of the Gateways."""
        helper = ATTEST_HELPER if name == "support-bot" else other_helper(self.first)
        return TestAgent(gateway, name=name, helper=helper)

    @contextlib.contextmanager
    def frozen(self, process: Process) -> Iterator[None]:
        """A process that neither runs nor ends."""
        process.popen.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.popen.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_deployment(directory: Path) -> Iterator[Deployment]:
    """Everything started, declared, enrolled, approved and serving."""
    with Stack(directory, ports=free_ports()) as first:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        second = replace(first, gateway="second", ports=replace(first.ports, gateway=port))
        process = first.start("authz-server", [*COUNTERSIGN, "authz-server"])
        first.await_url(f"{first.issuer}/healthz", process)
        first.start_crm()
        first.start_notes()
        deployment = Deployment(first, second, process)
        objects = two_gateways(first, second)
        with admin(first) as api:
            api.call("POST", "/objects", json={"objects": objects})
        for gateway in deployment.gateways:
            deployment.join(gateway)
        prepare(first, objects)
        for gateway in deployment.gateways:
            gateway.await_gateway()
        yield deployment


def two_gateways(first: Stack, second: Stack) -> list[dict[str, Any]]:
    """The demo's objects, a second Gateway, a second agent and what it may do."""
    objects = demo_objects(first)
    agent = deepcopy(next(each for each in objects if each["kind"] == "Agent"))
    agent["name"] = "other-bot"
    agent["spec"]["groups"] = ["other-agents"]
    digest = hashlib.sha256(other_helper(first).read_bytes()).hexdigest()
    agent["spec"]["attestation"]["match"]["unix.script_digest"] = f"sha-256:{digest}"
    gateway = {"base_url": second.base_url, "servers": ["crm", "notes"]}
    return [
        *objects,
        agent,
        {"kind": "Gateway", "name": second.gateway, "spec": gateway},
        {"kind": "Policy", "name": "others", "spec": {"cedar": OTHER_POLICY}},
    ]


def other_helper(stack: Stack) -> Path:
    """Another program that asks to be attested: the same, with another digest."""
    file = stack.directory / "other_helper.py"
    if not file.exists():
        file.write_text(ATTEST_HELPER.read_text() + "# another agent\n")
    return file
