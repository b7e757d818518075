"""A person lets the agent act for them, at the start of a run: one login, a consent per server.

Each server has a code request of its own, since a consent and a refresh token are for one resource
(`authorize.resource_count`). They follow one another in the same browser tab: who comes back from
one is sent on to the next, and the authorization server asks for a password no more often than it
must. The client is the agent itself, authenticated by its platform's proof when a code is redeemed;
codes and tokens are bound to the run's key from the start (RFC 9449 §10).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.authority import Authority, HeldToken
from countersign.code_request import new_code_request
from countersign.login_listener import LoginListener, login_listener
from countersign.open_browser import open_browser
from token_exchange.token_types import SCOPE_TOOLS

SCOPE: Final = f"{SCOPE_TOOLS} offline_access"
DONE: Final = "You may close this window: the agent is starting."


@dataclass(frozen=True, slots=True)
class Login:
    """How to log a person in. `wait_seconds` is their time for each server.

    `invite` shows them the link, whatever else is kept quiet; `tell` says how far they are.
    """

    client_id: str
    opens_browser: bool
    wait_seconds: float
    invite: Callable[[str], None]
    tell: Callable[[str], None]


async def log_in(
    authority: Authority,
    endpoints: Sequence[Endpoint],
    login: Login,
    begin_with: Callable[[Endpoint, HeldToken], None],
) -> None:
    """The first token of a run for a person at each endpoint, handed over as it comes.

    Raises:
        LoginError: Nobody came back, or the person said no.
        AgentRunError: A code was refused.
    """
    metadata = await authority.metadata()
    async with login_listener() as browser:
        for number, endpoint in enumerate(endpoints, 1):
            request = new_code_request(
                metadata,
                client_id=login.client_id,
                resource=endpoint.resource,
                redirect_uri=browser.redirect_uri,
                thumbprint=authority.key.thumbprint,
                scope=SCOPE,
            )
            browser.send_to(request)
            if number == 1:
                await _invite(browser, endpoints, login)
            said = await browser.came_back(login.wait_seconds)
            begin_with(endpoint, await authority.token(request.form(said)))
            login.tell(f"{number} of {len(endpoints)}: {endpoint.server} is allowed")
        browser.show(DONE)


async def _invite(browser: LoginListener, endpoints: Sequence[Endpoint], login: Login) -> None:
    servers = ", ".join(endpoint.server for endpoint in endpoints)
    login.invite(f"log in and allow {servers}, in a browser on this machine:\n{browser.printed}")
    if login.opens_browser:
        await asyncio.to_thread(open_browser, browser.opened)
