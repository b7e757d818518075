"""An OpenID provider's word on its sessions: which one a login came from, and that it ended."""

from typing import Any

import pytest

from idp_connectors.workforce.login import LoginAttempt, UpstreamLogin
from idp_connectors.workforce.logout_token import (
    EVENT,
    LogoutClaims,
    LogoutUnavailableError,
    VerifiesLogoutTokens,
)
from idp_connectors.workforce.oidc import OidcProvider
from outbound.fetcher import FetchError
from tests.idp_connectors.openid import CLIENT_ID, IDP, NOW, MemoryIdp, signed_with
from token_exchange.claims import Refusal

pytestmark = pytest.mark.anyio


def logout_token(idp: MemoryIdp, **changes: Any) -> str:
    claims = {
        "iss": IDP,
        "aud": CLIENT_ID,
        "iat": NOW,
        "exp": NOW + 120,
        "jti": "lt-1",
        "sid": "upstream-7",
        "events": {EVENT: {}},
    }
    return signed_with(idp.key, claims | changes, typ="logout+jwt")


@pytest.mark.requirement("OIDC-BCL-2.6")
async def test_a_providers_logout_token_is_judged_with_its_published_keys(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    assert isinstance(provider, VerifiesLogoutTokens)
    claims = await provider.verify_logout_token(logout_token(idp), NOW)
    assert claims == LogoutClaims("lt-1", NOW, NOW + 151, None, "upstream-7")


@pytest.mark.requirement("OIDC-BCL-2.6")
async def test_an_id_token_is_no_logout_token(provider: OidcProvider, idp: MemoryIdp) -> None:
    refused = await provider.verify_logout_token(idp.id_token(), NOW)
    assert isinstance(refused, Refusal)
    assert refused.rule == "jwt.type"


@pytest.mark.requirement("attack-4")
@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 5_000])
async def test_what_is_no_token_makes_us_fetch_nothing(
    provider: OidcProvider, idp: MemoryIdp, token: str
) -> None:
    assert isinstance(await provider.verify_logout_token(token, NOW), Refusal)
    assert idp.asked == []


async def test_a_token_of_another_issuer_or_algorithm_makes_us_fetch_nothing(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    for token in (
        logout_token(idp, iss="https://other.example"),
        signed_with(idp.key, {"iss": IDP}, typ="logout+jwt", alg="HS256"),
        signed_with(idp.key, {"iss": IDP}, typ="logout+jwt", algorithm="none"),
    ):
        assert isinstance(await provider.verify_logout_token(token, NOW), Refusal)
    assert idp.asked == []


async def test_keys_that_cannot_be_fetched_are_not_a_refusal(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.failure = FetchError("timeout")
    with pytest.raises(LogoutUnavailableError, match="timeout"):
        await provider.verify_logout_token(logout_token(idp), NOW)


@pytest.mark.parametrize(
    ("sid", "known"), [("upstream-7", "upstream-7"), (None, None), (7, None), ("x" * 5000, None)]
)
async def test_a_login_knows_the_session_it_came_from(
    provider: OidcProvider, idp: MemoryIdp, sid: object, known: str | None
) -> None:
    idp.claim_changes = {"sid": sid}
    attempt = LoginAttempt(
        redirect_uri="https://as.example.com/oauth/callback/partner",
        state="state",
        nonce="nonce",
        code_verifier="v" * 43,
        login_not_before=0,
        must_log_in=False,
    )
    begun = await provider.begin(attempt, NOW)
    answer = idp.answer(getattr(begun, "url", ""))
    code = answer.split("code=")[1].split("&")[0]
    login = await provider.finish(attempt, {"code": code, "iss": IDP, "state": "state"}, NOW)
    assert isinstance(login, UpstreamLogin), login
    assert login.upstream_session == known
