"""Tells the authority what tools each server offers: at start, when servers change, periodically.

A server that cannot be looked at is told of too, with the reason, and tried again ever more rarely.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from mcp_gateway.authority import AuthorityUnreachableError
from mcp_gateway.control_session import ControlRefusedError, ControlSession
from mcp_gateway.discovery import look
from mcp_gateway.parts import Parts
from registry.snapshot import ServerEntry

CATALOGUE_SECONDS: Final = 60.0
CATALOGUE_RETRY_SECONDS: Final = 2.0  # then twice as long after each failure in a row
_OK: Final = (200, 201, 204)
_FAILURES: Final = (
    AuthorityUnreachableError,
    ControlRefusedError,
    msgspec.MsgspecError,
    ValueError,
    OSError,
)

_logger = structlog.get_logger(__name__)

_Place = tuple[str, str, str, int]


class CatalogueReports:
    """What was told of which server, and when to look at it again."""

    def __init__(self, session: ControlSession, parts: Parts) -> None:
        """Take the session to tell it by; `servers_changed` is set by whoever adopts a snapshot."""
        self._session = session
        self._parts = parts
        self.servers_changed = asyncio.Event()
        self._due: dict[_Place, float] = {}
        self._failures: dict[_Place, int] = {}

    async def report_due(self) -> None:
        """Look at every server that is due, then wait for the next; there must be a snapshot."""
        self.servers_changed.clear()
        current = self._parts.enforcement.view
        assert current is not None  # noqa: S101 - awaited by the caller
        servers, now = current.view.servers, self._parts.monotonic()
        self._due = {place: self._due.get(place, now) for place in map(_place_of, servers)}
        self._failures = {place: self._failures.get(place, 0) for place in self._due}
        async with asyncio.TaskGroup() as tasks:  # one slow server delays no other
            for server in servers:
                if self._due[_place_of(server)] <= now:
                    tasks.create_task(self._report(server))
        wait = min(self._due.values(), default=now + CATALOGUE_SECONDS)
        try:
            async with asyncio.timeout(max(wait - self._parts.monotonic(), 0.05)):
                await self.servers_changed.wait()
        except TimeoutError:
            pass

    async def _report(self, server: ServerEntry) -> None:
        place = _place_of(server)
        failures = self._failures.get(place, 0)
        again, failures = retry_pause(failures), failures + 1
        try:
            token = await self._session.token()
            found = await look(server, token, self._parts.exchange, self._parts.upstream)
            if found.error:
                _logger.warning("tools_not_observed", server=server.name, text=found.error)
            answer = await self._session.ask("POST", "/catalogue", body=msgspec.json.encode(found))
            if answer.status not in _OK:
                _logger.warning("catalogue_refused", server=server.name, status=answer.status)
            elif not found.error:
                again, failures = CATALOGUE_SECONDS, 0
        except _FAILURES as error:
            _logger.warning(
                "catalogue_not_reported",
                server=server.name,
                error=type(error).__name__,
                text=str(error),
            )
        self._due[place] = self._parts.monotonic() + again
        self._failures[place] = failures


def retry_pause(failures: int) -> float:
    """How long a server is left alone after it failed again, having failed so often before."""
    return min(CATALOGUE_RETRY_SECONDS * float(1 << min(failures, 10)), CATALOGUE_SECONDS)


def _place_of(server: ServerEntry) -> _Place:
    """What makes a server another one to look at: name, url, credential provider and version."""
    return (server.name, server.url, server.credential.name, server.credential.version)
