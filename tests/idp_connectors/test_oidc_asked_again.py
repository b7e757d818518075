"""Asking an OpenID provider about a person again."""

import pytest
from joserfc.jwk import ECKey

from idp_connectors.evidence import Person
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode, UpstreamLogin
from idp_connectors.workforce.oidc import OidcProvider
from outbound.fetcher import FetchError
from tests.idp_connectors.openid import IDP, NOW, MemoryIdp, signed_with

pytestmark = pytest.mark.anyio

CAROL = Person(
    identity_provider="partner",
    issuer=IDP,
    subject="carol",
    name="Carol",
    groups=("partner/partners",),
    acr="phr",
    auth_time=NOW - 3600,
)


def kept(idp: MemoryIdp, person: str = "carol") -> bytes:
    """A refresh token the provider gave for this person."""
    idp.refresh_tokens["kept"] = {"person": person}
    return b"kept"


def ended(answer: object) -> LoginFailure:
    assert isinstance(answer, LoginFailure), answer
    return answer


# --- asked again ---


async def test_person_asked_about_again_has_todays_groups_and_the_login_of_then(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.people["carol"]["groups"] = ["staff"]
    answer = await provider.revalidate(CAROL, kept(idp), NOW)
    assert isinstance(answer, UpstreamLogin)
    assert answer.person.groups == ("partner/staff",)
    assert (answer.person.acr, answer.person.auth_time) == ("phr", NOW - 3600)
    assert answer.upstream not in (None, b"kept")


async def test_refresh_token_that_is_not_replaced_stays_good(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.token_changes = {"refresh_token": None}
    answer = await provider.revalidate(CAROL, kept(idp), NOW)
    assert isinstance(answer, UpstreamLogin)
    assert answer.upstream == b"kept"


async def test_person_without_refresh_token_stays_who_they_are(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    assert await provider.revalidate(CAROL, None, NOW) == CAROL
    assert idp.asked == []


async def test_person_disabled_there_is_ended(provider: OidcProvider, idp: MemoryIdp) -> None:
    idp.people["carol"]["disabled"] = True
    failure = ended(await provider.revalidate(CAROL, kept(idp), NOW))
    assert failure.code is LoginFailureCode.ENDED
    assert failure.detail == "refresh: token endpoint: invalid_grant"


async def test_used_refresh_token_is_ended(provider: OidcProvider, idp: MemoryIdp) -> None:
    token = kept(idp)
    assert isinstance(await provider.revalidate(CAROL, token, NOW), UpstreamLogin)
    assert ended(await provider.revalidate(CAROL, token, NOW)).code is LoginFailureCode.ENDED


async def test_answer_about_another_person_is_ended(provider: OidcProvider, idp: MemoryIdp) -> None:
    failure = ended(await provider.revalidate(CAROL, kept(idp, "dave"), NOW))
    assert failure.code is LoginFailureCode.ENDED


async def test_provider_that_cannot_be_asked_says_nothing(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.failure = FetchError("unreachable")
    failure = ended(await provider.revalidate(CAROL, kept(idp), NOW))
    assert failure.code is LoginFailureCode.UNAVAILABLE


async def test_refresh_without_id_token_asks_userinfo(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.token_changes = {"id_token": None}
    idp.people["carol"]["groups"] = ["partners"]
    answer = await provider.revalidate(CAROL, kept(idp), NOW)
    assert isinstance(answer, UpstreamLogin)
    assert answer.person.groups == ("partner/partners",)
    idp.userinfo_changes = {"sub": "dave"}
    assert ended(await provider.revalidate(CAROL, kept(idp), NOW)).detail == (
        "userinfo: another subject"
    )


async def test_refresh_with_a_forged_id_token_is_refused(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    stranger = ECKey.generate_key("P-256")
    idp.token_changes = {"id_token": signed_with(stranger, {"iss": IDP, "sub": "carol"})}
    failure = ended(await provider.revalidate(CAROL, kept(idp), NOW))
    assert failure.code is LoginFailureCode.INVALID_RESPONSE
