"""A person lets the agent act for them, at the start of a run: code, PKCE, loopback redirect.

The client is the agent itself, authenticated by its platform's proof when the code is redeemed
(RFC 6749 §4.1, RFC 7636, RFC 8252 §7.3); the code is bound to the run's key from the start
(RFC 9449 §10). Any local program may knock at the listener: only the redirect with our `state` ends
the login.
"""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from countersign.agent_run.addresses import HOST, Endpoint
from countersign.agent_run.authority import Authority, HeldToken
from countersign.agent_run.errors import AgentRunError
from token_exchange.token_types import GRANT_AUTHORIZATION_CODE, SCOPE_TOOLS

PATH: Final = "/callback"
MAXIMUM_HEAD_BYTES: Final = 16_384
HEAD_SECONDS: Final = 5.0
HELPER_SECONDS: Final = 10.0
SCOPE: Final = f"{SCOPE_TOOLS} offline_access"
PAGE: Final = (
    b"<!doctype html><meta charset=utf-8><title>Countersign</title>"
    b"<p style='font:1.2rem system-ui'>You may close this window: the agent is starting."
)


@dataclass(frozen=True, slots=True)
class Login:
    """How to log a person in. `wait_seconds` is their time to do so."""

    client_id: str
    opens_browser: bool
    wait_seconds: float
    tell: Callable[[str], None]


class Redirects:
    """Takes requests at the loopback redirect URI until the right one comes."""

    def __init__(self, state: str) -> None:
        self._state = state
        self.answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answered(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # somebody who wants nothing of ours
        finally:
            writer.close()

    def _answered(self, head: bytes) -> bytes:
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        if method != "GET" or target.path != PATH:
            return _response("404 Not Found", b"")
        said = {name: values[0] for name, values in parse_qs(target.query).items()}
        if not secrets.compare_digest(said.get("state", "").encode(), self._state.encode()):
            return _response("400 Bad Request", b"")  # it ends nothing
        if not self.answer.done():
            self.answer.set_result(said)
        return _response("200 OK", PAGE)


async def log_in(authority: Authority, endpoint: Endpoint, login: Login) -> HeldToken:
    """The first token of a run for a person.

    Raises:
        AgentRunError: Nobody came back, the person said no, or the code was refused.
    """
    metadata = await authority.metadata()
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    async with _redirects(state) as (redirects, redirect_uri):
        query = {
            "response_type": "code",
            "client_id": login.client_id,
            "redirect_uri": redirect_uri,
            "scope": SCOPE,
            "resource": endpoint.resource,
            "state": state,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
            "dpop_jkt": authority.key.thumbprint,
        }
        url = f"{metadata['authorization_endpoint']}?{urlencode(query)}"
        login.tell(f"log in and allow {endpoint.server}, in a browser on this machine:\n{url}")
        if login.opens_browser:
            await asyncio.to_thread(_open_browser, url)
        try:
            async with asyncio.timeout(login.wait_seconds):
                said = await redirects.answer
        except TimeoutError as error:
            raise AgentRunError("timeout", "nobody came back from the browser") from error
    return await authority.token(
        {
            "grant_type": GRANT_AUTHORIZATION_CODE,
            "code": _code_of(said, authority.issuer),
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
            "resource": endpoint.resource,
        }
    )


@contextlib.asynccontextmanager
async def _redirects(state: str) -> AsyncGenerator[tuple[Redirects, str], None]:
    redirects = Redirects(state)
    server = await asyncio.start_server(redirects.serve, HOST, 0, limit=MAXIMUM_HEAD_BYTES)
    try:
        yield redirects, f"http://{HOST}:{server.sockets[0].getsockname()[1]}{PATH}"
    finally:
        server.close()
        await asyncio.sleep(0)


def _code_of(said: dict[str, str], issuer: str) -> str:
    """The code, after the mix-up check (RFC 9207 §2.4); `state` was compared before."""
    if said.get("iss") != issuer:
        raise AgentRunError("mix_up", "the answer of the browser is not of this issuer")
    if "code" not in said:
        code = said.get("error", "invalid_response")
        raise AgentRunError(code, said.get("error_description", "the login was refused"))
    return said["code"]


def _challenge(verifier: str) -> str:
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _open_browser(url: str) -> None:
    """Through a process that leaves us: a browser must not be one of the run's processes.

    `-P`: what lies in the working directory, which may be the agent's, is none of our modules.
    """
    command = [sys.executable, "-P", "-m", "countersign.agent_run.open_browser"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(  # noqa: S603 - our own module
            command, input=url.encode(), timeout=HELPER_SECONDS, check=False
        )


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
