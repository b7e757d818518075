"""A platform's token as client authentication, through the whole token endpoint."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from registry.blocks import BlockKind
from tests.authz_server.assertion_clients import AssertionClients
from tests.authz_server.back_half import (
    ISSUER,
    NOW,
    Keyholder,
    declare,
    error_of,
    payload_of,
    start_authority,
)
from tests.idp_connectors.trust_domains import present, sign_as
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    CLIENT_ASSERTION_JWT_SPIFFE,
)

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("platform-token")]

PLATFORM = "https://token.platform.example"
KEY = ECKey.generate_key("P-256")


class Platform(AssertionClients):
    """A server that knows one platform, which makes a token for each request."""

    assertion_type = CLIENT_ASSERTION_JWT_BEARER

    def token(self, **changes: Any) -> str:
        now = self.server.now
        said = {
            "iss": PLATFORM,
            "sub": "job:1",
            "aud": ISSUER,
            "iat": now,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            "repository_id": "74",
        }
        head = {"alg": "ES256", "kid": "k", "typ": "JWT"}
        return sign_as("ES256", head, present({**said, **changes}), KEY)


@pytest.fixture
async def platform(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Platform]:
    del anyio_backend
    jwks = {"keys": [{**KEY.as_dict(private=False), "kid": "k"}]}
    declared = [
        declare(
            "TrustProvider",
            "ci",
            type="platform_token",
            issuer=PLATFORM,
            jwks=jwks,
            claims={"ci.repository_id": "/repository_id"},
            single_use=True,
            level=2,
        ),
        declare(
            "Agent",
            "ci-bot",
            owner="platform@example.com",
            attestation={
                "providers": ["ci"],
                "match": {"ci.repository_id": "74"},
                "minimum_level": 2,
            },
            tools=["crm/get_*"],
        ),
    ]
    server = await start_authority(tmp_path, declared=declared)
    yield Platform(server)
    server.database.close()


async def test_platform_token_names_its_agent(platform: Platform) -> None:
    keyholder = Keyholder(platform.server)
    answer = await platform.ask(platform.token(), keyholder=keyholder)
    assert answer.status_code == 200, answer.text
    claims = payload_of(answer.json()["access_token"])
    assert claims["agent"] == "ci-bot"
    assert (claims["attn"]["method"], claims["attn"]["level"]) == ("platform-token", 2)
    assert claims["cnf"] == {"jkt": keyholder.thumbprint}
    assert platform.server.spool.events[-1].evidence["ci.repository_id"] == "74"


@pytest.mark.requirement("attack-5")
async def test_single_use_token_is_good_once(platform: Platform) -> None:
    token = platform.token()
    assert (await platform.ask(token)).status_code == 200
    await platform.refused(token, "replay.attestation")


@pytest.mark.requirement("attack-5")
async def test_wrong_platform_token_is_refused(platform: Platform) -> None:
    await platform.refused(platform.token(iss="https://other.example"), "client.unknown")
    await platform.refused(platform.token(aud="https://other.example"), "jwt.audience")
    await platform.refused(platform.token(repository_id="75"), "agent.unknown")
    await platform.refused(platform.token(iss=None), "jwt.missing")
    await platform.refused(platform.token(iss=["x"]), "jwt.missing")
    await platform.refused(
        platform.token(), "spiffe.subject", client_assertion_type=CLIENT_ASSERTION_JWT_SPIFFE
    )
    # A subject that looks like a SPIFFE ID makes it no SVID, and no token of the platform either.
    await platform.refused(platform.token(sub="spiffe://prod/bot"), "client.unknown")


@pytest.mark.requirement("attack-15")
async def test_token_bound_to_a_key_needs_that_key(platform: Platform) -> None:
    keyholder = Keyholder(platform.server)
    bound = {"jkt": keyholder.thumbprint}
    await platform.refused(platform.token(cnf=bound), "client.key")
    answer = await platform.ask(platform.token(cnf=bound), keyholder=keyholder)
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("attack-28")
async def test_token_from_before_a_kill_is_refused_after_restore(platform: Platform) -> None:
    before = platform.token()
    await platform.server.block(BlockKind.AGENT, "ci-bot")
    await platform.server.restore(BlockKind.AGENT, "ci-bot")
    platform.server.clock.now = NOW + 2
    assert error_of(await platform.ask(before)) == "invalid_grant"
    assert (await platform.ask(platform.token())).status_code == 200
