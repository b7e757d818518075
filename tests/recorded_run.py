"""One run of everything that handles a secret, with recorders on every side of it.

`recorded` puts a tap before the authorization server, the gateway and both MCP servers by
configuration only, plays the scenes, ends the processes and returns what was recorded together
with every secret that took part and the table of places where each may be.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import httpx2

from authz_server.issuing.signing_keys import KeyPurpose
from compose.demo.browser import Browser, log_in_and_allow
from compose.demo.stack import Ports, Stack
from mcp_gateway.gateway_key import GatewayKey
from tests.forging import SigningKey, real_keys
from tests.leaks import Secret, secret_of, secret_of_jws
from tests.stack import (
    CALLBACK,
    PASSWORDS,
    TestAgent,
    admin,
    demo_objects,
    free_ports,
    mcp_headers,
    new_key,
    prepare,
    tool_call,
)
from tests.taps import AGENT_ADDRESS, BROWSER_ADDRESS, FileWatch, Tap

# The places of a recording: `FROM>TO` for each direction of a tap, `file:PATH` under the stack's
# directory, `process:NAME` for command lines and environments. "servers" at the authority are the
# gateway and crm, which only fetches public keys.
AUTHORITY_TO_AGENT: Final = "authority>agent"
AGENT_TO_AUTHORITY: Final = "agent>authority"
AUTHORITY_TO_BROWSER: Final = "authority>browser"
BROWSER_TO_AUTHORITY: Final = "browser>authority"
AUTHORITY_TO_GATEWAY: Final = "authority>servers"
GATEWAY_TO_AUTHORITY: Final = "servers>authority"
AGENT_TO_GATEWAY: Final = "agent>gateway"
GATEWAY_TO_AGENT: Final = "gateway>agent"
GATEWAY_TO_CRM: Final = "gateway>crm"
GATEWAY_TO_NOTES: Final = "gateway>notes"

# Who may carry what. Whatever is not in a row is a leak.
ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "agent token": (AUTHORITY_TO_AGENT, AGENT_TO_GATEWAY, GATEWAY_TO_AUTHORITY),
    "target token": (AUTHORITY_TO_GATEWAY, GATEWAY_TO_CRM),
    "notes key": (GATEWAY_TO_NOTES,),  # between authority and gateway it is sealed
    "control token": (AUTHORITY_TO_GATEWAY, GATEWAY_TO_AUTHORITY),
    "client assertion": (GATEWAY_TO_AUTHORITY,),
    "attestation": (AGENT_TO_AUTHORITY,),
    "join code": (GATEWAY_TO_AUTHORITY,),
    "password": (BROWSER_TO_AUTHORITY,),
    "cookie": (AUTHORITY_TO_BROWSER, BROWSER_TO_AUTHORITY),
    "code": (AUTHORITY_TO_BROWSER, AGENT_TO_AUTHORITY),
    "code verifier": (AGENT_TO_AUTHORITY,),
    "agent's private key": (),
    "gateway's private key": ("file:gateway/gateway.key",),
    "authority's private key": (),  # at rest it is encrypted
    "signing.kek": ("file:keys/signing.kek",),
    "vault.kek": ("file:keys/vault.kek",),
    "setup code": ("file:run/setup-code",),
}

_BEARER = re.compile(rb"(?i)\r\nauthorization: bearer ([^\r\n]+)")
_BOUND = re.compile(rb"(?i)\r\nauthorization: dpop ([^\r\n]+)")
_ASSERTION = re.compile(rb"client_assertion=([A-Za-z0-9._-]+)")
_JOIN_CODE = re.compile(rb'"code":"([A-Za-z0-9_-]{16,})"')


@dataclass
class Recorded:
    """What was seen, and what must not be seen."""

    places: list[tuple[str, bytes]] = field(default_factory=list)
    secrets: list[Secret] = field(default_factory=list)


@dataclass
class TappedAgent(TestAgent):
    """A TestAgent whose secrets are remembered, with people's browsers at their own address."""

    __test__ = False

    issued: list[str] = field(default_factory=list)
    attested: list[str] = field(default_factory=list)
    redeemed: list[dict[str, str]] = field(default_factory=list)
    cookies: set[str] = field(default_factory=set)

    def attestation(self, thumbprint: str | None = None) -> str:
        self.attested.append(super().attestation(thumbprint))
        return self.attested[-1]

    def token_for(self, person: str, server: str, tools: list[str]) -> str:
        self.issued.append(super().token_for(person, server, tools))
        return self.issued[-1]

    def code(
        self, person: str, server: str, tools: list[str], *, resource: str | None = None
    ) -> dict[str, str]:
        """As always, after a wrong password; cookies are remembered."""
        url, pending = self.authorization_url(server, tools, resource=resource)
        browser = Browser(stop_at=CALLBACK)
        browser._http.close()
        transport = httpx2.HTTPTransport(local_address=BROWSER_ADDRESS)
        browser._http = httpx2.Client(
            transport=transport,
            timeout=10,
            trust_env=False,
            event_hooks={"response": [self._remember_cookies]},
        )
        try:
            page = browser.open(url)
            assert not isinstance(page, str)
            browser.submit(page, {"username": person, "password": WRONG_PASSWORD})
            redirect, _ = log_in_and_allow(browser, url, person, PASSWORDS[person])
        finally:
            browser.close()
        code = parse_qs(redirect.partition("?")[2])["code"][0]
        self.redeemed.append(pending | {"code": code})
        return self.redeemed[-1]

    def _remember_cookies(self, answer: httpx2.Response) -> None:
        """Cookies are set and taken away again within one login."""
        for line in answer.headers.get_list("set-cookie"):
            value = line.partition(";")[0].partition("=")[2].strip('"')
            if value:
                self.cookies.add(value)


