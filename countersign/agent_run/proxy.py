"""The loopback endpoint as an ASGI application: what comes in goes out with token and proof.

In this order: the peer is still of the run → the request is one we carry (`forwarding`) → its body,
within size and time → a token that serves now (`run_tokens`) → the gateway, with a proof made for
this very request. A 401 is tried once more with another token: the gateway refuses before anything
has happened. The answer is streamed back as it comes; an agent that leaves cuts the request off at
the gateway. A 401 never reaches the agent: what it means to it is that its run is over, or that
this cannot be served.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final

import httpx2
from starlette.types import Message, Receive, Scope, Send

from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.authority import read_at_most
from countersign.agent_run.connections import PEER_EXTENSION
from countersign.agent_run.errors import AgentRunError, RunOverError, UnavailableError
from countersign.agent_run.forwarding import (
    JSON,
    Header,
    Turned,
    admitted,
    error_body,
    sent_back,
    sent_on,
)
from countersign.agent_run.run_tokens import RunTokens, Tell
from countersign.login_file import ProofKey

MAXIMUM_BODY_BYTES: Final = 4 * 1024 * 1024  # the gateway takes less, and says so itself
BODY_SECONDS: Final = 30.0
MAXIMUM_REFUSAL_BYTES: Final = 65_536
# Nothing the gateway keeps open outlives its token, which lives at most 900 s.
TIMEOUTS: Final = httpx2.Timeout(connect=10.0, read=960.0, write=30.0, pool=10.0)
_NOT_OF_THE_RUN: Final = Turned(HTTPStatus.FORBIDDEN, "You are no process of this run.")
_NOT_ACCEPTED: Final = Turned(
    HTTPStatus.BAD_GATEWAY, "The gateway does not accept this run's token, nor a fresh one."
)


class BadBodyError(Exception):
    """The body is not taken. `turned` says why."""

    def __init__(self, turned: Turned) -> None:
        super().__init__(turned.message)
        self.turned = turned


class LoopbackProxy:
    """The application. `tell` prints a line for people."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        port: int,
        tokens: RunTokens,
        key: ProofKey,
        http: httpx2.AsyncClient,
        *,
        tell: Tell,
    ) -> None:
        self._tell = tell
        self._endpoints = endpoints
        self._port = port
        self._tokens = tokens
        self._key = key
        self._http = http
        self._nonces: dict[str, str] = {}  # by endpoint (RFC 9449 §8.2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever was not foreseen cuts the connection and says its type."""
        if scope["type"] != "http":
            return
        try:
            await self._serve(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the outermost handler: a text may hold a token
            self._tell(f"a request was cut off: {type(error).__name__}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        target = scope["raw_path"] + (
            b"?" + scope["query_string"] if scope["query_string"] else b""
        )
        found = admitted(scope["method"], target, headers, self._endpoints, self._port)
        if not await scope["extensions"][PEER_EXTENSION].is_member():
            found = _NOT_OF_THE_RUN
        if isinstance(found, Turned):
            await _answer(send, found, b"", closes=True)
            return
        try:
            body = await _body(receive)
        except BadBodyError as error:
            await _answer(send, error.turned, b"", closes=True)
            return
        await _while_connected(
            self._forward(scope["method"], found, sent_on(headers), body, send), receive
        )

    async def _forward(
        self, method: str, endpoint: Endpoint, headers: list[Header], body: bytes, send: Send
    ) -> None:
        try:
            answer = await self._answered(method, endpoint, headers, body)
        except RunOverError as error:
            await _answer(send, Turned(HTTPStatus.FORBIDDEN, error.description), body)
        except UnavailableError as error:
            turned = Turned(HTTPStatus.SERVICE_UNAVAILABLE, str(error), retryable=True)
            await _answer(send, turned, body)
        except AgentRunError as error:
            await _answer(send, Turned(HTTPStatus.BAD_GATEWAY, str(error)), body)
        except httpx2.HTTPError as error:
            message = f"The gateway cannot be reached: {type(error).__name__}."
            turned = Turned(HTTPStatus.BAD_GATEWAY, message, retryable=True)
            await _answer(send, turned, body)
        else:
            try:
                await _relay(answer, send, body)
            finally:
                await answer.aclose()

    async def _answered(
        self, method: str, endpoint: Endpoint, headers: list[Header], body: bytes
    ) -> httpx2.Response:
        """The gateway's answer, its body unread; a 401 only after a second token was refused."""
        token = await self._tokens.current(endpoint)
        answer = await self._sent(method, endpoint, headers, body, token)
        if answer.status_code != HTTPStatus.UNAUTHORIZED:
            return answer
        await _drained(answer)
        if not _wants_only_a_nonce(answer):
            token = await self._tokens.after_refusal(endpoint, token)
        return await self._sent(method, endpoint, headers, body, token)

    async def _sent(
        self, method: str, endpoint: Endpoint, headers: list[Header], body: bytes, token: str
    ) -> httpx2.Response:
        url = endpoint.resource
        proof = self._key.proof(method, url, token, self._nonces.get(url))
        own = [("authorization", f"DPoP {token}"), ("dpop", proof)]
        # Made by hand: the client would add headers of its own, such as Accept-Encoding.
        request = httpx2.Request(
            method,
            url,
            headers=[*headers, *own],
            content=body if body or method == "POST" else None,
            extensions={"timeout": TIMEOUTS.as_dict()},
        )
        answer = await self._http.send(request, stream=True)
        nonce = answer.headers.get("dpop-nonce")
        if nonce is not None:
            self._nonces[url] = nonce
        return answer


async def _relay(answer: httpx2.Response, send: Send, body: bytes) -> None:
    if answer.status_code == HTTPStatus.UNAUTHORIZED or answer.is_redirect:
        await _answer(send, _NOT_ACCEPTED, body)
        return
    kept = sent_back((name.lower(), value) for name, value in answer.headers.multi_items())
    await send(
        {
            "type": "http.response.start",
            "status": answer.status_code,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept],
        }
    )
    try:
        async for part in answer.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except httpx2.HTTPError:
        return  # the gateway cut it off: without its end, so does our server
    await send({"type": "http.response.body", "body": b""})


def _wants_only_a_nonce(answer: httpx2.Response) -> bool:
    """Whether the token is good and only the proof needs the server's nonce (RFC 9449 §9)."""
    challenges = answer.headers.get("www-authenticate", "")
    return "dpop-nonce" in answer.headers and 'error="use_dpop_nonce"' in challenges


async def _drained(answer: httpx2.Response) -> None:
    """Read a short refusal, so that its connection can be used again."""
    try:
        await read_at_most(answer, MAXIMUM_REFUSAL_BYTES)
    finally:
        await answer.aclose()


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message: Message = await receive()
                if message["type"] != "http.request":
                    raise BadBodyError(Turned(HTTPStatus.BAD_REQUEST, "The body did not arrive."))
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAXIMUM_BODY_BYTES:
                    text = f"The body may have at most {MAXIMUM_BODY_BYTES} bytes."
                    raise BadBodyError(Turned(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text))
    except TimeoutError as error:
        text = "The body did not arrive in time."
        raise BadBodyError(Turned(HTTPStatus.REQUEST_TIMEOUT, text)) from error
    return bytes(body)


async def _while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do `work`; leave it undone when the agent leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
    if not working.cancelled():
        working.result()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, turned: Turned, request: bytes, *, closes: bool = False) -> None:
    body = error_body(turned, request)
    headers = [
        (b"content-type", JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if turned.retryable:
        headers.append((b"retry-after", b"1"))
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": turned.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
