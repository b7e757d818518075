"""The OIDC connector itself against npm oidc-provider: tokens, asking again, others' tokens."""

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from idp_connectors.workforce.login import (
    AuthorizationRequest,
    LoginAttempt,
    LoginFailure,
    LoginFailureCode,
    PersonToken,
    UpstreamLogin,
)
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_client import OpenIdClient, TokenAnswer
from idp_connectors.workforce.parts import WorkforceParts
from outbound.discovery import DiscoveryCache
from outbound.fetcher import Fetcher
from outbound.jwks import JwksCache
from tests.idp_connectors.samples import Secrets
from tests.interop.web_person import WebPerson
from tests.services import oidc_provider
from tests.services.common import service
from tests.services.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProviderServer
from tests.stack import held_port
from token_exchange.claims import Refusal
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

AUTHORITY = "http://127.0.0.1:18700"
CALLBACK = f"{AUTHORITY}/oauth/callback/partner"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProviderServer]:
    with service("oidc-provider"):
        oidc_provider.install()
    with contextlib.ExitStack() as holding:
        port = held_port(holding)
    directory = tmp_path_factory.mktemp("idp")
    with oidc_provider.running(
        directory, port, relying_party=AUTHORITY, provider_name="partner"
    ) as server:
        yield server


class Connector:
    """The connector, and a person who logs in through it."""

    def __init__(self, idp: OidcProviderServer) -> None:
        fetcher = Fetcher()
        self.parts = WorkforceParts(
            issuer=AUTHORITY,
            database=cast("Any", None),
            hashing=cast("Any", None),
            random=secrets.token_bytes,
            clock=time.time,  # noqa: TID251 - a real provider has real time
            fetcher=fetcher,
            discovery=DiscoveryCache(fetcher, time.time),  # noqa: TID251
            jwks=JwksCache(fetcher, time.time),  # noqa: TID251
            secrets=Secrets(partner=CLIENT_SECRET),
        )
        self.settings = OidcSettings(
            issuer=idp.issuer,
            client_id=CLIENT_ID,
            client_secret="partner",
            scopes=("openid", "profile", "groups"),
            private_hosts=(idp.issuer.removeprefix("http://"),),
        )
        self.provider = OidcProvider("partner", self.settings, ("*",), self.parts)
        self.attempt = LoginAttempt(
            redirect_uri=CALLBACK,
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            code_verifier=secrets.token_urlsafe(32),
            login_not_before=0,
            must_log_in=False,
        )

    @property
    def now(self) -> int:
        return int(self.parts.clock())

    async def answer(self, username: str = "carol") -> dict[str, str]:
        """What the browser brings back after a login there."""
        there = await self.provider.begin(self.attempt, self.now)
        assert isinstance(there, AuthorizationRequest), there
        person = WebPerson((CALLBACK,))
        with person.http:
            seen = person.open(there.url)
            seen = person.submit(seen, username=username, password=f"{username}-password")
            return person.submit(seen).answer

    async def log_in(self, username: str = "carol") -> UpstreamLogin:
        login = await self.provider.finish(self.attempt, await self.answer(username), self.now)
        assert isinstance(login, UpstreamLogin), login
        return login

    async def tokens(self) -> TokenAnswer:
        """The provider's own tokens for a login, as a client of it would hold them."""
        grant = {
            "grant_type": "authorization_code",
            "code": (await self.answer())["code"],
            "redirect_uri": CALLBACK,
            "code_verifier": self.attempt.code_verifier,
        }
        token_endpoint = f"{self.settings.issuer}/token"
        answer = await OpenIdClient(self.settings, self.parts).redeem(token_endpoint, grant)
        assert isinstance(answer, TokenAnswer), answer
        return answer


@pytest.fixture
def connector(idp: OidcProviderServer) -> Connector:
    return Connector(idp)


@pytest.mark.requirement("C34")
async def test_person_is_asked_about_again_until_the_provider_signs_them_out(
    connector: Connector, idp: OidcProviderServer
) -> None:
    login = await connector.log_in()
    assert login.person.groups == ("partner/partners", "partner/staff")
    idp.change("carol", groups=["staff"])
    again = await connector.provider.revalidate(login.person, login.upstream, connector.now)
    idp.change("carol", groups=["partners", "staff"])
    assert isinstance(again, UpstreamLogin), again
    assert again.person.groups == ("partner/staff",)
    assert again.upstream != login.upstream
    assert again.person.auth_time == login.person.auth_time
    idp.sign_out("carol")
    ended = await connector.provider.revalidate(again.person, again.upstream, connector.now)
    assert isinstance(ended, LoginFailure)
    assert ended.code is LoginFailureCode.ENDED


async def test_person_disabled_there_is_no_longer_vouched_for(
    connector: Connector, idp: OidcProviderServer
) -> None:
    login = await connector.log_in("dave")
    idp.change("dave", disabled=True)
    ended = await connector.provider.revalidate(login.person, login.upstream, connector.now)
    idp.change("dave", disabled=False)
    assert isinstance(ended, LoginFailure)
    assert ended.code is LoginFailureCode.ENDED, ended.detail


async def test_code_is_good_once(connector: Connector) -> None:
    answer = await connector.answer()
    first = await connector.provider.finish(connector.attempt, answer, connector.now)
    assert isinstance(first, UpstreamLogin)
    second = await connector.provider.finish(connector.attempt, answer, connector.now)
    assert isinstance(second, LoginFailure)
    assert second.detail == "code: token endpoint: invalid_grant"


@pytest.mark.requirement("attack-11", "attack-12")
async def test_answer_to_another_attempt_is_refused(connector: Connector) -> None:
    others = (
        dataclasses.replace(connector.attempt, nonce=secrets.token_urlsafe(32)),
        dataclasses.replace(connector.attempt, code_verifier=secrets.token_urlsafe(32)),
    )
    for other in others:
        answer = await connector.answer()
        refused = await connector.provider.finish(other, answer, connector.now)
        assert isinstance(refused, LoginFailure)


@pytest.mark.requirement("attack-6")
async def test_id_token_speaks_for_the_person_and_the_access_token_does_not(
    connector: Connector,
) -> None:
    tokens = await connector.tokens()
    verify = connector.provider.verify_person_token
    id_token = tokens.unverified_id_token or ""
    found = await verify(id_token, TOKEN_TYPE_ID_TOKEN, (CLIENT_ID,), 300, connector.now)
    assert isinstance(found, PersonToken), found
    assert found.person.subject == "carol"
    for token, kind, client_ids in (
        (id_token, TOKEN_TYPE_ID_TOKEN, ("other-app",)),
        (id_token, TOKEN_TYPE_ACCESS_TOKEN, (CLIENT_ID,)),
        (tokens.access_token, TOKEN_TYPE_ACCESS_TOKEN, (CLIENT_ID,)),
    ):
        refused = await verify(token, kind, client_ids, 300, connector.now)
        assert isinstance(refused, Refusal)
    old = await verify(id_token, TOKEN_TYPE_ID_TOKEN, (CLIENT_ID,), 60, connector.now + 120)
    assert isinstance(old, Refusal)
    assert old.rule == "person_token.age"
