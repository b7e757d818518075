"""The agent of the story: a program on the official MCP client, in a process of its own.

It holds one key, made at start. It proves what it is by the local attestation socket (or, where
SPIFFE_ENDPOINT_SOCKET names a Workload API, by its JWT-SVID), gets a token for a person by the
authorization code flow, bound to its key, and signs a proof for each request. It never sees a
target's credential. Commands arrive as JSON lines on standard input and are answered by JSON lines
on standard output:

    {"id": 1, "do": "attest"}                        → {"subject": ..., "claims": ..., "key": ...}
    {"id": 2, "do": "authorize", "resource": R, "tools": []} → {"url": where the person must go}
    {"id": 3, "do": "redeem", "redirect": URL}               → {"token_type": ..., "claims": ...}
    {"id": 4, "do": "list" | "call" | "hammer", ...}         → what the gateway answered
    {"id": 5, "do": "ask_target", "resource": R}             → how the issuer refused
    {"id": 6, "do": "knock", "resource": R, "target": URL}   → how the server itself refused
"""

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from compose.demo.bound_token import BoundToken, Key, b64, claims_in

ATTESTATION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_SVID = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


Say = Callable[[dict[str, Any]], None]


class Agent:
    """Attests, obtains tokens, calls tools."""

    def __init__(
        self, name: str, issuer: str, socket: str, provider: str, workload_api: str | None
    ) -> None:
        self._name, self._issuer, self._socket, self._provider = name, issuer, socket, provider
        self._workload_api = workload_api
        self._key = Key()
        self._http = httpx2.AsyncClient(timeout=10)
        self._tokens: dict[str, str] = {}
        self._pending: dict[str, str] = {}

    async def _svid(self, workload_api: str) -> str:
        from spiffe import WorkloadApiClient  # noqa: PLC0415 - only where there is a Workload API

        def fetch() -> str:
            with WorkloadApiClient(workload_api, default_timeout=5) as api:
                return str(api.fetch_jwt_svid(audience={self._issuer}).token)

        return await asyncio.to_thread(fetch)

    async def _attestation(self) -> str:
        if self._workload_api is not None:
            return await self._svid(self._workload_api)
        reader, writer = await asyncio.open_unix_connection(self._socket)
        request = {"provider": self._provider, "jkt": self._key.thumbprint}
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        answer = json.loads(await asyncio.wait_for(reader.readline(), 5))
        writer.close()
        if "attestation" not in answer:
            message = f"{answer.get('error')}: {answer.get('error_description')}"
            raise RuntimeError(message)
        return str(answer["attestation"])

    async def attest(self) -> dict[str, Any]:
        """Prove what this process is; show what the proof says."""
        claims = claims_in(await self._attestation())
        return {"subject": claims["sub"], "claims": claims, "key": self._key.thumbprint}

    async def _token_request(self, form: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        url = f"{self._issuer}/oauth/token"
        form |= {
            "client_assertion_type": ATTESTATION if self._workload_api is None else JWT_SVID,
            "client_assertion": await self._attestation(),
        }
        answer = await self._http.post(
            url, data=form, headers={"dpop": self._key.proof("POST", url)}
        )
        return answer.status_code, answer.json()

    async def authorize(self, resource: str, tools: list[str]) -> dict[str, Any]:
        """Where the person must go: code + PKCE, bound to this agent's key (RFC 9449 §10)."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        redirect_uri = "http://127.0.0.1:18080/callback"  # read off the redirect, nothing listens
        server = urlsplit(resource).path.strip("/").split("/")[0]
        details = [{"type": "mcp_tool", "server": server, "tools": tools, "actions": ["call"]}]
        query = {
            "response_type": "code",
            "client_id": self._name,
            "redirect_uri": redirect_uri,
            "code_challenge": b64(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
            "scope": "mcp:tools",
            "resource": resource,
            "state": state,
            "authorization_details": json.dumps(details),
            "dpop_jkt": self._key.thumbprint,
        }
        self._pending = {"verifier": verifier, "state": state, "redirect_uri": redirect_uri}
        self._pending["resource"] = resource
        return {"url": f"{self._issuer}/oauth/authorize?{urlencode(query)}"}

    async def redeem(self, redirect: str) -> dict[str, Any]:
        """Turn the answer of the browser into a token; `state` and `iss` must be right."""
        answer = {name: values[0] for name, values in parse_qs(urlsplit(redirect).query).items()}
        pending, self._pending = self._pending, {}
        if answer.get("state") != pending["state"] or answer.get("iss") != self._issuer:
            return {"error": "mix_up", "error_description": "state or iss is not ours"}
        if "code" not in answer:
            return answer
        status, body = await self._token_request(
            {
                "grant_type": "authorization_code",
                "code": answer["code"],
                "code_verifier": pending["verifier"],
                "redirect_uri": pending["redirect_uri"],
                "resource": pending["resource"],
            }
        )
        if status == httpx2.codes.OK:
            self._tokens[pending["resource"]] = body.pop("access_token")
            body["claims"] = claims_in(self._tokens[pending["resource"]])
        return body

    async def ask_target(self, resource: str) -> dict[str, Any]:
        """What an agent must never get: the target's own token, asked for by every door."""
        answers = {}
        endpoint = next(iter(self._tokens.values()), "")
        for door, form in {
            "client_credentials": {"grant_type": "client_credentials", "resource": resource},
            "token_exchange": {
                "grant_type": TOKEN_EXCHANGE,
                "subject_token": endpoint,
                "subject_token_type": ACCESS_TOKEN,
                "resource": resource,
            },
        }.items():
            status, body = await self._token_request(form)
            answers[door] = {"status": status, "error": body.get("error")}
        return answers

    async def knock(self, resource: str, target: str) -> dict[str, Any]:
        """What an agent's own token is worth at the server itself, past the gateway."""
        headers = {
            "authorization": f"Bearer {self._tokens[resource]}",
            "accept": "application/json, text/event-stream",
        }
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        answer = await self._http.post(target, json=message, headers=headers)
        return {"status": answer.status_code}

    def _client(self, resource: str) -> Client:
        token = self._tokens[resource]
        http = httpx2.AsyncClient(auth=BoundToken(self._key, token), timeout=30)
        return Client(streamable_http_client(resource, http_client=http), mode="2026-07-28")

    async def list_tools(self, resource: str) -> dict[str, Any]:
        async with self._client(resource) as client:
            return {"tools": [tool.name for tool in (await client.list_tools()).tools]}

    async def call(
        self, say: Say, resource: str, tool: str, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Call one tool; a tool that streams also answers with each progress message."""

        async def progress(
            progress: float, total: float | None = None, message: str | None = None
        ) -> None:
            say({"progress": progress, "total": total, "message": message})

        async with self._client(resource) as client:
            await client.list_tools()
            streaming = tool.startswith("watch")
            started = time.perf_counter()
            result = await client.call_tool(
                tool, arguments, progress_callback=progress if streaming else None
            )
            took = (time.perf_counter() - started) * 1000
        return {
            "is_error": result.is_error,
            "text": "".join(part.text for part in result.content if part.type == "text"),
            "structured": result.structured_content,
            "meta": result.meta,
            "ms": took,
        }

    async def hammer(self, say: Say, resource: str, tool: str, seconds: float) -> dict[str, Any]:
        """Call one tool again and again until a call is refused; when that was."""
        calls, give_up = 0, time.monotonic() + seconds
        try:
            async with self._client(resource) as client:
                await client.list_tools()
                say({"ready": True})
                while time.monotonic() < give_up:
                    result = await client.call_tool(tool, {})
                    if result.is_error:
                        break
                    calls += 1
                else:
                    return {"calls": calls}
        except (MCPError, ExceptionGroup, httpx2.HTTPError) as error:
            refused_at_ms = time.time() * 1000  # noqa: TID251 - the agent's own wall clock
            return describe(error) | {"calls": calls, "refused_at_ms": refused_at_ms}
        refused_at_ms = time.time() * 1000  # noqa: TID251
        return {"error": "denied", "calls": calls, "refused_at_ms": refused_at_ms}


def emit(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def perform(agent: Agent, command: dict[str, Any]) -> None:
    """Do one command; its last answer carries `done`."""
    number, name = command.pop("id"), command.pop("do")

    def say(answer: dict[str, Any]) -> None:
        emit({"id": number} | answer)

    quiet: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
        "attest": agent.attest,
        "authorize": agent.authorize,
        "redeem": agent.redeem,
        "ask_target": agent.ask_target,
        "knock": agent.knock,
        "list": agent.list_tools,
    }
    talking: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
        "call": agent.call,
        "hammer": agent.hammer,
    }
    try:
        if name in quiet:
            answer = await quiet[name](**command)
        else:
            answer = await talking[name](say, **command)
    except Exception as error:  # noqa: BLE001 - the story reads every failure as an answer
        answer = describe(error)
    say(answer | {"done": True})


async def serve(agent: Agent) -> None:
    """Answer commands, several at a time, until standard input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as tasks:
        running = set()
        while line := await reader.readline():
            task = tasks.create_task(perform(agent, json.loads(line)))
            running.add(task)
            task.add_done_callback(running.discard)
        for task in running:
            task.cancel()


def describe(error: BaseException) -> dict[str, Any]:
    """A failure as an answer; task groups wrap the one that matters."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        return {
            "error": error.code,
            "error_description": error.message,
            "data": error.data,
        }
    return {"error": type(error).__name__, "error_description": str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="support-bot")
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--socket", required=True, help="the attestation socket")
    parser.add_argument("--provider", default="local")
    given = parser.parse_args()
    workload_api = os.environ.get("SPIFFE_ENDPOINT_SOCKET")  # noqa: TID251 - SPIFFE's own name
    agent = Agent(given.name, given.issuer, given.socket, given.provider, workload_api)
    asyncio.run(serve(agent))


if __name__ == "__main__":
    main()
