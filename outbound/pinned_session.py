"""An HTTP session that can reach the vetted addresses of one destination, and nothing else.

The name is not resolved again, and the socket itself is refused for any other address or port, so
a name that changes its mind (DNS rebinding) changes nothing. Nothing is taken from the environment
(no proxy, no netrc) and nothing is kept: no cookies, no connection for a next request.
"""

import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from outbound.destination import Destination

MAXIMUM_HEADER_BYTES: Final = 16_384
READ_BUFFER_BYTES: Final = 65_536


@asynccontextmanager
async def pinned_session(
    destination: Destination, addresses: Sequence[str], context: ssl.SSLContext
) -> AsyncIterator[aiohttp.ClientSession]:
    """For one request to `destination`, at one of `addresses`, with TLS as `context` says."""
    allowed = frozenset(addresses)

    def new_socket(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        # INVARIANT: no socket is ever made for an address that was not vetted, however the
        # library came by it.
        if sockaddr[0] not in allowed or sockaddr[1] != destination.port:
            raise OSError("not a vetted address")
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=_Vetted(addresses),
        use_dns_cache=False,
        force_close=True,
        ssl=context,
        socket_factory=new_socket,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),  # the deadline is around all of it
        read_bufsize=READ_BUFFER_BYTES,
        max_line_size=MAXIMUM_HEADER_BYTES,
        max_field_size=MAXIMUM_HEADER_BYTES,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    ) as session:
        yield session


class _Vetted(AbstractResolver):
    """Answers with what was vetted, whatever the name says now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""
