"""uvicorn as this product runs it: httptools only, signals left to us, streams ended at the end."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

import uvicorn

KEEP_ALIVE_SECONDS: Final = 10  # longer than clients keep what they do not use


class WebServer(uvicorn.Server):
    """A server that somebody else starts and stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the process, which drains several servers in order."""
        yield

    def new_connection(self) -> asyncio.Protocol:
        """The protocol of a connection that somebody else accepted."""
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def stop(self, serving: Awaitable[None]) -> None:
        """Finish what is under way, then end."""
        self.should_exit = True
        await serving


def web_server(
    app: Any,  # noqa: ANN401 - an ASGI application
    *,
    shutdown_seconds: float,
    http: Any,  # noqa: ANN401 - a protocol class of uvicorn, made for this listener
    lifespan: Any = "off",  # noqa: ANN401 - uvicorn's own literal
) -> WebServer:
    """A server for `app`; it says nothing of itself and believes no forwarding header.

    `http` bounds heads, and for strangers connections (`listeners`): uvicorn's own does not.
    """
    return WebServer(
        uvicorn.Config(
            app,
            http=http,
            ws="none",
            lifespan=lifespan,
            loop="none",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        )
    )


def listen(host: str, port: int, *, setting: str, backlog: int) -> socket.socket:
    """A listening TCP socket. `setting` is what the operator would change.

    Raises:
        OSError: The address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = f"cannot listen at {host}:{port} ({setting}): {error.strerror}"
        raise OSError(error.errno, reason) from error
    return listener
