"""One login for all servers of a run: what the person is shown, and what becomes of it."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from countersign.agent_run import browser_login
from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.authority import Authority, HeldToken
from countersign.agent_run.browser_login import DONE, Login, log_in
from countersign.code_request import LoginError
from countersign.login_listener import FAILED

pytestmark = [pytest.mark.processes, pytest.mark.anyio, pytest.mark.requirement("C7")]

ISSUER = "https://id.example.com"
CRM = Endpoint("crm", "https://gw.example.com/crm/mcp")
NOTES = Endpoint("notes", "https://gw.example.com/notes/mcp")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Key:
    thumbprint = "thumb"


class Issuer:
    """Redeems every code, and says for which resource."""

    issuer = ISSUER
    key = Key()

    async def metadata(self) -> Mapping[str, Any]:
        return {"issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/oauth/authorize"}

    async def token(self, form: Mapping[str, str]) -> HeldToken:
        return HeldToken(f"{form['code']} at {form['resource']}", 0, 900, "inv_1", "r")


class Person:
    """At a browser that was opened for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.loop = asyncio.get_running_loop()
        monkeypatch.setattr(browser_login, "open_browser", self._shown)
        self.http = httpx2.AsyncClient(trust_env=False, follow_redirects=False)
        self.invited: list[str] = []
        self.told: list[str] = []
        self.began: list[tuple[str, str]] = []

    def _shown(self, url: str) -> None:
        self.loop.call_soon_threadsafe(self.link.set_result, url)

    def run(self) -> "asyncio.Task[None]":
        login = Login("helpdesk-bot", True, 10, self.invited.append, self.told.append)
        issuer = cast("Authority", Issuer())
        return asyncio.create_task(log_in(issuer, (CRM, NOTES), login, self.begin_with))

    def begin_with(self, endpoint: Endpoint, held: HeldToken) -> None:
        self.began.append((endpoint.server, held.token))

    async def answers(self, url: str, **said: str) -> httpx2.Response:
        """The redirect of the authorization server after its pages."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        query = urlencode({"iss": ISSUER, "state": asked["state"]} | said)
        return await self.http.get(f"{asked['redirect_uri']}?{query}")


async def test_one_link_leads_through_the_pages_of_every_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person = Person(monkeypatch)
    run = person.run()
    link = await person.link
    first = (await person.http.get(link)).headers["location"]
    assert parse_qs(urlsplit(first).query)["resource"] == [CRM.resource]
    answer = await person.answers(first, code="c1")
    second = answer.headers["location"]
    assert parse_qs(urlsplit(second).query)["resource"] == [NOTES.resource]
    assert DONE in (await person.answers(second, code="c2")).text
    await run
    assert person.began == [("crm", f"c1 at {CRM.resource}"), ("notes", f"c2 at {NOTES.resource}")]
    (asked,) = person.invited
    assert asked.startswith("log in and allow crm, notes, in a browser on this machine:\nhttp://")
    assert person.told == ["1 of 2: crm is allowed", "2 of 2: notes is allowed"]
    # Neither what a command line shows nor the terminal holds what the redirect must bring.
    assert asked.split("\n")[1] != link
    for text in (link, asked):
        assert not any(parse_qs(urlsplit(url).query)["state"][0] in text for url in (first, second))


async def test_person_who_refuses_one_server_ends_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person = Person(monkeypatch)
    run = person.run()
    first = (await person.http.get(await person.link)).headers["location"]
    second = (await person.answers(first, code="c1")).headers["location"]
    assert FAILED in (await person.answers(second, error="access_denied")).text
    with pytest.raises(LoginError, match="access_denied"):
        await run
    assert [server for server, _ in person.began] == ["crm"]  # which the end of the run ends
