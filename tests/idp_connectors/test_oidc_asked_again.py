"""Asking an OpenID provider about a person again, and judging tokens others present."""

import dataclasses
from typing import Any

import pytest
from joserfc.jwk import ECKey

from idp_connectors.evidence import Person
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode, UpstreamLogin
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.parts import WorkforceParts
from outbound.fetcher import FetchError
from tests.idp_connectors.openid import IDP, NOW, MemoryIdp, provider_of, signed_with
from tests.idp_connectors.samples import ISSUER
from token_exchange.claims import Refusal
from token_exchange.token_types import (
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_ID_TOKEN,
    TOKEN_TYPE_JWT,
)

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
CLIENTS = ("agent-app",)


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


# --- tokens others present ---


def access_token(idp: MemoryIdp, **changes: Any) -> str:
    claims = {
        "iss": IDP,
        "sub": "carol",
        "aud": ISSUER,
        "iat": NOW,
        "exp": NOW + 300,
        "jti": "j1",
        "client_id": "agent-app",
        "groups": ["partners"],
    } | changes
    shown = {name: value for name, value in claims.items() if value is not None}
    return signed_with(idp.key, shown, typ="at+jwt")


async def judged(
    provider: OidcProvider, token: str, token_type: str = TOKEN_TYPE_ID_TOKEN, age: int = 300
) -> Person | Refusal:
    return await provider.verify_person_token(token, token_type, CLIENTS, age, NOW)


def rule_of(answer: Person | Refusal) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.rule


async def test_id_token_of_a_listed_client_is_the_person(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    person = await judged(provider, idp.id_token(aud="agent-app"))
    assert isinstance(person, Person)
    assert (person.issuer, person.subject) == (IDP, "carol")
    assert person.groups == ("partner/partners", "partner/staff")


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": "other-app"}, "person_token.audience"),
        ({"aud": "countersign"}, "person_token.audience"),
        ({"aud": ["agent-app", "other-app"]}, "person_token.party"),
        ({"aud": "agent-app", "azp": "other-app"}, "person_token.party"),
        ({"aud": "agent-app", "iat": NOW - 301}, "person_token.age"),
        ({"aud": "agent-app", "exp": NOW - 30}, "person_token.expired"),
        ({"aud": "agent-app", "nbf": NOW + 60}, "person_token.future"),
        ({"aud": "agent-app", "iss": "https://evil.example"}, "person_token.issuer"),
        ({"aud": "agent-app", "sub": ""}, "person_token.claim"),
        ({"aud": "agent-app", "groups": "all"}, "person_token.claim"),
        ({"aud": "agent-app", "cnf": {"jkt": "x"}}, "person_token.bound"),
    ],
    ids=str,
)
async def test_id_token_that_does_not_speak_for_the_person_here_is_refused(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any], rule: str
) -> None:
    answer = await judged(provider, idp.id_token(**changes))
    assert rule_of(answer) == rule
    assert isinstance(answer, Refusal)
    assert answer.code == "invalid_request"


async def test_access_token_for_us_of_a_listed_client_is_the_person(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    person = await judged(provider, access_token(idp), TOKEN_TYPE_ACCESS_TOKEN)
    assert isinstance(person, Person)
    assert person.groups == ("partner/partners",)


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": "https://api.example.com"}, "person_token.audience"),
        ({"aud": ["https://api.example.com"]}, "person_token.audience"),
        ({"client_id": "other-app"}, "person_token.party"),
        ({"client_id": None}, "person_token.claim"),
        ({"jti": None}, "person_token.claim"),
        ({"cnf": {"jkt": "x"}}, "person_token.bound"),
        ({"iat": NOW - 301}, "person_token.age"),
    ],
    ids=str,
)
async def test_access_token_that_is_not_for_us_is_refused(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any], rule: str
) -> None:
    token = access_token(idp, **changes)
    assert rule_of(await judged(provider, token, TOKEN_TYPE_ACCESS_TOKEN)) == rule


@pytest.mark.requirement("attack-6")
async def test_token_is_what_its_own_typ_says_whatever_it_is_presented_as(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    id_token = idp.id_token(aud="agent-app", jti="j1", client_id="agent-app")
    both = access_token(idp, aud=[ISSUER, "agent-app"], azp="agent-app")
    assert rule_of(await judged(provider, id_token, TOKEN_TYPE_ACCESS_TOKEN)) == "jwt.type"
    assert rule_of(await judged(provider, both, TOKEN_TYPE_ID_TOKEN)) == "jwt.type"
    assert rule_of(await judged(provider, id_token, TOKEN_TYPE_JWT)) == "person_token.kind"


async def test_token_of_a_weak_login_is_refused(workforce: WorkforceParts, idp: MemoryIdp) -> None:
    strict = provider_of(workforce, acr_values=["phr"])
    assert rule_of(await judged(strict, idp.id_token(aud="agent-app"))) == "person_token.acr"
    strong = await judged(strict, idp.id_token(aud="agent-app", acr="phr"))
    assert isinstance(strong, Person)
    assert strong == dataclasses.replace(strong, acr="phr")


async def test_token_while_the_provider_is_down_is_refused_for_now(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    token = idp.id_token(aud="agent-app")
    idp.failure = FetchError("unreachable")
    answer = await judged(provider, token)
    assert isinstance(answer, Refusal)
    assert answer.code == "temporarily_unavailable"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30.AA"])
async def test_text_that_is_no_token_is_refused_and_nothing_fetched(
    provider: OidcProvider, idp: MemoryIdp, token: str
) -> None:
    assert isinstance(await judged(provider, token), Refusal)
    assert idp.asked == []