WRONG_PASSWORD: Final = "typed-into-the-wrong-window"


def recorded(directory: Path, environment: dict[str, str] | None = None) -> Recorded:
    """Play every scene and look at everything."""
    result = Recorded()
    with _tapped(directory, environment or {}) as (stack, taps):
        watch = FileWatch(stack.directory / "data" / "spool", stack.directory / "gateway")
        try:
            prepare(stack, _objects(stack, taps))
            agent = TappedAgent(stack)
            _scenes(agent)
            result.places += _process_places(stack)
            result.places += _file_places(stack.directory)  # with the write-ahead log as it is
            keys = real_keys(stack)
        finally:
            watch.close()
        gateway = GatewayKey.load_or_create(stack.directory / "gateway" / "gateway.key", os.urandom)
    # The processes have ended: whatever they would still have written is there now.
    for tap in taps.values():
        result.places += tap.streams()
    result.places += _file_places(stack.directory)
    result.places += ((_place_of(path, stack.directory), data) for path, data in watch.contents())
    result.secrets = [
        *_of_the_agent(agent),
        *_of_the_operator(stack),
        *_of_the_keys(agent, gateway, keys),
        *_captured(result.places),
    ]
    return result


@contextlib.contextmanager
def _tapped(directory: Path, environment: dict[str, str]) -> Iterator[tuple[Stack, dict[str, Tap]]]:
    """A stack whose public ports are taps; its processes listen elsewhere and do not know."""
    public, hidden = free_ports(), free_ports()
    elsewhere = {
        "COUNTERSIGN_LISTEN_PORT": str(hidden.issuer),
        "COUNTERSIGN_GATEWAY_PORT": str(hidden.gateway),
        "COUNTERSIGN_LOG_LEVEL": "debug",
    }
    ports = Ports(public.issuer, public.gateway, hidden.crm, hidden.notes)
    with contextlib.ExitStack() as closing:
        taps = {
            server: Tap(server, port=port, target=target, others=others)
            for server, port, target, others in (
                ("authority", public.issuer, hidden.issuer, "servers"),
                ("gateway", public.gateway, hidden.gateway, "somebody"),
                ("crm", public.crm, hidden.crm, "gateway"),
                ("notes", public.notes, hidden.notes, "gateway"),
            )
        }
        for tap in taps.values():
            closing.callback(tap.close)
        transport = httpx2.HTTPTransport(local_address=AGENT_ADDRESS)
        stack = Stack(
            directory,
            ports=ports,
            environment=elsewhere | environment,
            http=httpx2.Client(transport=transport, timeout=20, trust_env=False),
        )
        closing.enter_context(stack)
        stack.start_all()
        yield stack, taps


