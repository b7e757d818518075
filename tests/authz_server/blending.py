"""A whole authorization server with an OpenID provider in memory, whose tokens agents present."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import httpx2

from audit_log.event import AuditEvent
from authz_server.requested_access import ServerAtEndpoint, shown_tools
from authz_server.store.consents import Consent, grant_in
from credential_providers import catalog as credential_catalog
from idp_connectors import catalog as connector_catalog
from idp_connectors.evidence import Person
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.parts import WorkforceParts
from outbound.discovery import DiscoveryCache
from outbound.jwks import JwksCache
from registry.objects import DeclaredObject
from registry.store import RegistryStore
from tests.authz_server.back_half import ISSUER, Authority, agent, declare, start_authority
from tests.idp_connectors.openid import CLIENT_ID, CLIENT_SECRET, IDP, MemoryIdp, settings_of
from tests.idp_connectors.samples import Secrets
from token_exchange.identifiers import new_id
from token_exchange.token_types import GRANT_TOKEN_EXCHANGE, TOKEN_TYPE_ID_TOKEN

PORTAL = "support-portal"  # the application at the provider that the agents list
PORTAL_BOT, OTHER_BOT, MANDATE_BOT = 2000, 2001, 2002  # the users that agents run as
DAY = 86_400


def subject_tokens(**changes: Any) -> dict[str, Any]:
    return {"identity_provider": "partner", "client_ids": [PORTAL]} | changes


def acts_for(**changes: Any) -> dict[str, Any]:
    groups = ["partner/partners", "local/support"]
    return {"groups": groups, "subject_tokens": [subject_tokens()]} | changes


def objects() -> list[DeclaredObject]:
    issuer = {"issuer": IDP, "client_id": CLIENT_ID, "client_secret": "partner"}
    tools = ["crm/get_*", "crm/refund", "notes/search"]
    return [
        declare("IdentityProvider", "partner", type="oidc", **issuer),
        agent("portal-bot", PORTAL_BOT, tools, acts_for=acts_for()),
        agent("other-bot", OTHER_BOT, tools, acts_for=acts_for()),
        agent("mandate-bot", MANDATE_BOT, tools, acts_for=acts_for(consent="mandate")),
    ]


@dataclasses.dataclass
class Blending:
    """The server, the provider and what people and agents do there."""

    authority: Authority
    idp: MemoryIdp
    provider: OidcProvider

    def form(self, **changes: Any) -> dict[str, Any]:
        """An agent's request with carol's ID token of the portal; None leaves one out."""
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
        return await self.authority.workload(uid).ask(**self.form(**changes))

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
        await self.authority.database.write(lambda each: grant_in(each, consent))
        return consent

    async def declare(self, *declared: DeclaredObject) -> None:
        """Change what is declared, and let the news arrive."""
        models = connector_catalog.settings_models() | credential_catalog.settings_models()
        store = RegistryStore(
            self.authority.database,
            issuer=ISSUER,
            settings_models=models,
            clock=self.authority.clock,
        )
        plan = await asyncio.to_thread(store.plan, [*declared])
        assert not plan.problems, plan.problems
        await store.apply(plan, "test")
        await self.authority.parts.live.refresh()

    async def later(self, seconds: int) -> None:
        """Time passes, and the registry is read again."""
        self.authority.clock.now += seconds
        await self.authority.parts.live.refresh()

    def refusal(self) -> AuditEvent:
        """The newest refusal in the audit."""
        return self.authority.refusals()[-1]


async def start_blending(directory: Path, **settings: Any) -> Blending:
    plain = await start_authority(directory, declared=objects())
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
    provider = OidcProvider("partner", settings_of(**settings), ("*",), parts)
    with_logins = dataclasses.replace(plain.parts, person_logins=lambda: {"partner": provider})
    server = Authority(plain.directory, with_logins, plain.database, plain.clock)
    return Blending(server, idp, provider)
