"""Brings a request of a legacy session to the worker that owns the session, if it is another one.

Workers of a Gateway on one machine share a listening socket, so a client's next connection may
land anywhere; what a session has open (calls to cancel, a listening stream, the session at the
server behind) is with one of them. Its id names that worker, sealed, so nobody chooses one. The
request goes there as it came, over a Unix socket only our user can reach, before anything about it
was decided or used up: the owner admits, decides and audits it like any other.

Only what the pipeline would take is passed on (the endpoint's own path, in origin form). A worker
that is gone is not waited for: the request stays here and is refused like any ended session.
Nothing is repeated, nothing is kept, and when the agent leaves the owner sees it leave.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from yarl import URL

from mcp_gateway import errors
from mcp_gateway.asgi import TARGET_ORIGIN, WRITE_SECONDS, Receive, Scope, Send
from mcp_gateway.audit_trail import AuditTrail
from mcp_gateway.eras.legacy import SESSION_HEADER
from mcp_gateway.eras.sealed_session import Session, SessionSeal
from mcp_gateway.http_message import Headers
from mcp_gateway.open_calls import cut
from mcp_gateway.upstream.http import is_private_socket, session_over

CONNECT_SECONDS: Final = 1.0
MAXIMUM_AT_ONCE: Final = 1_000
MAXIMUM_OF_PRINCIPAL: Final = 512  # as many calls and streams as one may have at an owner
SUFFIX: Final = ".sock"
_HOP_BY_HOP: Final = frozenset(  # RFC 9110 §7.6.1
    {b"connection", b"expect", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)

_logger = structlog.get_logger(__name__)


class OtherWorkers:
    """The workers beside this one, each with a socket `NAME.sock` in one directory of ours."""

    def __init__(self, directory: Path, own: str, seal: SessionSeal, audit: AuditTrail) -> None:
        """Take where the sockets are, this worker's name, what opens session ids, and the audit."""
        self._audit = audit
        self._directory = directory
        self._own = own
        self._seal = seal
        self._under_way: dict[asyncio.Timeout, bool] = {}  # whether it is a listening stream
        self._of_principal: Counter[str] = Counter()

    async def took(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether another worker owns the request's session and has answered it."""
        session = self._session_elsewhere(scope)
        if session is None:
            return False
        path = self._directory / f"{session.owner}{SUFFIX}"
        if not is_private_socket(path):
            return False
        passing, principal = _Passing(scope, receive, send, self._audit), session.holder
        is_full = len(self._under_way) >= MAXIMUM_AT_ONCE
        if is_full or self._of_principal[principal] >= MAXIMUM_OF_PRINCIPAL:
            await passing.refuse("Too many requests are being passed on.")
            return True
        self._of_principal[principal] += 1
        try:
            async with asyncio.timeout(None) as deadline:
                self._under_way[deadline] = scope["method"] == "GET"
                return await passing.through(path, deadline)
        except TimeoutError:
            return True  # the agent left, or we are ending: the connection is cut
        finally:
            self._under_way.pop(deadline, None)
            self._of_principal[principal] -= 1
            if not self._of_principal[principal]:
                del self._of_principal[principal]

    def end(self, *, streams_only: bool) -> None:
        """Cut what is being passed on."""
        for deadline, is_stream in tuple(self._under_way.items()):
            if is_stream or not streams_only:
                cut(deadline)

    def _session_elsewhere(self, scope: Scope) -> Session | None:
        if scope["query_string"] or TARGET_ORIGIN in (scope.get("extensions") or {}):
            return None
        headers = Headers(scope["headers"])
        if len(headers.all(b"host")) != 1:  # our client would send one: the owner could not refuse
            return None
        if scope["method"] != "POST" and headers.all(b"transfer-encoding"):
            return None  # as above: a body that is not passed on
        sealed = headers.all(SESSION_HEADER)
        session = self._seal.open(sealed[0]) if len(sealed) == 1 else None
        if session is None or session.owner in {"", self._own}:
            return None
        if urlsplit(session.endpoint).path.encode("ascii") != scope["raw_path"]:
            return None
        return session


class _Passing:
    """One request on its way to another worker, and the reply on its way back."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, audit: AuditTrail) -> None:
        self._audit = audit
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_body_read = asyncio.Event()
        self._is_started = False

    async def through(self, socket: Path, deadline: asyncio.Timeout) -> bool:
        """Pass it on; false when the worker is not there any more."""
        watcher = asyncio.create_task(self._until_left(deadline))
        connector = aiohttp.UnixConnector(os.fspath(socket), force_close=True)
        try:
            async with session_over(connector) as session:
                try:
                    await self._pass(session)
                except aiohttp.ClientConnectorError:
                    return False  # nothing of the body was read
                except (aiohttp.ClientError, OSError) as error:
                    await self._broken(error)
                return True
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _pass(self, session: aiohttp.ClientSession) -> None:
        url = URL.build(scheme="http", host="worker", path=self._path(), encoded=True)
        # No limit but to connecting: the owner has one for everything.
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self._scope["headers"]
            if name.lower() not in _HOP_BY_HOP
        ]
        body = self._body() if self._scope["method"] == "POST" else None
        if body is None:
            self._is_body_read.set()
        async with session.request(
            self._scope["method"],
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            timeout=timeout,
        ) as response:
            await self._reply(response)

    async def _reply(self, response: aiohttp.ClientResponse) -> None:
        headers = [
            (name.lower(), value)
            for name, value in response.raw_headers
            if name.lower() not in _HOP_BY_HOP and name.lower() != b"date"
        ]
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        await self._told(start)
        self._is_started = True
        async for chunk in response.content.iter_any():
            await self._told({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._told({"type": "http.response.body", "body": b"", "more_body": False})

    async def _told(self, message: dict[str, object]) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await self._send(message)

    async def refuse(self, text: str) -> None:
        """Answer 503: what can be tried again."""
        answer = errors.failed(503, None, errors.CALL_ENDED, text, None)
        self._audit.not_accepted(self._scope["method"], self._scope["path"], answer.status, text)
        headers = list(answer.headers)
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await self._told(start)
        await self._told({"type": "http.response.body", "body": answer.body, "more_body": False})

    async def _broken(self, error: Exception) -> None:
        """The owner went away with the request: whether a call was made is in its audit."""
        _logger.warning("owner_of_session_left", error=type(error).__name__)
        if self._is_started:
            return  # a response without its end is cut by the server
        await self.refuse("The worker that served the session ended.")

    async def _body(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            if chunk := message.get("body", b""):
                yield chunk
            if not message.get("more_body", False):
                self._is_body_read.set()
                return

    async def _until_left(self, deadline: asyncio.Timeout) -> None:
        """When the agent leaves, so does this request."""
        await self._is_body_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        cut(deadline)

    def _path(self) -> str:
        raw: bytes = self._scope["raw_path"]
        return raw.decode("ascii")
