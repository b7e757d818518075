"""Makes a handler of pages an endpoint: closes over the parts, and fails closed with a page.

When the registry in memory is too old, or the database or the audit spool cannot be used or is too
busy, the person sees a 503 and nothing was given out: every handler writes what it must before it
answers. Anything else unexpected is left to the application's outermost handler.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from audit_log.spool import SpoolUnavailable
from authz_server.errors import UNAVAILABLE, error_page
from authz_server.log_events import LogEvent
from authz_server.parts import Parts
from database.errors import DatabaseError

HEADING: Final = "Not available now"

_logger = structlog.get_logger(__name__)

PageHandler = Callable[[Parts, Request], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def page_endpoint(handler: PageHandler, parts: Parts) -> Endpoint:
    """`handler` as a Starlette endpoint."""

    async def endpoint(request: Request) -> Response:
        if parts.live.is_stale(parts.lease_seconds):  # a revocation may not have reached us
            return error_page(UNAVAILABLE, heading=HEADING)
        try:
            return await handler(parts, request)
        except (DatabaseError, SpoolUnavailable) as error:
            _logger.exception(LogEvent.REQUEST_UNAVAILABLE, error=type(error).__name__)
            return error_page(UNAVAILABLE, heading=HEADING)

    return endpoint
