"""Where a browser meets a command on loopback: any local program may knock, only ours gets in."""

import asyncio
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from countersign import login_listener as module
from countersign.code_request import CodeRequest, LoginError
from countersign.login_listener import FAILED, LoginListener, login_listener

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

AUTHORIZE = "https://id.example.com/oauth/authorize?state="
OTHER_USER = 64_999


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request(state: str) -> CodeRequest:
    return CodeRequest("https://id.example.com", AUTHORIZE + state, state, "v", "r", "u")


async def sent(url: str, text: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    try:
        writer.write(text.encode())
        return (await asyncio.wait_for(reader.read(), 10)).decode()
    except ConnectionResetError:  # not all of it was read
        return ""
    finally:
        writer.close()


async def opened(url: str) -> str:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return await sent(url, f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n")


def goes_to(answer: str) -> str | None:
    assert "cache-control: no-store" in answer
    return next((line[10:] for line in answer.split("\r\n") if line.startswith("location: ")), None)


@pytest.mark.requirement("trap-login-confusion")
async def test_each_link_leads_to_the_login_once_and_tells_nothing_by_itself() -> None:
    async with login_listener() as browser:
        assert "410" in await opened(browser.printed)  # nothing was asked for yet
        browser.send_to(request("right"))
        for link in (browser.printed, browser.opened):
            assert "right" not in link
            assert goes_to(await opened(link)) == f"{AUTHORIZE}right"
            again = await opened(link)
            assert again.startswith("HTTP/1.1 410 Gone")
            assert "right" not in again
        assert browser.printed != browser.opened


@pytest.mark.requirement("trap-login-confusion")
async def test_opened_link_serves_no_other_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_our_user", lambda *_: False)
    async with login_listener() as browser:
        browser.send_to(request("right"))
        refused = await opened(browser.opened)
        assert refused.startswith("HTTP/1.1 403 Forbidden")
        assert "right" not in refused
        assert goes_to(await opened(browser.printed)) == f"{AUTHORIZE}right"
        monkeypatch.setattr(module, "is_our_user", lambda *_: True)
        assert goes_to(await opened(browser.opened)) == f"{AUTHORIZE}right"


FETCH = """
import sys, urllib.request
class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_): return None
try: urllib.request.build_opener(Stay).open(sys.argv[1], timeout=20)
except urllib.error.HTTPError as answer: print(answer.code)
"""


@pytest.mark.requirement("trap-login-confusion")
@pytest.mark.skipif(os.getuid() != 0, reason="only root starts a process of another user")
async def test_kernel_says_whose_browser_follows_the_opened_link() -> None:
    def fetched(user: int | None) -> str:
        python = f"/usr/bin/python3.{sys.version_info.minor}"
        command = [python, "-I", "-c", FETCH, browser.opened]
        done = subprocess.run(  # noqa: S603 - our own program
            command, user=user, cwd="/", capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout.strip() or done.stderr

    async with login_listener() as browser:
        browser.send_to(request("right"))
        assert await asyncio.to_thread(fetched, OTHER_USER) == "403"
        assert await asyncio.to_thread(fetched, None) == "303"


async def test_only_the_redirect_with_the_right_state_ends_the_login() -> None:
    async with login_listener() as browser:
        browser.send_to(request("right"))
        for query in ("", "?code=x", "?code=x&state=wrong"):
            assert "400" in await opened(browser.redirect_uri + query)
        coming = asyncio.create_task(opened(f"{browser.redirect_uri}?code=c&state=right"))
        assert await browser.came_back(10) == {"code": "c", "state": "right"}
        assert "400" in await opened(f"{browser.redirect_uri}?code=d&state=right")
        browser.show("Well done.")
        assert "Well done." in await coming


async def test_browser_that_came_back_goes_on_to_the_next_request() -> None:
    async with login_listener() as browser:
        browser.send_to(request("one"))
        coming = asyncio.create_task(opened(f"{browser.redirect_uri}?code=1&state=one"))
        await browser.came_back(10)
        browser.send_to(request("two"))
        assert goes_to(await coming) == f"{AUTHORIZE}two"
        assert "400" in await opened(f"{browser.redirect_uri}?code=1&state=one")
        assert goes_to(await opened(browser.printed)) == f"{AUTHORIZE}two"  # the tab was closed
        coming = asyncio.create_task(opened(f"{browser.redirect_uri}?code=2&state=two"))
        assert (await browser.came_back(10))["code"] == "2"
    assert FAILED in await coming  # nobody told it anything else


async def test_nobody_comes_back_in_time() -> None:
    async with login_listener() as browser:
        browser.send_to(request("right"))
        with pytest.raises(LoginError, match="nobody came back"):
            await browser.came_back(0.01)
        assert "410" in await opened(browser.printed)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("POST /callback?state=right HTTP/1.1\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("GET //[ HTTP/1.1\r\n\r\n", ""),
        ("\r\n\r\n", "405"),
        (f"GET /{'x' * 70_000} HTTP/1.1\r\n\r\n", ""),
    ],
)
async def test_other_requests_get_nothing_and_end_nothing(text: str, status: str) -> None:
    trouble: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: trouble.append(said))
    async with login_listener() as browser:
        browser.send_to(request("right"))
        assert (await sent(browser.printed, text))[9:12] == status
        assert goes_to(await opened(browser.printed)) == f"{AUTHORIZE}right"
    assert trouble == []


async def test_connections_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_CONNECTIONS", 1)
    async with login_listener() as browser:
        browser.send_to(request("right"))
        coming = asyncio.create_task(opened(f"{browser.redirect_uri}?code=c&state=right"))
        await browser.came_back(10)
        assert await opened(browser.printed) == ""
        browser.show("Well done.")
        assert "Well done." in await coming


def test_links_are_not_guessed() -> None:
    async def links() -> set[str]:
        listener = LoginListener(4711)
        return {listener.printed, listener.opened}

    seen = set[str]().union(*(asyncio.run(links()) for _ in range(3)))
    assert len(seen) == 6
    assert all(len(link) == len("http://127.0.0.1:4711/") + 32 for link in seen)