def _objects(stack: Stack, taps: dict[str, Tap]) -> list[dict[str, Any]]:
    """The demo's, with the urls of the taps; crm still wants its own url as audience."""
    objects = demo_objects(stack)
    for each in objects:
        if each["kind"] == "McpServer":
            each["spec"]["url"] = f"http://127.0.0.1:{taps[each['name']].port}/mcp"
        if (each["kind"], each["name"]) == ("CredentialProvider", "crm-token"):
            each["spec"]["audience"] = stack.crm_url
    return objects


def _scenes(agent: TappedAgent) -> None:
    """Login, consent, calls allowed and denied, thefts, a stream, and the kill that ends it."""
    agent.token_for("alice", "notes", ["search"])
    assert agent.call("notes", "search", {"text": "Q3"}).status_code == 200
    tools = ["get_account", "refund", "watch_account", "list_hours"]
    agent.token_for("bob", "crm", ["list_hours", "get_account"])
    assert _is_error(agent.call("crm", "get_account", {"id": 17}))
    assert not _is_error(agent.call("crm", "list_hours"))
    alices = agent.token_for("alice", "crm", tools)
    for _ in range(2):
        assert not _is_error(agent.call("crm", "get_account", {"id": 17}))
    assert _is_error(agent.call("crm", "refund", {"id": 17, "amount": 900}))
    assert agent.call("crm", "delete_account", {"id": 17}).status_code in {200, 403}
    assert agent.call("crm", "get_account", {"id": "x"}).status_code in {200, 400}
    _misuse(agent, alices)
    _stream_until_killed(agent)


def _is_error(answer: httpx2.Response) -> bool:
    return bool(answer.json()["result"].get("isError"))


def _misuse(agent: TappedAgent, token: str) -> None:
    """What ends in error messages and refusals, the favourite places of leaks."""
    url = agent.stack.endpoint("crm")
    for headers in (
        {"authorization": f"Bearer {token}"},
        {"authorization": f"DPoP {token}", "dpop": new_key().proof("POST", url, token)},
        {"authorization": f"Basic {token}"},
    ):
        assert agent.call("crm", "list_hours", headers=headers).status_code in {400, 401}
    query = agent.call("crm", "list_hours", headers={}, endpoint=f"{url}?access_token={token}")
    assert query.status_code == 401
    lost = agent.call("crm", "list_hours", token=token, endpoint=f"{url}/{token}")
    assert lost.status_code in {400, 401, 404}
    used = agent.redemption(agent.redeemed[0])  # bob's or alice's: used, so refused and revoked
    assert agent.token_request(used).json()["error"] == "invalid_grant"
    stolen = agent.code("alice", "crm", ["refund"])
    stolen["verifier"] = secrets.token_urlsafe(32)
    assert agent.token_request(agent.redemption(stolen)).json()["error"] == "invalid_grant"


def _stream_until_killed(agent: TappedAgent) -> None:
    stack = agent.stack
    url = stack.endpoint("crm")
    body = tool_call("watch_account", {"id": 17, "seconds": 20})
    body["params"]["_meta"]["progressToken"] = "p"
    headers = agent.headers("POST", url, agent.tokens["crm"])
    headers |= mcp_headers("tools/call", "watch_account")
    with stack.http.stream("POST", url, json=body, headers=headers) as answer:
        assert answer.status_code == 200
        with contextlib.suppress(httpx2.HTTPError):
            for line in answer.iter_lines():
                if "progress" in line:
                    break
            with admin(stack) as api:
                blocked = {"kind": "agent", "id": agent.name, "reason": "the canary"}
                api.call("POST", "/blocks", json=blocked)
    assert agent.call("crm", "list_hours").status_code == 401


