"""uvicorn on httptools for the gateway: one worker, strict about HTTP, patient at its end.

What uvicorn leaves to others is done here: the head of a request has a size and a time limit
(`listeners.bounded_heads`), trailers are dropped (httptools reports them as headers: an
`Authorization` trailer must never authenticate), absolute-form targets are handed on to be checked
against Host, odd protocol versions are refused, and a shutdown ends open streams instead of waiting
for them for ever.
"""

import socket
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from listeners.bounded_heads import BoundedHeads
from mcp_gateway.app import DRAIN_SECONDS, GatewayApp
from mcp_gateway.asgi import TARGET_ORIGIN, TRAILER_SAFE

KEEP_ALIVE_SECONDS: Final = 10
MAXIMUM_CONNECTIONS: Final = 10_000
BACKLOG: Final = 2_048
SHUTDOWN_SECONDS: Final = 10
_VERSIONS: Final = frozenset({"1.0", "1.1"})


class GatewayHttpProtocol(BoundedHeads):
    """httptools with the limits of this module's docstring."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Headers only: what comes after the body is dropped."""
        if self.is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: mark it, then let the application run."""
        if self.parser.get_http_version() not in _VERSIONS:
            # Raised through the parser: answered 400, and the connection is closed.
            raise ValueError("HTTP version not supported")
        extensions: dict[str, Any] = {TRAILER_SAFE: {}}
        if not self.url.startswith(b"/"):
            extensions[TARGET_ORIGIN] = _origin_of(self.url)
        self.scope["extensions"] = extensions
        super().on_headers_complete()


def _origin_of(target: bytes) -> str:
    """`scheme://authority` of a request target that is not in origin form."""
    scheme, mark, rest = target.decode("latin-1").partition("://")
    return f"{scheme}{mark}{rest.partition('/')[0].partition('?')[0]}"


class GatewayServer(uvicorn.Server):
    """A uvicorn server that drains the gateway before it waits for connections."""

    def __init__(self, config: uvicorn.Config, app: GatewayApp, drain_seconds: float) -> None:
        """Take the gateway, and how long calls in flight may go on."""
        super().__init__(config)
        self._gateway = app
        self._drain_seconds = drain_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what is new, end what is open, then stop."""
        for server in self.servers:
            server.close()
        await self._gateway.drain(self._drain_seconds)
        await super().shutdown(sockets)


def new_server(
    app: GatewayApp,
    *,
    host: str,
    port: int,
    drain_seconds: float = DRAIN_SECONDS,
    protocol: type[HttpToolsProtocol] = GatewayHttpProtocol,
    backlog: int = BACKLOG,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
) -> GatewayServer:
    """A server for one worker; run it with `serve()` or, given sockets, `serve(sockets)`.

    `protocol` is `GatewayHttpProtocol` or a subclass that bounds its connections.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        backlog=backlog,
        ws="none",
        lifespan="on",
        loop="uvloop",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        limit_concurrency=MAXIMUM_CONNECTIONS,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )
    return GatewayServer(config, app, drain_seconds)
