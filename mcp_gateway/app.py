"""The gateway as one ASGI application: well-known documents and health, and the MCP route.

`create_app` takes explicit parts. Everything in the background (control channel, audit push,
lease watch) lives in the lifespan's one task group and ends with it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_gateway import errors, pipeline
from mcp_gateway.asgi import McpRoute, Receive, Scope, Send
from mcp_gateway.ceiling import REQUIRED_SCOPE
from mcp_gateway.compiled_view import WELL_KNOWN_RESOURCE, CompiledView, Endpoint
from mcp_gateway.enforcement import STALE_LIMIT_SECONDS, Enforcement, NotServing
from mcp_gateway.http_message import Answer
from mcp_gateway.open_calls import EndedBy, OpenCalls
from mcp_gateway.other_workers import OtherWorkers
from mcp_gateway.parts import Parts
from token_exchange.token_types import DETAIL_TOOL, SIGNING_ALGORITHM

HEALTH_PATH: Final = "/healthz"
WELL_KNOWN: Final = "/.well-known/"
LEASE_CHECK_SECONDS: Final = 0.25
DRAIN_SECONDS: Final = 5.0  # what calls in flight get to come to their own end

Background = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class BackgroundWork:
    """What runs beside the calls, and what is done when they are over."""

    run: tuple[Background, ...] = ()
    after: tuple[Background, ...] = ()


class GatewayApp:
    """The ASGI application. `drain` begins the end: nothing new, then nothing at all."""

    def __init__(
        self, parts: Parts, work: BackgroundWork, others: OtherWorkers | None = None
    ) -> None:
        """Build both routes; `others` are the workers beside this one."""
        self._parts = parts
        self._others = others
        self._work = work
        self._mcp = McpRoute(partial(_handle, parts))
        self._documents = Starlette(
            routes=[
                Route(HEALTH_PATH, self._health, methods=["GET"]),
                Route(f"{WELL_KNOWN_RESOURCE}{{path:path}}", self._metadata, methods=["GET"]),
            ],
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route by path; everything that is no document of ours is the MCP route's to answer."""
        is_http, path = scope["type"] == "http", scope.get("path", "")
        if is_http and path != HEALTH_PATH and not path.startswith(WELL_KNOWN):
            if self._others is None or not await self._others.took(scope, receive, send):
                await self._mcp(scope, receive, send)
        else:
            await self._documents(scope, receive, send)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Refuse new calls, give those in flight `seconds`, then end them."""
        self._parts.enforcement.drain()
        self._parts.open_calls.end_streams(EndedBy.SHUTDOWN)
        if self._others is not None:
            self._others.end(streams_only=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._parts.open_calls.idle()
        self._parts.open_calls.end_all(EndedBy.SHUTDOWN)
        if self._others is not None:
            self._others.end(streams_only=False)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work()) for work in self._work.run]
            watch = watch_lease(self._parts.enforcement, self._parts.open_calls)
            running.append(tasks.create_task(watch))
            try:
                yield
            finally:
                await self.drain(0)
                for task in running:
                    task.cancel()
        for work in self._work.after:
            await work()

    async def _health(self, _request: Request) -> Response:
        serving = self._parts.enforcement.serving()
        if isinstance(serving, NotServing):
            return _response(errors.document({"status": serving.name.lower()}, 503))
        problem = self._parts.proofs.problem(int(self._parts.clock()))
        if problem is not None:  # calls with a proof are refused: nobody should be sent here
            return _response(errors.document({"status": problem}, 503))
        progress = self._parts.enforcement.progress
        state = {"status": "serving", "version": progress.version, "sequence": progress.sequence}
        return _response(errors.document(state))

    async def _metadata(self, request: Request) -> Response:
        view = self._parts.enforcement.view
        if view is None:
            return _response(errors.not_serving(NotServing.STARTING))
        endpoint = view.metadata.get(request.scope["raw_path"].decode("latin-1"))
        if endpoint is None:
            return _response(errors.document({"error": "not_found"}, 404))
        return _response(errors.document(resource_metadata(endpoint, view)))


def create_app(
    parts: Parts, work: BackgroundWork | None = None, others: OtherWorkers | None = None
) -> GatewayApp:
    """The application over `parts`; `work` is what its lifespan runs."""
    return GatewayApp(parts, work or BackgroundWork(), others)


def resource_metadata(endpoint: Endpoint, view: CompiledView) -> dict[str, Any]:
    """The protected-resource metadata of one endpoint (RFC 9728 §2)."""
    return {
        "resource": endpoint.audience,
        "authorization_servers": [view.view.issuer],
        "scopes_supported": [REQUIRED_SCOPE],
        "bearer_methods_supported": ["header"],
        "resource_name": endpoint.server.name,
        "dpop_signing_alg_values_supported": [SIGNING_ALGORITHM],
        "dpop_bound_access_tokens_required": endpoint.server.require_bound,
        "authorization_details_types_supported": [DETAIL_TOOL],
    }


async def watch_lease(enforcement: Enforcement, open_calls: OpenCalls) -> None:
    """End open calls when there has been no news for so long that none may be trusted."""
    while True:
        await asyncio.sleep(LEASE_CHECK_SECONDS)
        if enforcement.silence_seconds() > STALE_LIMIT_SECONDS:
            open_calls.end_all(EndedBy.STALE)


async def _handle(parts: Parts, request: Any, reply: Any) -> None:  # noqa: ANN401 - bound by partial
    await pipeline.handle(request, reply, parts)


def _response(answer: Answer) -> Response:
    response = Response(answer.body, status_code=answer.status)
    response.raw_headers = list(answer.headers)
    return response
