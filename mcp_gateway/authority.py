"""How the gateway reaches its authorization server: one request, or one stream. Over aiohttp.

No redirects, no cookies, no proxy from the environment; every wait has a timeout and every body a
cap. What is asked, and with which proof, is the caller's business (`exchange_client`,
`control_session`).
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import aiohttp

from mcp_gateway.upstream.http import CONNECT_SECONDS, new_session

REQUEST_SECONDS: Final = 10.0
MAXIMUM_ANSWER_BYTES: Final = 64 * 1024 * 1024  # a snapshot of 10,000 agents and 1,000 tools


class AuthorityUnreachableError(Exception):
    """The authorization server could not be asked, or broke off."""


@dataclass(frozen=True, slots=True)
class AuthorityRequest:
    """One request. `headers` and `body` may hold proofs and tokens: never in a repr."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    timeout_seconds: float = REQUEST_SECONDS
    maximum_bytes: int = MAXIMUM_ANSWER_BYTES


@dataclass(frozen=True, slots=True)
class AuthorityAnswer:
    """A complete answer; header names in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthorityStream:
    """The head of a stream, and its bytes as they arrive.

    `chunks` raises `AuthorityUnreachableError` when nothing came for the request's timeout.
    """

    status: int
    chunks: AsyncIterator[bytes]


class Authority(Protocol):
    """The authorization server, as the gateway sees it."""

    async def ask(self, request: AuthorityRequest) -> AuthorityAnswer:
        """Send a request and read the whole answer.

        Raises:
            AuthorityUnreachableError: no answer in time, or a larger one than allowed.
        """

    def listen(self, request: AuthorityRequest) -> AbstractAsyncContextManager[AuthorityStream]:
        """Send a request and read its answer as it comes.

        Raises:
            AuthorityUnreachableError: no answer in time.
        """


class HttpAuthority:
    """The Authority over one aiohttp session, made when first used."""

    def __init__(self, session_factory: Callable[[], aiohttp.ClientSession] = new_session) -> None:
        """Take how to make the session: it needs a running loop, so it is made late."""
        self._session_factory = session_factory
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, request: AuthorityRequest) -> AuthorityAnswer:
        """See `Authority`."""
        timeout = aiohttp.ClientTimeout(total=request.timeout_seconds, connect=CONNECT_SECONDS)
        body = bytearray()
        try:
            async with self._send(request, timeout) as response:
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > request.maximum_bytes:
                        raise AuthorityUnreachableError("the answer is too large")
                headers = {name.lower(): value for name, value in response.headers.items()}
                return AuthorityAnswer(response.status, headers, bytes(body))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AuthorityUnreachableError(type(error).__name__) from error

    @asynccontextmanager
    async def listen(self, request: AuthorityRequest) -> AsyncIterator[AuthorityStream]:
        """See `Authority`; closing the context closes the connection."""
        timeout = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_SECONDS, sock_read=request.timeout_seconds
        )
        try:
            response = await self._send(request, timeout)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AuthorityUnreachableError(type(error).__name__) from error
        try:
            yield AuthorityStream(response.status, _chunks(response))
        finally:
            response.close()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _send(
        self, request: AuthorityRequest, timeout: aiohttp.ClientTimeout
    ) -> "aiohttp.client._RequestContextManager":
        if self._session is None:
            self._session = self._session_factory()
        return self._session.request(
            request.method,
            request.url,
            data=request.body or None,
            headers=request.headers,
            allow_redirects=False,
            timeout=timeout,
        )


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError) as error:
        raise AuthorityUnreachableError(type(error).__name__) from error
