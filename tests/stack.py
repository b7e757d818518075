"""The real processes on free loopback ports, and real callers, for tests marked `processes`.

`running_stack` starts `countersign serve` and the demo's two MCP servers, declares the demo's
objects over the admin socket, approves the tools and waits until the policies are active. A
`TestAgent` is an attested agent whose key and tokens a test may look at, steal and misuse; the
kernel attests the short-lived process `tests/attest_helper.py` for it. `Stack.start` and friends
(compose/demo/stack.py) start more processes, such as a second gateway.
"""

import contextlib
import hashlib
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey

from compose.demo.browser import Browser, RefusedError, log_in_and_allow
from compose.demo.stack import Ports, Stack, StackError
from countersign.admin_client import AdminClient
from countersign.login_file import ProofKey
from countersign.manifests import read_manifests
from credential_providers.vault.seal import seal_secret
from token_exchange.token_types import CLIENT_ASSERTION_JWT_BEARER

ATTEST_HELPER: Final = Path(__file__).with_name("attest_helper.py")
CALLBACK: Final = "http://127.0.0.1:18080/callback"
PASSWORDS: Final = {
    "alice": "wander-copper-lantern-52",
    "bob": "mosaic-thimble-orchard-19",
}
GROUPS: Final = {"alice": ["support", "staff"], "bob": ["staff"]}
PROTOCOL: Final = "2026-07-28"
LOWEST_PORT: Final = 15_000
SEARCHED: Final = frozenset({"type", "agent", "tool", "outcome", "invocation"})  # of an event


def free_ports() -> Ports:
    """Ports nobody listens on now; held until all four are known."""
    with contextlib.ExitStack() as holding:
        return Ports(*(held_port(holding) for _ in range(4)))


def held_port(holding: contextlib.ExitStack) -> int:
    """A port below the range from which the kernel takes those of outgoing connections.

    A server that is down for a moment would otherwise lose its port to somebody's connection, even
    to one that asks for it: a client connected to itself.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    lowest = min(LOWEST_PORT, ephemeral // 2)
    while True:
        listener = holding.enter_context(socket.socket())
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", lowest + secrets.randbelow(ephemeral - lowest)))
            return int(listener.getsockname()[1])


@contextlib.contextmanager
def running_stack(
    directory: Path, *, environment: Mapping[str, str] | None = None, prepared: bool = True
) -> Iterator[Stack]:
    """A running stack; `environment` reaches every process of the product."""
    with Stack(directory, ports=free_ports(), environment=dict(environment or {})) as stack:
        stack.start_all()
        if prepared:
            prepare(stack)
        yield stack


def admin(stack: Stack) -> AdminClient:
    """The admin API, as the local operator."""
    return AdminClient(stack.issuer, timeout_seconds=10, socket=stack.admin_socket)


def prepare(stack: Stack, objects: list[dict[str, Any]] | None = None) -> None:
    """Declare people, the agent, servers, gateway and policies; approve; wait until active.

    `objects` replaces the demo's; servers beside `crm` and `notes` are not approved here.
    """
    objects = demo_objects(stack) if objects is None else objects
    with admin(stack) as api:
        people = [each for each in objects if each["kind"] == "IdentityProvider"]
        api.call("POST", "/objects", json={"objects": people})
        for name, password in PASSWORDS.items() if stack.people == "local" else ():
            account = {
                "identity_provider": "local",
                "username": name,
                "password": password,
                "groups": GROUPS[name],
            }
            api.call("POST", "/accounts", json=account)
        sealed = seal_secret("notes-api-key", stack.notes_key, api.call("GET", "/vault-key")["jwk"])
        api.call("PUT", "/secrets/notes-api-key", json={"sealed": sealed})
        api.call("POST", "/objects", json={"objects": objects})
        stack.await_gateway("crm")
        for server in ("crm", "notes"):
            approve_all(api, server)
        await_policies(api)
    await_tools(stack)


def await_policies(api: AdminClient) -> None:
    """Wait until every gateway that is heard of decides by the newest policies."""
    status = api.call("GET", "/policies/status", query={"wait": "20"}, wait_seconds=20)
    if status["waiting_for"]:
        message = f"the policy set is not active: {status}"
        raise StackError(message)


def demo_objects(stack: Stack) -> list[dict[str, Any]]:
    """The demo's objects, with the test helper as the agent's program."""
    manifests, problems = read_manifests(stack.objects())
    if problems:
        raise StackError(str(problems[0]))
    objects = [manifest.declared.model_dump() for manifest in manifests]
    digest = hashlib.sha256(ATTEST_HELPER.read_bytes()).hexdigest()
    for each in objects:
        if each["kind"] == "Agent":
            each["spec"]["attestation"]["match"]["unix.script_digest"] = f"sha-256:{digest}"
    return objects


def approve_all(api: AdminClient, server: str, seconds: float = 20) -> None:
    """Wait until a gateway has reported the server's tools, and approve them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rows = api.call("GET", f"/catalogue/{server}")["tools"]
        if rows:
            digests = {row["name"]: row["observed_digest"] for row in rows}
            api.call("POST", f"/catalogue/{server}/approve", json={"tools": digests})
            return
        time.sleep(0.05)
    message = f"no gateway reported the tools of {server}"
    raise StackError(message)


