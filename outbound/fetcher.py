"""Fetches a document from a URL that somebody else chose, without being used against ourselves.

In this order: the URL (`destination`), the name resolved once, every address vetted (`addresses`),
then a connection to exactly those addresses (`pinned_session`). TLS is verified against the host of
the URL. No redirects, no decompression; one deadline for everything together, so that a slow server
costs only its time.
Left out: caches (`fetch_cache`), and what the document means.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import yarl

from outbound.addresses import vetted
from outbound.destination import Destination, destination_of
from outbound.pinned_session import pinned_session

MAXIMUM_CONCURRENT: Final = 32  # of a process; more wait, within their own deadline
MAXIMUM_CONTEXTS: Final = 32  # TLS contexts kept, one per CA bundle and its version
USER_AGENT: Final = "countersign"

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  # host, port → addresses as text


class FetchError(Exception):
    """A document that was not fetched.

    `code` is one of: `address_refused` (also: such a URL), `unreachable`, `timeout`, `too_large`,
    `redirected`, `status`, `tls`, `encoding`, `not_json`, `issuer`. The text has no URL, because a
    URL may hold a code.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What one source may be and cost.

    `private_hosts` are exact `host` or `host:port` that may be at a private or loopback address.
    `ca_bundle` is a PEM file that replaces the system's authorities.
    """

    private_hosts: frozenset[str] = frozenset()
    ca_bundle: str | None = None
    total_seconds: float = 5.0
    maximum_bytes: int = 262_144


@dataclass(frozen=True, slots=True)
class Fetched:
    """One whole reply. Header names are lower case; of a repeated header the first."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            FetchError: `not_json`; also for what parsers read differently: duplicate members,
                NaN, numbers beyond a double, and surrogates without their other half, which are
                no text (RFC 8259 §8.2) and which nobody could write down again.
        """
        try:
            value = json.loads(
                self.body.decode("utf-8"),
                object_pairs_hook=_unique_members,
                parse_constant=_refuse_constant,
            )
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
        except (ValueError, RecursionError):
            raise FetchError("not_json") from None
        if not isinstance(value, dict):
            raise FetchError("not_json", "not an object")
        return value


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    policy: FetchPolicy
    headers: Sequence[tuple[str, str]]
    body: bytes | None = None


class Fetcher:
    """Safe for any number of concurrent callers; `maximum_concurrent` of them at a time.

    Whoever fetches what strangers name wants one of its own: slow strangers then wait for each
    other, not the identity provider for them.
    """

    def __init__(
        self, resolve: Resolve | None = None, *, maximum_concurrent: int = MAXIMUM_CONCURRENT
    ) -> None:
        self._places = asyncio.Semaphore(maximum_concurrent)
        # Threads of its own: a name server that does not answer may hold no others up.
        self._threads = ThreadPoolExecutor(maximum_concurrent, thread_name_prefix="resolve")
        self._resolve = resolve or self._system_resolve
        self._contexts: dict[tuple[str | None, int], ssl.SSLContext] = {}
        self._is_closed = False

    async def get(
        self, url: str, policy: FetchPolicy, *, headers: Sequence[tuple[str, str]] = ()
    ) -> Fetched:
        """GET a document; any status that is no redirect is an answer.

        Raises:
            FetchError: see there.
        """
        return await self._fetch(_Request("GET", url, policy, headers))

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        policy: FetchPolicy,
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Fetched:
        """POST a form (application/x-www-form-urlencoded); it is sent at most once.

        Raises:
            FetchError: see there.
        """
        typed = (*headers, ("Content-Type", "application/x-www-form-urlencoded"))
        body = urlencode(form).encode("ascii")
        return await self._fetch(_Request("POST", url, policy, typed, body))

    async def aclose(self) -> None:
        """Refuse from now on. Nothing is kept open between requests."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, request: _Request) -> Fetched:
        policy = request.policy
        destination = destination_of(request.url, policy.private_hosts)
        if destination is None:
            raise FetchError("address_refused", "not a URL to fetch from")
        if self._is_closed:
            raise FetchError("unreachable", "closed")
        try:
            async with asyncio.timeout(policy.total_seconds), self._places:
                addresses = await self._addresses_of(destination)
                context = await self._context(policy.ca_bundle)
                async with pinned_session(destination, addresses, context) as session:
                    return await _exchange(session, request)
        except TimeoutError:
            raise FetchError("timeout") from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise FetchError("tls", type(error).__name__) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError("unreachable", type(error).__name__) from None

    async def _addresses_of(self, destination: Destination) -> Sequence[str]:
        if destination.literal is not None:
            answers: Sequence[str] = (destination.literal,)
        else:
            answers = await self._resolve(destination.host, destination.port)
        addresses = vetted(
            answers,
            is_listed=destination.is_listed,
            is_literal=destination.literal is not None,
        )
        if addresses is None:
            raise FetchError("address_refused", "not a public address")
        return addresses

    async def _system_resolve(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        answers = await loop.run_in_executor(self._threads, look_up)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))

    async def _context(self, ca_bundle: str | None) -> ssl.SSLContext:
        changed = 0
        if ca_bundle is not None:
            changed = (await asyncio.to_thread(Path(ca_bundle).stat)).st_mtime_ns
        found = self._contexts.get((ca_bundle, changed))
        if found is None:
            found = await asyncio.to_thread(_new_context, ca_bundle)
            while len(self._contexts) >= MAXIMUM_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            self._contexts[ca_bundle, changed] = found
        return found


def _new_context(ca_bundle: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_bundle)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _exchange(session: aiohttp.ClientSession, request: _Request) -> Fetched:
    sent = [("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"), *request.headers]
    if not any(name.lower() == "accept" for name, _ in request.headers):
        sent.append(("Accept", "application/json"))
    response = await session.request(
        request.method,
        yarl.URL(request.url, encoded=True),  # the URL that was vetted, byte for byte
        data=request.body,
        headers=sent,
        allow_redirects=False,
    )
    try:
        if response.status in _REDIRECTS:
            raise FetchError("redirected")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise FetchError("encoding")
        content = await _body(response, request.policy.maximum_bytes)
    finally:
        response.close()
    names = dict.fromkeys(name.lower() for name in response.headers)
    first = {name: response.headers[name] for name in names}
    return Fetched(response.status, first, content)


async def _body(response: aiohttp.ClientResponse, maximum_bytes: int) -> bytes:
    if (response.content_length or 0) > maximum_bytes:
        raise FetchError("too_large")
    received = bytearray()
    async for chunk in response.content.iter_any():
        received += chunk
        if len(received) > maximum_bytes:
            raise FetchError("too_large")
    return bytes(received)


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _refuse_constant(text: str) -> float:
    raise ValueError(text)
