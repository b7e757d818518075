"""A whole authorization server with an OpenID provider in memory, whose tokens agents present."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import httpx2

from authz_server.requested_access import ServerAtEndpoint, shown_tools
from authz_server.store.consents import Consent
from idp_connectors.evidence import Person
from idp_connectors.workforce.keycloak import KeycloakProvider, KeycloakSettings
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.parts import WorkforceParts
from outbound.discovery import DiscoveryCache
from outbound.jwks import JwksCache
from registry.objects import DeclaredObject
from tests.authz_server.back_half import CRM, ISSUER, Authority, agent, declare, start_authority
from tests.idp_connectors.openid import CLIENT_ID, CLIENT_SECRET, IDP, MemoryIdp, settings_of
from tests.idp_connectors.samples import Secrets
from token_exchange.identifiers import new_id
from token_exchange.token_types import GRANT_TOKEN_EXCHANGE, TOKEN_TYPE_ID_TOKEN

PORTAL = "support-portal"  # the application at the provider that the agents list
PORTAL_BOT, OTHER_BOT, MANDATE_BOT = 2000, 2001, 2002
DAY = 86_400


def subject_tokens(**changes: Any) -> dict[str, Any]:
    return {"identity_provider": "partner", "client_ids": [PORTAL]} | changes


def acts_for(**changes: Any) -> dict[str, Any]:
    return {"groups": ["partner/partners"], "subject_tokens": [subject_tokens()]} | changes


def objects(kind: str = "oidc") -> list[DeclaredObject]:
    issuer = {"issuer": IDP, "client_id": CLIENT_ID, "client_secret": "partner"}
    tools = ["crm/get_*", "crm/refund", "notes/search"]
    return [
        declare("IdentityProvider", "partner", type=kind, **issuer),
        agent("portal-bot", PORTAL_BOT, tools, acts_for=acts_for()),
        agent("other-bot", OTHER_BOT, tools, acts_for=acts_for()),
        agent("mandate-bot", MANDATE_BOT, tools, acts_for=acts_for(consent="mandate")),
    ]


@dataclasses.dataclass
class Blending:
    """The server, the provider and what people and agents do there."""

    authority: Authority
    idp: MemoryIdp

    def form(self, uid: int = PORTAL_BOT, **changes: Any) -> dict[str, Any]:
        """The agent's request with carol's ID token of the portal; None leaves one out."""
        form = {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": self.id_token(),
            "subject_token_type": TOKEN_TYPE_ID_TOKEN,
        }
        return form | changes

    def id_token(self, person: str = "carol", **changes: Any) -> str:
        self.idp.now = self.authority.now
        return self.idp.id_token(person, **({"aud": PORTAL, "sid": "idp-session-1"} | changes))

    async def ask(self, uid: int = PORTAL_BOT, **changes: Any) -> httpx2.Response:
        return await self.authority.workload(uid).ask(**self.form(uid, **changes))

    async def known(self, person: str = "carol") -> str:
        """The `sub` of somebody who has logged in before."""
        known = await self.authority.parts.persons.remember(
            Person("partner", IDP, person, person, (), "pwd", 0), self.authority.now
        )
        return known.sub

    async def consent(
        self, *tools: str, bot: str = "portal-bot", person: str = "carol", **changes: Any
    ) -> Consent:
        """Store a consent, as the page does when somebody says yes."""
        snapshot = self.authority.parts.live.snapshot
        endpoint = ServerAtEndpoint(snapshot.servers["crm"], snapshot.agents[bot])
        fields: dict[str, Any] = {
            "gid": new_id("grt", self.authority.parts.random),
            "sub": await self.known(person),
            "agent": bot,
            "server": "crm",
            "tools": shown_tools(endpoint, tools or ("get_account",)),
            "scope": "mcp:tools",
            "created_at": self.authority.now,
            "expires_at": self.authority.now + 30 * DAY,
        }
        consent = Consent(**(fields | changes))
        await self.authority.parts.consents.grant(consent, self.authority.now)
        return consent


async def start_blending(directory: Path, kind: str = "oidc", **settings: Any) -> Blending:
    plain = await start_authority(directory, declared=objects(kind))
    idp = MemoryIdp()
    parts = WorkforceParts(
        issuer=ISSUER,
        database=plain.database,
        hashing=cast("Any", None),
        random=cast("Any", None),
        clock=plain.clock,
        fetcher=idp,
        discovery=DiscoveryCache(idp, plain.clock),
        jwks=JwksCache(idp, plain.clock),
        secrets=Secrets(partner=CLIENT_SECRET),
    )
    configured = settings_of(**settings)
    provider = OidcProvider("partner", configured, ("*",), parts)
    if kind == "keycloak":
        realm = KeycloakSettings.model_validate(configured.model_dump())
        provider = KeycloakProvider("partner", realm, ("*",), parts)
    with_logins = dataclasses.replace(plain.parts, person_logins=lambda: {"partner": provider})
    server = Authority(plain.directory, with_logins, plain.database, plain.clock)
    return Blending(server, idp)


__all__ = ["CRM", "MANDATE_BOT", "OTHER_BOT", "PORTAL", "PORTAL_BOT", "Blending", "start_blending"]
