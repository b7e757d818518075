"""The front half with an OpenID provider in memory declared as `partner`, and people who use it."""

import dataclasses
import re
from html import unescape
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import msgspec
from httpx2 import Response

from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.parts import WorkforceParts
from outbound.discovery import DiscoveryCache
from outbound.jwks import JwksCache
from registry.snapshot import ProviderRecord
from tests.authz_server.front_half import FrontHalf, PersonsBrowser
from tests.idp_connectors.openid import CLIENT_SECRET, MemoryIdp, settings_of
from tests.idp_connectors.samples import Secrets


@dataclasses.dataclass
class Partner:
    """A server whose people may also log in elsewhere."""

    half: FrontHalf
    idp: MemoryIdp

    def declare(self, name: str, idp: MemoryIdp, **settings: Any) -> None:
        """Declare one more provider, and let the agent act for its people."""
        snapshot = self.half.live.snapshot
        declared = {
            **snapshot.identity_providers,
            name: ProviderRecord(name, "oidc", {"issuer": idp.issuer}),
        }
        bot = snapshot.agents["support-bot"]
        groups = (*bot.acts_for_groups, f"{name}/partners")
        agents = {
            **snapshot.agents,
            "support-bot": msgspec.structs.replace(bot, acts_for_groups=groups),
        }
        self.half.live.snapshot = msgspec.structs.replace(
            snapshot, identity_providers=declared, agents=agents
        )
        parts = WorkforceParts(
            issuer=self.half.issuer,
            database=self.half.database,
            hashing=cast("Any", None),
            random=cast("Any", None),
            clock=self.half.clock,
            fetcher=idp,
            discovery=DiscoveryCache(idp, self.half.clock),
            jwks=JwksCache(idp, self.half.clock),
            secrets=Secrets(partner=CLIENT_SECRET),
        )
        configured = settings_of(issuer=idp.issuer, label=f"The {name} company", **settings)
        self.half.logins[name] = OidcProvider(name, configured, ("*",), parts)

    def begin(self, browser: PersonsBrowser, page: Response, name: str = "partner") -> str:
        """Follow the button of the login page; where the browser is sent."""
        response = browser.http.get(button(page, name))
        assert response.status_code == 303, response.text
        return str(response.headers["location"])

    def back(self, browser: PersonsBrowser, page: Response, **changes: str | None) -> str:
        """Log in there; the callback that would come back."""
        person = changes.pop("person", None) or "carol"
        return self.idp.answer(self.begin(browser, page), person, **changes)

    def log_in(self, browser: PersonsBrowser, **asked: Any) -> Response:
        """The whole way to what our server shows after it."""
        callback = self.back(browser, browser.authorize(**asked))
        return browser.follow(browser.http.get(callback))


def partner_of(half: FrontHalf, **settings: Any) -> Partner:
    made = Partner(half, MemoryIdp())
    made.declare("partner", made.idp, **settings)
    return made


def buttons(page: Response) -> dict[str, str]:
    """What the buttons to other sites say, and where they lead."""
    found = re.findall(r'<a class="button[^"]*" href="([^"]+)">([^<]+)</a>', page.text)
    return {unescape(text): unescape(link) for link, text in found}


def button(page: Response, name: str) -> str:
    return buttons(page)[f"Continue with The {name} company"]


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
