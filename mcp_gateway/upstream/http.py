"""Upstream over HTTP with aiohttp: one pool per process, nothing remembered between calls.

`stdio://NAME` goes to the stdio host of this machine, over its Unix socket, if there is one.

No redirects (a redirect would carry the credential elsewhere), no cookies (they would join two
callers), no proxy from the environment, no decompression (a compressed reply cannot be searched
for the credential, so identity is asked for and anything else refused by the caller).
"""

import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, Self

import aiohttp

from mcp_gateway.upstream.protocol import (
    STDIO_SCHEME,
    UpstreamReply,
    UpstreamRequest,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnreachableError,
)
from mcp_gateway.upstream.transport import TransportReply
from registry.blocks import RevocationEvent

CONNECT_SECONDS: Final = 5.0
MAXIMUM_CONNECTIONS: Final = 1000
KEEP_ALIVE_SECONDS: Final = 4.0  # shorter than any common server's: a POST is never repeated
MAXIMUM_HEADER_BYTES: Final = 16_384
READ_BUFFER_BYTES: Final = 65_536
_STDIO_HOST: Final = "http://stdio-host/"


def new_session() -> aiohttp.ClientSession:
    """A client session with the limits above; must be made inside the running loop."""
    return session_over(
        aiohttp.TCPConnector(limit=MAXIMUM_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_SECONDS)
    )


def session_over(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """A client session that remembers nothing, over `connector`."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=READ_BUFFER_BYTES,
        max_line_size=MAXIMUM_HEADER_BYTES,
        max_field_size=MAXIMUM_HEADER_BYTES,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )


class HttpUpstream:
    """Upstream (of modern servers only) and Transport over one aiohttp session, made when used."""

    def __init__(
        self,
        session_factory: Callable[[], aiohttp.ClientSession] = new_session,
        stdio_socket: Path | None = None,
    ) -> None:
        """Take how to make the session: it needs a running loop, so it is made late."""
        self._session_factory = session_factory
        self._session: aiohttp.ClientSession | None = None
        self._stdio_socket = stdio_socket
        self._stdio_session: aiohttp.ClientSession | None = None

    def post(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamReply]:
        """Send one request; the body of the reply is read by the caller inside the context."""
        return self.send("POST", request)

    def era_spoken(self, url: str, protocol: str) -> str:
        """See `Upstream`: only modern servers are asked this way."""
        del url, protocol
        return "modern"

    def forget(self, event: RevocationEvent) -> None:
        """Nothing is kept between calls."""

    def forget_all(self) -> None:
        """Nothing is kept between calls."""

    @asynccontextmanager
    async def send(self, method: str, request: UpstreamRequest) -> AsyncIterator[TransportReply]:
        """Send one request by any HTTP method, as `post`."""
        session, url = self._way_to(request.url)
        timeout = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_SECONDS, sock_read=request.timeout_seconds
        )
        try:
            response = await session.request(
                method,
                url,
                data=request.body or None,
                headers=request.headers,
                allow_redirects=False,
                timeout=timeout,
            )
        except TimeoutError as error:
            raise UpstreamTimeoutError from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnreachableError from error
        is_complete = False
        try:
            reply = _HttpReply(response, request.maximum_response_bytes)
            yield reply
            is_complete = reply.is_complete
        finally:
            # A reply not read to its end must not go back to the pool, and closing the
            # connection is how this protocol version cancels.
            if is_complete:
                response.release()
            else:
                response.close()

    def _way_to(self, url: str) -> tuple[aiohttp.ClientSession, str]:
        """The pool for a server, and its URL there."""
        if url.startswith(STDIO_SCHEME):
            return self._stdio(), _STDIO_HOST + url.removeprefix(STDIO_SCHEME)
        if self._session is None:
            self._session = self._session_factory()
        return self._session, url

    def _stdio(self) -> aiohttp.ClientSession:
        if self._stdio_socket is None:
            raise UpstreamUnreachableError("this gateway has no stdio host")
        if not is_private_socket(self._stdio_socket):
            raise UpstreamUnreachableError("the stdio host's socket is not there, or not private")
        if self._stdio_session is None:
            connector = aiohttp.UnixConnector(
                os.fspath(self._stdio_socket),
                limit=MAXIMUM_CONNECTIONS,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
            )
            self._stdio_session = session_over(connector)
        return self._stdio_session

    async def aclose(self) -> None:
        """Close the pools."""
        for session in (self._session, self._stdio_session):
            if session is not None:
                await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def is_private_socket(path: Path) -> bool:
    """Whether the socket is ours or root's alone, and in a directory only they may write to.

    Whoever could replace it would get the credentials of the calls.
    """
    try:
        facts, folder = path.lstat(), path.parent.stat()
    except OSError:
        return False
    owners = {0, os.geteuid()}
    is_ours = facts.st_uid in owners and folder.st_uid in owners
    is_closed = not facts.st_mode & 0o077 and not folder.st_mode & 0o022
    return stat.S_ISSOCK(facts.st_mode) and is_ours and is_closed


class _HttpReply:
    def __init__(self, response: aiohttp.ClientResponse, maximum_bytes: int) -> None:
        self._response = response
        self._maximum_bytes = maximum_bytes
        self.status = response.status
        content_type = response.headers.get("Content-Type", "")
        self.media_type = content_type.partition(";")[0].strip().lower()
        coding = response.headers.get("Content-Encoding", "identity")
        self.content_encoding = coding.strip().lower()
        self.is_complete = False

    def header(self, name: str) -> str | None:
        values = self._response.headers.getall(name, [])
        return values[0] if len(values) == 1 else None

    async def chunks(self) -> AsyncIterator[bytes]:
        received = 0
        try:
            async for chunk in self._response.content.iter_any():
                received += len(chunk)
                if received > self._maximum_bytes:
                    raise UpstreamTooLargeError
                yield chunk
        except TimeoutError as error:
            raise UpstreamTimeoutError from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachableError from error
        self.is_complete = True