def await_tools(stack: Stack, seconds: float = 10) -> None:
    """Wait until the gateway has applied the newest registry version."""
    with admin(stack) as api:
        wanted = api.call("GET", "/policies/status")["policy_version"]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.HTTPError):
            if stack.http.get(f"{stack.base_url}/healthz").status_code == 200 and wanted:
                time.sleep(0.2)
                return
        time.sleep(0.02)
    message = "the gateway does not serve"
    raise StackError(message)


def new_key() -> ProofKey:
    """A fresh key; real processes have real time."""
    return ProofKey(ECKey.generate_key("P-256"), time.time)  # noqa: TID251


@dataclass
class TestAgent:
    """An attested agent in the test's hands."""

    __test__ = False

    stack: Stack
    name: str = "support-bot"
    provider: str = "local"
    key: ProofKey = field(default_factory=new_key)
    tokens: dict[str, str] = field(default_factory=dict)
    helper: Path = ATTEST_HELPER

    def attestation(self, thumbprint: str | None = None) -> str:
        """The kernel's word on the helper process, bound to our key unless told otherwise."""
        done = subprocess.run(  # noqa: S603 - our own helper
            [
                sys.executable,
                str(self.helper),
                str(self.stack.attestation_socket),
                self.provider,
                thumbprint or self.key.thumbprint,
            ],
            capture_output=True,
            check=True,
            timeout=20,
        )
        return str(json.loads(done.stdout)["attestation"])

    def token_request(
        self,
        form: Mapping[str, Any],
        *,
        assertion: str | None = None,
        proof: str | None = None,
        issuer: str | None = None,
    ) -> httpx2.Response:
        """POST to the token endpoint, with a fresh attestation and proof unless given."""
        url = f"{issuer or self.stack.issuer}/oauth/token"
        own = {
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": assertion or self.attestation(),
        }
        # Proofs name the configured issuer, whatever port a second process listens at.
        htu = f"{self.stack.issuer}/oauth/token"
        return self.stack.http.post(
            url, data=own | dict(form), headers={"dpop": proof or self.key.proof("POST", htu)}
        )

    def authorization_url(
        self, server: str, tools: list[str], *, resource: str | None = None, **more: str
    ) -> tuple[str, dict[str, str]]:
        """Where the person must go, and what is needed to redeem the code."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
        details = [{"type": "mcp_tool", "server": server, "tools": tools, "actions": ["call"]}]
        query = {
            "response_type": "code",
            "client_id": self.name,
            "redirect_uri": CALLBACK,
            "code_challenge": challenge.decode(),
            "code_challenge_method": "S256",
            "scope": "mcp:tools",
            "resource": resource or self.stack.endpoint(server),
            "state": state,
            "authorization_details": json.dumps(details),
            "dpop_jkt": self.key.thumbprint,
        } | more
        pending = {"verifier": verifier, "state": state, "resource": query["resource"]}
        return f"{self.stack.issuer}/oauth/authorize?{urlencode(query)}", pending

    def code(
        self, person: str, server: str, tools: list[str], *, resource: str | None = None
    ) -> dict[str, str]:
        """A person logs in and allows; the code and what is needed to redeem it."""
        url, pending = self.authorization_url(server, tools, resource=resource)
        browser = self.browser()
        try:
            redirect, _ = log_in_and_allow(browser, url, person, PASSWORDS[person])
        finally:
            browser.close()
        answer = {name: values[0] for name, values in parse_qs(urlsplit(redirect).query).items()}
        if "code" not in answer:
            raise RefusedError(str(answer))
        return pending | {"code": answer["code"]}

    def browser(self) -> Browser:
        """A person's fresh browser."""
        return Browser(stop_at=CALLBACK)

    @staticmethod
    def redemption(pending: Mapping[str, str]) -> dict[str, str]:
        """The form that redeems a code."""
        return {
            "grant_type": "authorization_code",
            "code": pending["code"],
            "code_verifier": pending["verifier"],
            "redirect_uri": CALLBACK,
            "resource": pending["resource"],
        }

    def token_for(self, person: str, server: str, tools: list[str]) -> str:
        """A token for a person, by login, consent and redemption; kept for `call`."""
        answer = self.token_request(self.redemption(self.code(person, server, tools)))
        if answer.status_code != httpx2.codes.OK:
            raise RefusedError(answer.text)
        self.tokens[server] = str(answer.json()["access_token"])
        return self.tokens[server]

    def headers(self, method: str, url: str, token: str) -> dict[str, str]:
        """The bound token and a fresh proof for one request."""
        return {"authorization": f"DPoP {token}", "dpop": self.key.proof(method, url, token)}

    def call(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        endpoint: str | None = None,
    ) -> httpx2.Response:
        """One tools/call, as the modern protocol says it."""
        url = endpoint or self.stack.endpoint(server)
        own = (
            headers
            if headers is not None
            else self.headers("POST", url, token or self.tokens[server])
        )
        body = tool_call(tool, arguments or {})
        return self.stack.http.post(
            url, json=body, headers=mcp_headers("tools/call", tool) | dict(own)
        )


