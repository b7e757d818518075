"""The authorization server as one Starlette application, made from explicit parts.

Outermost first: refuse what no rule of ours should have to think about (chunked bodies, so that
a trailer can never become a header; odd versions), then answer, and turn whatever was not foreseen
into `server_error` with nothing of it in the answer. The `Host` header is read nowhere: every URI
we compare or publish is built from the configured issuer. Sizes and times of bodies are bounded
where they are read.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from authz_server.endpoints import (
    authorize,
    backchannel_logout,
    callback,
    consent,
    control,
    invocation_end,
    jwks,
    login,
    metadata,
    new_consent,
    token,
)
from authz_server.errors import NO_STORE, UNEXPECTED, token_error
from authz_server.log_events import LogEvent
from authz_server.parts import Parts

HTTP_VERSIONS: Final = frozenset({"1.0", "1.1", "2"})
MAXIMUM_QUERY_BYTES: Final = 16_384

_LOG: Final = structlog.get_logger(__name__)


def create_app(parts: Parts, *, mounts: Sequence[Mount] = ()) -> Starlette:
    """The application. `mounts` are others' applications, such as the administration interface."""
    modules = (
        *(metadata, jwks, authorize, login, callback, consent, new_consent),
        *(backchannel_logout, token, invocation_end, control),
    )
    routes: list[BaseRoute] = [route for module in modules for route in module.routes(parts)]
    routes += [*mounts, _health(parts)]
    path = urlsplit(parts.issuer).path
    if path:  # an issuer with a path is served under it as well, whoever strips it in front
        routes.append(Mount(path, Router(list(routes), redirect_slashes=False)))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Outermost)],
        exception_handlers={HTTPException: _http_error},
    )
    # A redirect for a missing slash would go where the `Host` header says, form and all.
    app.router.redirect_slashes = False
    return app


def create_mtls_app(parts: Parts) -> Starlette:
    """What the listener for client certificates serves: the token endpoint and nothing else."""
    app = Starlette(
        routes=token.routes(parts),
        middleware=[Middleware(Outermost)],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    return app


class Outermost:
    """The first and the last to see a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, answer, or say `server_error`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = _refused(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        # The server may go on appending to its list (trailers); ours is what was there before.
        scope = {**scope, "headers": list(scope["headers"])}
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the outermost handler: nothing escapes it
            # INVARIANT: only type and place are logged; an exception's text may hold a token.
            _LOG.error(
                LogEvent.REQUEST_FAILED,
                path=scope["path"],
                error=type(error).__name__,
                at=_place_of(error),
            )
            if started:  # nothing true can follow: the server must cut the connection
                raise ConnectionAbortedError from None
            await token_error(UNEXPECTED)(scope, receive, send)


def _refused(scope: Scope) -> Response | None:
    if scope["http_version"] not in HTTP_VERSIONS:
        return _plain_error(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if len(scope["query_string"]) > MAXIMUM_QUERY_BYTES:
        return _plain_error(HTTPStatus.REQUEST_URI_TOO_LONG)
    names = [name for name, _ in scope["headers"]]
    # RFC 9112 §6.3 allows demanding a length; nothing we serve needs a chunked request.
    if b"transfer-encoding" in names or b"trailer" in names:
        return _plain_error(HTTPStatus.LENGTH_REQUIRED)
    if names.count(b"content-length") > 1 or names.count(b"host") > 1:
        return _plain_error(HTTPStatus.BAD_REQUEST)
    return None


def _health(parts: Parts) -> Route:
    async def health(_request: Request) -> Response:
        if parts.live.is_stale(parts.lease_seconds):
            return _plain_error(HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({"status": "ok"}, headers=NO_STORE)

    return Route("/healthz", health, methods=["GET"])


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _plain_error(HTTPStatus(error.status_code), error.headers)


def _plain_error(status: HTTPStatus, headers: object = None) -> Response:
    extra = dict(headers) if isinstance(headers, dict) else {}
    return JSONResponse(
        {"error": "invalid_request", "error_description": status.phrase},
        status_code=status,
        headers={**extra, **NO_STORE, "Connection": "close"},
    )


def _place_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
