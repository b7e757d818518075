"""Where a person's browser meets a command on loopback: it begins here, and comes back here.

The authorization URL holds the `state` that the redirect must bring. Whoever knew it could log in
themselves, and the command would act for them instead of for its own user: PKCE and the bound key
keep a code from everybody else, and say nothing of whose login it was (RFC 9700 §4.7, where `state`
must be bound to the browser). So it is told to no one but the browser that follows a link to here:

- `printed` is for the person to open, and is nowhere but on their terminal;
- `opened` is for a browser we start ourselves, whose command line everybody on this machine can
  read: it serves only a connection of our own user, by the kernel's word, where there is such a
  word (Linux).

Each link serves once. Any local program may knock: only the redirect with our `state` counts, and
that once. A browser that came back waits for `send_to` or `show`: one tab goes from page to page.
"""

import asyncio
import contextlib
import secrets
import socket
import sys
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, urlsplit

from countersign.code_request import CodeRequest, LoginError
from countersign.loopback_sockets import is_established, is_our_user

HOST: Final = "127.0.0.1"
CALLBACK: Final = "/callback"
MAXIMUM_HEAD_BYTES: Final = 16_384
MAXIMUM_CONNECTIONS: Final = 32
HEAD_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 120.0  # what the command may need to redeem a code, and more
CLOSE_SECONDS: Final = 1.0
FAILED: Final = "This did not work. The terminal says why."
USED: Final = "This link was used already. If that was not you, end the command and start it again."


class LoginListener:
    """The pages of one login. `port` is its own, on loopback."""

    def __init__(self, port: int) -> None:
        self._base = f"http://{HOST}:{port}"
        self._printed, self._opened = (f"/{secrets.token_urlsafe(24)}" for _ in range(2))
        self._used: set[str] = set()
        self._asked: CodeRequest | None = None
        self._redirect: asyncio.Future[dict[str, str]] | None = None
        self._browser: asyncio.Future[bytes] | None = None  # its answer, while it waits for one
        self._connections = 0
        self._idle = asyncio.Event()

    @property
    def redirect_uri(self) -> str:
        """Where the authorization server sends the browser back to (RFC 8252 §7.3)."""
        return self._base + CALLBACK

    @property
    def printed(self) -> str:
        """The link for the person; it is worth the login, so only they may see it."""
        return self._base + self._printed

    @property
    def opened(self) -> str:
        """The link for a browser that we start."""
        return self._base + self._opened

    def send_to(self, request: CodeRequest) -> None:
        """Where the browser goes next: at once if it waits here, else by a link."""
        self._asked = request
        self._redirect = asyncio.get_running_loop().create_future()
        self._answer(_redirect_to(request.url))

    async def came_back(self, seconds: float) -> dict[str, str]:
        """What the browser brought back from the last request. It waits for our answer.

        Raises:
            LoginError: Nobody came back in time.
        """
        if self._redirect is None:
            raise AssertionError("the browser was sent nowhere")
        try:
            async with asyncio.timeout(seconds):
                return await self._redirect
        except TimeoutError as error:
            raise LoginError("timeout", "nobody came back from the browser") from error
        finally:
            self._asked = self._redirect = None

    def show(self, text: str) -> None:
        """Tell the browser that waits here, if one does."""
        self._answer(_page(HTTPStatus.OK, text))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer."""
        self._connections += 1
        try:
            if self._connections <= MAXIMUM_CONNECTIONS:
                async with asyncio.timeout(HEAD_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                answer = await self._answered(head, writer)
                async with asyncio.timeout(HEAD_SECONDS):
                    writer.write(answer)
                    await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # somebody who wants nothing of ours, or too slow
        finally:
            self._connections -= 1
            if self._connections == 0:
                self._idle.set()
            writer.close()

    async def answered(self) -> None:
        """Wait a moment until nobody is being answered: the process may end next."""
        if self._connections:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._idle.wait()

    async def _answered(self, head: bytes, writer: asyncio.StreamWriter) -> bytes:
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        if method != "GET":
            return _page(HTTPStatus.METHOD_NOT_ALLOWED, "")
        if target.path == CALLBACK:
            said = {name: values[0] for name, values in parse_qs(target.query).items()}
            return await self._came_back(said)
        if _same(target.path, self._printed):
            return self._begun(self._printed)
        if _same(target.path, self._opened):
            if await _is_of_our_user(writer):
                return self._begun(self._opened)
            return _page(HTTPStatus.FORBIDDEN, "This link is for another user of this machine.")
        return _page(HTTPStatus.NOT_FOUND, "")

    def _begun(self, link: str) -> bytes:
        if self._asked is None or link in self._used:
            return _page(HTTPStatus.GONE, USED)
        self._used.add(link)
        return _redirect_to(self._asked.url)

    async def _came_back(self, said: dict[str, str]) -> bytes:
        asked, redirect = self._asked, self._redirect
        if asked is None or redirect is None or redirect.done():
            return _page(HTTPStatus.BAD_REQUEST, "")
        if not _same(said.get("state", ""), asked.state):
            return _page(HTTPStatus.BAD_REQUEST, "")  # it ends nothing
        redirect.set_result(said)
        self._browser = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._browser

    def _answer(self, answer: bytes) -> None:
        if self._browser is not None and not self._browser.done():
            self._browser.set_result(answer)
        self._browser = None


@contextlib.asynccontextmanager
async def login_listener() -> AsyncGenerator[LoginListener, None]:
    """A listener on a free port, for as long as the block lasts."""
    with socket.create_server((HOST, 0)) as bound:
        listener = LoginListener(bound.getsockname()[1])
        server = await asyncio.start_server(listener.serve, sock=bound, limit=MAXIMUM_HEAD_BYTES)
        try:
            yield listener
        finally:
            listener.show(FAILED)  # a browser that was told something else waits no more
            server.close()
            await listener.answered()


async def _is_of_our_user(writer: asyncio.StreamWriter) -> bool:
    if sys.platform != "linux":
        return True
    peer, ours = (writer.get_extra_info(name)[:2] for name in ("peername", "sockname"))
    is_ours = await asyncio.to_thread(is_our_user, peer, ours)
    # Attack: a stranger sends a request and hangs up, and our user's next program gets the port.
    return is_ours and is_established(writer.get_extra_info("socket"))


def _same(given: str, ours: str) -> bool:
    return secrets.compare_digest(given.encode(), ours.encode())


def _redirect_to(url: str) -> bytes:
    return _response(HTTPStatus.SEE_OTHER, b"", f"location: {url}\r\n")


def _page(status: HTTPStatus, text: str) -> bytes:
    body = (
        "<!doctype html><meta charset=utf-8><title>Countersign</title>"
        f"<p style='font:1.2rem system-ui'>{text or status.phrase}"
    )
    return _response(status, body.encode())


def _response(status: HTTPStatus, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/html; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\n{more}cache-control: no-store\r\n"
        "referrer-policy: no-referrer\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
