"""Upstream to servers of 2025-11-25 and 2025-06-18: modern in, legacy out, modern back.

For each request: the session of exactly this principal and credential, begun when there is none
(single flight) · the request in its legacy form, under a number of ours · the reply in its modern
form (`legacy_reply`). A 404 is the server's word that it does not know the session and did not run
the call: only then, and once, a new session is begun and the request sent again. A call that is
given up is cancelled at the server; a session that was revoked, was idle or is not needed is ended.

Left out: the server's own stream (GET without a request): nothing on it belongs to a call.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from mcp_gateway.clock import Clock
from mcp_gateway.single_flight import SingleFlight
from mcp_gateway.upstream.farewells import Farewells
from mcp_gateway.upstream.legacy_handshake import StatusRefusedError, begin_session, end_session
from mcp_gateway.upstream.legacy_reply import LegacyReply, Pause
from mcp_gateway.upstream.legacy_session import LegacySession, SessionTable
from mcp_gateway.upstream.legacy_wire import ModernCall, modern_call
from mcp_gateway.upstream.protocol import UpstreamReply, UpstreamRequest
from mcp_gateway.upstream.transport import Transport
from registry.blocks import RevocationEvent

_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class BareStatus:
    """A reply of which only the status matters: the relay passes no such reply on."""

    status: int
    media_type: str = ""
    content_encoding: str = "identity"

    async def chunks(self) -> AsyncIterator[bytes]:
        """Nothing."""
        return
        yield b""


class LegacyUpstream:
    """Speaks to legacy servers; whoever owns it calls `sweep` now and then, and `aclose`."""

    def __init__(
        self, transport: Transport, monotonic: Clock, pause: Pause = asyncio.sleep
    ) -> None:
        """Take the connections, a clock for idle times, and how to wait before resuming."""
        self._transport = transport
        self._pause = pause
        self._farewells = Farewells()
        self._sessions = SessionTable(self._say_goodbye, monotonic)
        self._flights: SingleFlight[object] = SingleFlight()

    @asynccontextmanager
    async def post(self, request: UpstreamRequest) -> AsyncIterator[UpstreamReply]:
        """Send one request to a legacy server."""
        call = modern_call(request.body)
        reply: LegacyReply | None = None
        session: LegacySession | None = None
        try:
            session = await self._session(request, call)
            reply = LegacyReply(self._transport, session, request, call, self._pause)
            if await reply.ask() == _NOT_FOUND and session.id is not None:
                await reply.close()
                self._sessions.drop(session, is_known=False)
                self._sessions.release(session)
                reply = session = None
                session = await self._session(request, call)
                reply = LegacyReply(self._transport, session, request, call, self._pause)
                await reply.ask()
            yield reply
        except StatusRefusedError as refused:
            yield BareStatus(refused.status)
        finally:
            if session is not None:
                await self._leave(session, reply)

    def forget(self, event: RevocationEvent) -> None:
        """End every session that depends on a revoked subject."""
        self._sessions.forget(event)

    def forget_all(self) -> None:
        """End every session."""
        self._sessions.forget_all()

    def sweep(self) -> None:
        """End the sessions that nobody used for long."""
        self._sessions.sweep()

    async def aclose(self) -> None:
        """End every session, within the time of a farewell."""
        self._sessions.forget_all()
        await self._farewells.aclose()

    async def _session(self, request: UpstreamRequest, call: ModernCall) -> LegacySession:
        session = self._sessions.take(request)
        if session is not None:
            return session
        if request.session is None:
            return await self._new_session(request, call)
        async with self._flights.of((request.url, request.session.key)):
            session = self._sessions.take(request)
            return session or await self._new_session(request, call)

    async def _new_session(self, request: UpstreamRequest, call: ModernCall) -> LegacySession:
        revision = self._sessions.revision
        with self._sessions.room_for(request):
            session = await begin_session(self._transport, request, call)
            self._sessions.begin(session, request, revision)
        return session

    async def _leave(self, session: LegacySession, reply: LegacyReply | None) -> None:
        """The call is over here; what the server must still hear of it is not waited for."""
        if reply is not None and reply.is_session_refused:
            self._sessions.drop(session, is_known=False)
        if reply is not None and reply.is_open:
            parting = self._give_up(session, reply)
            if self._farewells.say(parting):
                return
        try:
            if reply is not None:
                await reply.close()
        finally:
            self._sessions.release(session)

    async def _give_up(self, session: LegacySession, reply: LegacyReply) -> None:
        try:
            await reply.give_up()
        finally:
            self._sessions.release(session)

    def _say_goodbye(self, session: LegacySession) -> None:
        self._farewells.say(end_session(self._transport, session))
