"""Our own processes for the benchmark: `countersign serve`, told what to guard, pinned to cores.

Started as a person would start them (`compose.demo.stack`), with every default: limits, timeouts,
durable audit. Two things are not as in life, and the report says so. The agents' tokens are signed
by the benchmark with the server's own key, because sixty-four people would have to log in; from
there on everything is real, the exchange too. And one key enrolled by the benchmark is used as the
client of the token endpoint.
"""

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from authz_server.issuing.signing_keys import KeyPurpose, KeyRing
from authz_server.store.signing_keys import SigningKeyStore
from bench import declared
from bench.peers import Cores
from bench.process_tree import command_line, pin, tree
from bench.signing import Key
from compose.demo.stack import Ports, Stack, StackError
from database.engine import Database
from token_exchange.claims import (
    AccessTokenClaims,
    Actor,
    Attestation,
    AuthorizationDetail,
    Confirmation,
    JwkThumbprint,
    UserContext,
)
from token_exchange.identifiers import new_id
from token_exchange.token_types import DETAIL_TOOL, MAXIMUM_LIFETIME_SECONDS, SCOPE_TOOLS

PEOPLE: Final = 8
RUNS: Final = 8  # of each person: 64 tokens
CATALOGUE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Product:
    """The running processes. `authority` and `gateway` are process ids."""

    stack: Stack
    authority: int
    gateway: int
    client_endpoint: str

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.stack.directory / 'data' / 'countersign.db'}"

    @property
    def endpoint(self) -> str:
        return self.stack.endpoint(declared.SERVER)

    def pin(self, *, measured: str, cores: Cores) -> None:
        """Give the server core to `gateway` or `authority`; the other one goes beside."""
        processes = {"gateway": self.gateway, "authority": self.authority}
        for name, process in processes.items():
            pin(process, cores.server if name == measured else cores.beside)

    def tokens(self, audience: str, key: Key | None) -> list[str]:
        """Tokens of `RUNS` runs for each of `PEOPLE`, bound to the key if one is given."""
        ring = asyncio.run(self._key_ring())
        people = [f"usr_bench{number:02d}" for number in range(PEOPLE)]
        return [
            ring.sign(KeyPurpose.TOKENS, _claims(self.stack.issuer, audience, person, key))
            for person in people
            for _ in range(RUNS)
        ]

    async def _key_ring(self) -> KeyRing:
        database = Database.open(self.database_url)
        keys = self.stack.directory / "keys"
        try:
            return await KeyRing.open(
                SigningKeyStore(database),
                signing_kek=(keys / "signing.kek").read_bytes(),
                vault_kek=(keys / "vault.kek").read_bytes(),
                random=secrets.token_bytes,
                now_ms=_now() * 1000,
            )
        finally:
            database.close()

    def enrolled_client(self) -> tuple[str, Key]:
        """A client of the token endpoint: its id and the key it enrolled."""
        done = self.stack.command("gateway", "join", declared.CLIENT_GATEWAY, socket=True)
        code, key = done.stdout.strip().rpartition(".")[0], Key()
        url = f"{self.stack.issuer}/control/v1/enrol"
        answer = httpx2.post(
            url,
            json={"code": code, "jwk": key.public_jwk},
            headers={"dpop": key.proof(method="POST", uri=url, now=_now())},
            timeout=10,
            trust_env=False,
        )
        if answer.status_code != httpx2.codes.OK:
            raise StackError(f"the benchmark's client could not enrol: {answer.text[:300]}")
        return str(answer.json()["client_id"]), key


@contextmanager
def running(directory: Path, upstream_port: int) -> Iterator[Product]:
    """The product in front of the stub, its policies active.

    Raises:
        StackError: It does not start, or does not accept what it is told.
    """
    ports = Ports(issuer=free_port(), gateway=free_port())
    with Stack(directory, ports=ports, gateway=declared.GATEWAY) as stack:
        client_base_url = f"http://127.0.0.1:{free_port()}"
        serve = stack.serve()
        _apply(
            stack,
            "objects",
            declared.objects(
                base_url=stack.base_url,
                client_base_url=client_base_url,
                upstream_url=f"http://127.0.0.1:{upstream_port}/mcp",
            ),
        )
        stack.await_gateway(declared.SERVER)
        _await_catalogue(stack)
        stack.command("tools", "approve", declared.SERVER, "--all", "--yes", socket=True)
        _apply(stack, "policies", declared.policy_objects(), "--wait", "30")
        yield Product(
            stack=stack,
            authority=_child(serve.popen.pid, "authz-server"),
            gateway=_child(serve.popen.pid, "mcp-gateway"),
            client_endpoint=f"{client_base_url}/{declared.SERVER}/mcp",
        )


def free_port() -> int:
    """A loopback port nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _apply(stack: Stack, name: str, objects: list[dict[str, Any]], *more: str) -> None:
    # JSON is YAML.
    file = stack.directory / f"{name}.yaml"
    file.write_text("\n---\n".join(json.dumps(each) for each in objects))
    stack.command("apply", "-f", str(file), "--yes", *more, socket=True)


def _await_catalogue(stack: Stack) -> None:
    deadline = time.monotonic() + CATALOGUE_SECONDS
    while time.monotonic() < deadline:
        listed = stack.command("-o", "json", "tools", "list", declared.SERVER, socket=True)
        if json.loads(listed.stdout):
            return
        time.sleep(0.1)
    raise StackError("the gateway did not report the tools of the stub")


def _child(parent: int, command: str) -> int:
    for process in tree(parent):
        if command in command_line(process).split():
            return process
    raise StackError(f"`countersign serve` has no {command} process")


def _claims(issuer: str, audience: str, person: str, key: Key | None) -> AccessTokenClaims:
    """What an agent for a person holds, as the code grant would have issued it."""
    now, random = _now(), secrets.token_bytes
    return AccessTokenClaims(
        iss=issuer,
        aud=audience,
        jti=new_id("tok", random),
        iat=now,
        nbf=now,
        exp=now + MAXIMUM_LIFETIME_SECONDS,
        sub=person,
        sub_profile="user",
        client_id=declared.AGENT,
        scope=SCOPE_TOOLS,
        act=Actor(
            iss=f"{issuer}/attest/local",
            sub="unix:bench/1000/bench.service",
            sub_profile="ai_agent",
            agent=declared.AGENT,
        ),
        cnf=None if key is None else Confirmation(JwkThumbprint(key.thumbprint)),
        authorization_details=(
            AuthorizationDetail(DETAIL_TOOL, declared.SERVER, (declared.TOOL,), ("call",)),
        ),
        sid=new_id("ses", random),
        gid=new_id("grt", random),
        txn=new_id("txn", random),
        inv=new_id("inv", random),
        attn=Attestation(
            provider="local",
            method="unix_process",
            level=1,
            iat=now,
            exp=now + MAXIMUM_LIFETIME_SECONDS,
            evidence="sha-256:none",
        ),
        uctx=UserContext(groups=(declared.GROUP,)),
    )


def _now() -> int:
    return int(time.time())
