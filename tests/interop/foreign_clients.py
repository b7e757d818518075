"""What foreign MCP clients need of a stack: their Agent, a server that takes bearers, a policy.

`foreign_objects(stack)` are the demo's objects with `notes` open to them (crm stays bound);
`Person` is the official Python client's browser: it logs in and allows, without a window.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)

from compose.demo.browser import Browser, Page, log_in_and_allow
from compose.demo.stack import Stack
from tests.stack import PASSWORDS, demo_objects

AGENT = "unattested-clients"
CALLBACK = "http://127.0.0.1:33418/callback"

POLICY = """
@id("grant-foreign-notes")
permit (
  principal == Agent::"unattested-clients",
  action in Action::"call_read",
  resource in McpServer::"notes"
) when { context.run has user && context.run.user in Group::"local/staff" };
"""


def foreign_objects(stack: Stack) -> list[dict[str, Any]]:
    """The demo, with `notes` open to programs nobody vouches for."""
    objects = demo_objects(stack)
    for each in objects:
        if (each["kind"], each["name"]) == ("McpServer", "notes"):
            each["spec"]["require_bound"] = False
    agent = {
        "owner": "platform@example.com",
        "acts_for": {"groups": ["local/support", "local/staff"], "consent_days": 7},
        "groups": ["foreign"],
        "clients": ["desktop"],
        "tools": ["notes/search"],
    }
    desktop = {"display_name": "Desktop client", "redirect_uris": [CALLBACK]}
    return [
        *objects,
        {"kind": "OAuthClient", "name": "desktop", "spec": desktop},
        {"kind": "Agent", "name": AGENT, "spec": agent},
        {"kind": "Policy", "name": "foreign", "spec": {"cedar": POLICY}},
    ]


@dataclass
class Storage:
    """Where the official client keeps what it got."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass
class Person:
    """Somebody who logs in and allows when the client opens the browser."""

    name: str = "alice"
    storage: Storage = field(default_factory=Storage)
    consents: list[Page] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    answer: str = ""

    async def open(self, url: str) -> None:
        """The client's `redirect_handler`."""
        self.urls.append(url)
        browser = Browser(stop_at=CALLBACK)
        try:
            self.answer, consent = log_in_and_allow(browser, url, self.name, PASSWORDS[self.name])
        finally:
            browser.close()
        if consent is not None:
            self.consents.append(consent)

    async def come_back(self) -> AuthorizationCodeResult:
        """The client's `callback_handler`."""
        said = {name: value[0] for name, value in parse_qs(urlsplit(self.answer).query).items()}
        return AuthorizationCodeResult(
            code=said["code"], state=said.get("state"), iss=said.get("iss")
        )

    def provider(
        self, endpoint: str, *, client_metadata_url: str | None = None, **metadata: Any
    ) -> OAuthClientProvider:
        """The official client's own OAuth, with this person in front of it."""
        described = OAuthClientMetadata(
            client_name="Foreign client",
            redirect_uris=[CALLBACK],
            token_endpoint_auth_method="none",
            **metadata,
        )
        return OAuthClientProvider(
            endpoint,
            described,
            self.storage,
            redirect_handler=self.open,
            callback_handler=self.come_back,
            client_metadata_url=client_metadata_url,
        )
