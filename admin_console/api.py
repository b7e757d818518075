"""The admin API as one ASGI application: `create_admin_app`. Endpoints are in `routes`.

Serves `/admin/v1/...` when it stands alone (the local socket) and the same under any mount that
already took that prefix away. What the endpoints have in common is in `dispatch`.
"""

from anyio import Lock, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router

from admin_console.authentication import ADMIN_PATH
from admin_console.dispatch import endpoint
from admin_console.errors import HEADERS, AdminError, error_response
from admin_console.openapi import openapi_document
from admin_console.parts import AdminParts
from admin_console.routes import OPERATIONS


def create_admin_app(parts: AdminParts) -> Starlette:
    """The admin API over these parts."""
    made: list[Response] = []
    making = Lock()

    def document() -> Response:
        return JSONResponse(openapi_document(OPERATIONS, parts.issuer), headers=HEADERS)

    async def openapi(_request: Request) -> Response:
        """The one document for everybody: it says nothing of this deployment's objects.

        Made when somebody asks, and once: it takes a good part of a start, and few ever do.
        """
        async with making:
            if not made:
                made.append(await to_thread.run_sync(document))
        return made[0]

    routes: list[BaseRoute] = [
        *(_route(path, parts) for path in dict.fromkeys(each.path for each in OPERATIONS)),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]
    app = Starlette(
        routes=[Mount(ADMIN_PATH, Router(routes, redirect_slashes=False)), *routes],
        exception_handlers={HTTPException: _no_such_operation},
    )
    # Starlette would redirect /objects/ to an absolute URL made of the request's Host header.
    app.router.redirect_slashes = False
    return app


def _route(path: str, parts: AdminParts) -> Route:
    """All methods of one path: a route that knows them all can name them in `Allow`."""
    served = {each.method: endpoint(each, parts) for each in OPERATIONS if each.path == path}

    async def by_method(request: Request) -> Response:
        return await served["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, by_method, methods=list(served))


async def _no_such_operation(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    code = "method_not_allowed" if status == 405 else "not_found"  # noqa: PLR2004 - RFC 9110 §15.5.6
    description = "There is no such operation; see openapi.json."
    headers = error.headers if isinstance(error, HTTPException) else None
    return error_response(
        AdminError(status, code, description, "admin.no_operation", headers=headers)
    )