def mcp_headers(method: str, name: str | None = None) -> dict[str, str]:
    """The headers of one modern MCP request."""
    headers = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": PROTOCOL,
        "mcp-method": method,
    }
    return headers if name is None else headers | {"mcp-name": name}


def meta() -> dict[str, Any]:
    """The `_meta` every modern request carries."""
    return {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }


def tool_call(tool: str, arguments: Mapping[str, Any], request_id: int = 1) -> dict[str, Any]:
    """The JSON-RPC body of a tools/call."""
    params = {"_meta": meta(), "name": tool, "arguments": dict(arguments)}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def audit_events(stack: Stack, **query: str) -> list[dict[str, Any]]:
    """Recorded events, oldest first, once every source has delivered what it has."""
    deadline = time.monotonic() + 20
    with admin(stack) as api:
        while True:
            found = api.call("GET", "/audit", query={"limit": "1000"} | query)
            if found["complete"] or time.monotonic() > deadline:
                return list(reversed(found["events"]))
            time.sleep(0.05)


def await_event(stack: Stack, **wanted: str) -> dict[str, Any]:
    """The newest recorded event whose fields are as wanted; sources deliver within moments."""
    query = {name: value for name, value in wanted.items() if name in SEARCHED}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for event in reversed(audit_events(stack, **query)):
            if all(event.get(name) == value for name, value in wanted.items()):
                return dict(event)
        time.sleep(0.05)
    message = f"the audit has no event with {wanted}"
    raise StackError(message)


def tell(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Print what was measured, also when the test passes."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


def in_parallel(count: int, work: Any) -> list[Any]:
    """`work()` in that many threads at the same moment; their results."""
    barrier = threading.Barrier(count)
    results: list[Any] = []

    def run() -> None:
        barrier.wait()
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