def _process_places(stack: Stack) -> Iterator[tuple[str, bytes]]:
    """Command lines and environments of the product's processes, as anybody on the host sees."""
    parents = {process.popen.pid for process in stack.processes if process.name == "serve"}
    pids = set(parents)
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) in parents:
                pids.add(int(entry.name))
    assert len(pids) == 3, pids
    for pid in pids:
        for name in ("cmdline", "environ"):
            yield f"process:{name}", Path(f"/proc/{pid}/{name}").read_bytes()


def _file_places(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file():
            yield _place_of(path, directory), path.read_bytes()


def _place_of(path: Path, directory: Path) -> str:
    # A file that is written whole or not at all begins under a name with a process id.
    return "file:" + re.sub(r"\.\d+$", "", str(path.relative_to(directory)))


def _of_the_agent(agent: TappedAgent) -> Iterator[Secret]:
    for index, token in enumerate(agent.issued):
        yield secret_of_jws(f"agent token {index}", token, *ALLOWED["agent token"])
    for index, attestation in enumerate(agent.attested):
        yield secret_of_jws(f"attestation {index}", attestation, *ALLOWED["attestation"])
    for index, pending in enumerate(agent.redeemed):
        yield secret_of(f"code {index}", pending["code"], *ALLOWED["code"])
        verifier = pending["verifier"]
        yield secret_of(f"code verifier {index}", verifier, *ALLOWED["code verifier"])
    for index, cookie in enumerate(sorted(agent.cookies)):
        yield secret_of(f"cookie {index}", cookie, *ALLOWED["cookie"])
    for name in ("alice", "bob"):
        yield secret_of(f"password of {name}", PASSWORDS[name], *ALLOWED["password"])
    yield secret_of("password mistyped", WRONG_PASSWORD, *ALLOWED["password"])


def _of_the_operator(stack: Stack) -> Iterator[Secret]:
    yield secret_of("notes key", stack.notes_key, *ALLOWED["notes key"])
    setup_code = (stack.directory / "run" / "setup-code").read_text().strip()
    yield secret_of("setup code", setup_code, *ALLOWED["setup code"])
    for name in ("signing.kek", "vault.kek"):
        kek = (stack.directory / "keys" / name).read_bytes()
        yield secret_of(name, kek, *ALLOWED[name])


def _of_the_keys(
    agent: TappedAgent, gateway: GatewayKey, keys: dict[KeyPurpose, SigningKey]
) -> Iterator[Secret]:
    yield secret_of("agent's private key", SigningKey.of(agent.key.key).private_number)
    allowed = ALLOWED["gateway's private key"]
    yield secret_of("gateway's private key", SigningKey.of(gateway._key).private_number, *allowed)
    for purpose, key in keys.items():
        yield secret_of(f"authority's private key of {purpose}", key.private_number)


def _captured(places: list[tuple[str, bytes]]) -> Iterator[Secret]:
    """What only the processes know, read off the wire where it may be."""
    patterns = (
        ("target token", GATEWAY_TO_CRM, _BEARER),
        ("control token", GATEWAY_TO_AUTHORITY, _BOUND),
        ("client assertion", GATEWAY_TO_AUTHORITY, _ASSERTION),
        ("join code", GATEWAY_TO_AUTHORITY, _JOIN_CODE),
    )
    for name, place, pattern in patterns:
        streams = [data for where, data in places if where == place]
        found = {value.decode() for data in streams for value in pattern.findall(data)}
        for index, value in enumerate(sorted(found)):
            make = secret_of_jws if value.count(".") == 2 else secret_of
            yield make(f"{name} {index}", value, *ALLOWED[name])
