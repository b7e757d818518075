"""The Upstream of a gateway: each server is spoken to in the era it understands.

The operator may say which (`McpServer.protocol`); else it is asked once per server URL (`probe`),
kept for `ERA_SECONDS` and forgotten as soon as something suggests that it is no longer so. The call
that stumbles over that fails: it is never sent a second time in the other era.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from mcp_gateway.bounded_memory import LeastRecentlyUsed
from mcp_gateway.clock import Clock
from mcp_gateway.single_flight import SingleFlight
from mcp_gateway.upstream.legacy import BareStatus, LegacyUpstream
from mcp_gateway.upstream.legacy_handshake import StatusRefusedError
from mcp_gateway.upstream.legacy_reply import Pause
from mcp_gateway.upstream.probe import Era, probe
from mcp_gateway.upstream.protocol import (
    PROTOCOL_AUTO,
    STDIO_SCHEME,
    UpstreamInvalidError,
    UpstreamReply,
    UpstreamRequest,
    UpstreamUnreachableError,
)
from mcp_gateway.upstream.transport import Transport
from registry.blocks import RevocationEvent

MAXIMUM_SERVERS: Final = 4096
ERA_SECONDS: Final = 600.0
SWEEP_SECONDS: Final = 30.0
# What a server of the other era may answer a modern request with.
_SUSPICIOUS: Final = frozenset({400, 404, 405, 406, 415, 501})


class EitherEraUpstream:
    """The Upstream protocol over one Transport, for servers of both eras."""

    def __init__(
        self, transport: Transport, monotonic: Clock, pause: Pause = asyncio.sleep
    ) -> None:
        """Take the connections and the clock by which eras and sessions grow old."""
        self._transport = transport
        self._monotonic = monotonic
        self._legacy = LegacyUpstream(transport, monotonic, pause)
        self._eras: LeastRecentlyUsed[str, tuple[Era, float]] = LeastRecentlyUsed(MAXIMUM_SERVERS)
        self._flights: SingleFlight[str] = SingleFlight()

    @asynccontextmanager
    async def post(self, request: UpstreamRequest) -> AsyncIterator[UpstreamReply]:
        """Send one request in the server's era."""
        try:
            era = await self._era(request)
        except StatusRefusedError as refused:
            yield BareStatus(refused.status)
            return
        way = self._legacy.post if era is Era.LEGACY else self._modern
        try:
            async with way(request) as reply:
                yield reply
        except (UpstreamUnreachableError, UpstreamInvalidError):
            self._eras.drop(request.url)
            raise

    def forget(self, event: RevocationEvent) -> None:
        """End every legacy session that depends on a revoked subject."""
        self._legacy.forget(event)

    def forget_all(self) -> None:
        """End every legacy session."""
        self._legacy.forget_all()

    async def run(self) -> None:
        """End idle sessions, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._legacy.sweep()

    async def aclose(self) -> None:
        """End every session; the connections are their owner's to close."""
        await self._legacy.aclose()

    @asynccontextmanager
    async def _modern(self, request: UpstreamRequest) -> AsyncIterator[UpstreamReply]:
        async with self._transport.send("POST", request) as reply:
            if reply.status in _SUSPICIOUS:
                self._eras.drop(request.url)
            yield reply

    def era_spoken(self, url: str, protocol: str) -> str:
        """See `Upstream`."""
        return self._settled(url, protocol) or ""

    async def _era(self, request: UpstreamRequest) -> Era:
        era = self._settled(request.url, request.protocol)
        if era is not None:
            return era
        async with self._flights.of(request.url):
            era = self._known(request.url)
            if era is None:
                era = await probe(self._transport, request)
                self._eras.put(request.url, (era, self._monotonic() + ERA_SECONDS))
            return era

    def _settled(self, url: str, protocol: str) -> Era | None:
        """The era nobody need be asked about."""
        if protocol != PROTOCOL_AUTO:
            return Era(protocol)
        if url.startswith(STDIO_SCHEME):
            return Era.LEGACY  # what our own stdio host speaks
        return self._known(url)

    def _known(self, url: str) -> Era | None:
        known = self._eras.get(url)
        return None if known is None or known[1] <= self._monotonic() else known[0]
