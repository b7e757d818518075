"""Tokens of an OpenID provider that somebody else presents: for whom they speak, and for whom not.

Every refusal stands beside what is accepted but for that one thing.
"""

import dataclasses
from typing import Any

import pytest

from idp_connectors.workforce.keycloak import KeycloakProvider, KeycloakSettings
from idp_connectors.workforce.login import PersonToken, VerifiesPersonTokens
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.parts import WorkforceParts
from outbound.fetcher import FetchError
from tests.idp_connectors.openid import (
    CLIENT_ID,
    IDP,
    NOW,
    MemoryIdp,
    provider_of,
    signed_with,
)
from tests.idp_connectors.samples import ISSUER
from token_exchange.claims import Refusal
from token_exchange.token_types import (
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_ID_TOKEN,
    TOKEN_TYPE_JWT,
)

pytestmark = pytest.mark.anyio

CLIENTS = ("agent-app", "agent-web")
REALM = f"{IDP}/realms/corp"


def access_token(idp: MemoryIdp, *, header: str = "at+jwt", **changes: Any) -> str:
    claims = {
        "iss": idp.issuer,
        "sub": "carol",
        "aud": ISSUER,
        "iat": NOW,
        "exp": NOW + 300,
        "auth_time": NOW - 10,
        "jti": "j1",
        "client_id": "agent-app",
        "groups": ["partners"],
        "sid": "session-1",
    } | changes
    shown = {name: value for name, value in claims.items() if value is not None}
    return signed_with(idp.key, shown, typ=header)


async def judged(
    provider: VerifiesPersonTokens,
    token: str,
    token_type: str = TOKEN_TYPE_ID_TOKEN,
    age: int = 300,
) -> PersonToken | Refusal:
    return await provider.verify_person_token(token, token_type, CLIENTS, age, NOW)


async def accepted(
    provider: VerifiesPersonTokens, token: str, token_type: str = TOKEN_TYPE_ID_TOKEN
) -> PersonToken:
    answer = await judged(provider, token, token_type)
    assert isinstance(answer, PersonToken), answer
    return answer


def rule_of(answer: PersonToken | Refusal) -> str:
    assert isinstance(answer, Refusal), answer
    return answer.rule


# --- ID tokens ---


@pytest.mark.requirement("attack-29")
async def test_id_token_of_a_listed_client_is_the_person(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    token = idp.id_token(aud="agent-app", sid="session-1", email="admin@elsewhere.example")
    found = await accepted(provider, token)
    person = found.person
    assert (person.identity_provider, person.issuer, person.subject) == ("partner", IDP, "carol")
    assert person.groups == ("partner/partners", "partner/staff")
    assert dataclasses.replace(found, person=person) == PersonToken(
        person, "agent-app", NOW, NOW + 300, 30, "session-1"
    )
    assert "elsewhere" not in repr(person)


@pytest.mark.requirement("OIDC-CORE-3.1.3.7")
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["agent-app"]},
        {"aud": "agent-app", "azp": "agent-app"},
        {"aud": "agent-web", "azp": "agent-app"},
        {"aud": ["agent-app", "agent-web"], "azp": "agent-web"},
        {"aud": "agent-app", "at_hash": "x", "c_hash": "y", "nonce": "n"},
        {"aud": "agent-app", "iat": NOW - 300},
        {"aud": "agent-app", "sid": "s" * 512},
        {"aud": "agent-app", "iat": NOW + 30},
        {"aud": "agent-app", "auth_time": NOW - 28_830},
        {"aud": "agent-app", "typ": "ID"},
        {"aud": "agent-app", "token_use": "id"},
    ],
    ids=str,
)
async def test_id_token_for_listed_clients_alone_is_accepted(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any]
) -> None:
    assert (await accepted(provider, idp.id_token(**changes))).person.subject == "carol"


@pytest.mark.requirement("attack-6")
@pytest.mark.requirement("OIDC-CORE-3.1.3.7")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": "other-app"}, "person_token.audience"),
        ({"aud": CLIENT_ID}, "person_token.audience"),
        ({"aud": ISSUER}, "person_token.audience"),
        ({"aud": ["agent-app", "other-app"], "azp": "agent-app"}, "person_token.audience"),
        ({"aud": ["agent-app", "agent-web"]}, "person_token.party"),
        ({"aud": ["agent-app", "agent-web"], "azp": "other-app"}, "person_token.party"),
        ({"aud": "agent-app", "azp": "other-app"}, "person_token.party"),
        ({"aud": "agent-app", "azp": ["agent-app"]}, "person_token.claim"),
        ({"aud": []}, "person_token.claim"),
        ({"aud": "agent-app", "iat": NOW - 301}, "person_token.age"),
        ({"aud": "agent-app", "auth_time": NOW - 28_831}, "person_token.login_age"),
        ({"aud": "agent-app", "auth_time": NOW + 31}, "person_token.login_age"),
        ({"aud": "agent-app", "auth_time": None}, "person_token.login_age"),
        ({"aud": "agent-app", "exp": NOW - 30}, "person_token.expired"),
        ({"aud": "agent-app", "exp": float(NOW + 300)}, "person_token.claim"),
        ({"aud": "agent-app", "exp": None}, "person_token.claim"),
        ({"aud": "agent-app", "iat": None}, "person_token.claim"),
        ({"aud": "agent-app", "nbf": NOW + 60}, "person_token.future"),
        ({"aud": "agent-app", "iss": "https://evil.example"}, "person_token.issuer"),
        ({"aud": "agent-app", "sub": ""}, "person_token.claim"),
        ({"aud": "agent-app", "groups": "all"}, "person_token.claim"),
        ({"aud": "agent-app", "nonce": 7}, "person_token.claim"),
        ({"aud": "agent-app", "at_hash": 7}, "person_token.claim"),
        ({"aud": "agent-app", "sid": {}}, "person_token.claim"),
        ({"aud": "agent-app", "sid": ""}, "person_token.claim"),
        ({"aud": "agent-app", "sid": "s" * 513}, "person_token.claim"),
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


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"typ": "Bearer"}, "person_token.claim"),
        ({"typ": "Refresh"}, "person_token.claim"),
        ({"typ": "Offline"}, "person_token.claim"),
        ({"typ": "Logout"}, "person_token.claim"),
        ({"typ": "id"}, "person_token.claim"),
        ({"typ": 1}, "person_token.claim"),
        ({"token_use": "access"}, "person_token.kind"),
        ({"scope": "openid"}, "person_token.kind"),
        ({"scp": ["openid"]}, "person_token.kind"),
        ({"client_id": "agent-app"}, "person_token.kind"),
        ({"cid": "agent-app"}, "person_token.kind"),
        ({"events": {}}, "person_token.kind"),
    ],
    ids=str,
)
async def test_token_of_another_kind_for_a_listed_client_is_no_id_token(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any], rule: str
) -> None:
    """An access token whose audience is the client, as some providers make them."""
    token = idp.id_token(aud="agent-app", **changes)
    assert rule_of(await judged(provider, token)) == rule


@pytest.mark.requirement("attack-6")
async def test_token_is_what_its_own_typ_says_whatever_it_is_presented_as(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    id_token = idp.id_token(aud="agent-app", jti="j1", client_id="agent-app")
    both = access_token(idp, aud=[ISSUER, "agent-app"], azp="agent-app")
    assert rule_of(await judged(provider, id_token, TOKEN_TYPE_ACCESS_TOKEN)) == "jwt.type"
    assert rule_of(await judged(provider, both, TOKEN_TYPE_ID_TOKEN)) == "jwt.type"
    for other in (TOKEN_TYPE_JWT, "urn:ietf:params:oauth:token-type:refresh_token", ""):
        assert rule_of(await judged(provider, id_token, other)) == "person_token.kind"


async def test_what_a_token_says_is_believed_no_longer_than_at_a_login(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    hasty = provider_of(workforce, claims_seconds=60)
    token = idp.id_token(aud="agent-app", iat=NOW - 10)
    assert (await accepted(hasty, token)).expires_at == NOW + 50
    ends_before = idp.id_token(aud="agent-app", exp=NOW + 20)
    assert (await accepted(hasty, ends_before)).expires_at == NOW + 20


async def test_age_of_the_login_counts_only_where_the_operator_bounds_it(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    anybody = provider_of(workforce, maximum_login_age_seconds=None)
    await accepted(anybody, idp.id_token(aud="agent-app", auth_time=None))
    recent = provider_of(workforce, maximum_login_age_seconds=60)
    await accepted(recent, idp.id_token(aud="agent-app", auth_time=NOW - 90))
    late = idp.id_token(aud="agent-app", auth_time=NOW - 91)
    assert rule_of(await judged(recent, late)) == "person_token.login_age"


# --- access tokens ---


async def test_access_token_for_us_of_a_listed_client_is_the_person(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    for changes in ({}, {"aud": ["https://api.example.com", ISSUER]}, {"azp": "agent-web"}):
        found = await accepted(provider, access_token(idp, **changes), TOKEN_TYPE_ACCESS_TOKEN)
        assert found.person.groups == ("partner/partners",)
        assert (found.client_id, found.upstream_session) == ("agent-app", "session-1")


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": "https://api.example.com"}, "person_token.audience"),
        ({"aud": ["https://api.example.com"]}, "person_token.audience"),
        ({"aud": "agent-app"}, "person_token.audience"),
        ({"aud": f"{ISSUER}/"}, "person_token.audience"),
        ({"client_id": "other-app"}, "person_token.party"),
        ({"azp": "other-app"}, "person_token.party"),
        ({"client_id": "other-app", "azp": "agent-app"}, "person_token.party"),
        ({"client_id": None}, "person_token.claim"),
        ({"client_id": None, "azp": "agent-app"}, "person_token.claim"),
        ({"jti": None}, "person_token.claim"),
        ({"cnf": {"jkt": "x"}}, "person_token.bound"),
        ({"iat": NOW - 301}, "person_token.age"),
        ({"auth_time": None}, "person_token.login_age"),
    ],
    ids=str,
)
async def test_access_token_that_is_not_for_us_is_refused(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any], rule: str
) -> None:
    token = access_token(idp, **changes)
    assert rule_of(await judged(provider, token, TOKEN_TYPE_ACCESS_TOKEN)) == rule


# --- Keycloak ---


@pytest.fixture
def idp(request: pytest.FixtureRequest) -> MemoryIdp:
    return MemoryIdp(REALM if "keycloak" in request.fixturenames else IDP)


@pytest.fixture
def keycloak(workforce: WorkforceParts, idp: MemoryIdp) -> KeycloakProvider:
    idp.people["carol"]["groups"] = ["/partners"]
    settings = KeycloakSettings.model_validate({"issuer": REALM, "client_id": CLIENT_ID})
    return KeycloakProvider("keycloak", settings, ("*",), workforce)


def keycloak_access_token(idp: MemoryIdp, *, header: str = "JWT", **changes: Any) -> str:
    """As Keycloak makes them: the kind in the payload, the client in `azp`."""
    claims = {"typ": "Bearer", "azp": "agent-app", "client_id": None, "groups": ["/partners"]}
    return access_token(idp, header=header, **(claims | {"scope": "openid profile"} | changes))


@pytest.mark.requirement("attack-6")
async def test_keycloaks_tokens_are_what_their_payload_says(
    keycloak: KeycloakProvider, idp: MemoryIdp
) -> None:
    id_token = idp.id_token(aud="agent-app", azp="agent-app", typ="ID", jti="j1")
    found = await accepted(keycloak, id_token)
    assert found.person.groups == ("keycloak/partners",)
    for header in ("JWT", "at+jwt"):
        token = keycloak_access_token(idp, header=header)
        found = await accepted(keycloak, token, TOKEN_TYPE_ACCESS_TOKEN)
        assert found.client_id == "agent-app"
    # The known hole: an access token whose audience is the client passed as its ID token.
    hole = keycloak_access_token(idp, aud="agent-app", scope=None)
    assert rule_of(await judged(keycloak, hole)) == "person_token.claim"
    as_access = idp.id_token(aud=ISSUER, azp="agent-app", typ="ID", jti="j1", groups=["/partners"])
    assert rule_of(await judged(keycloak, as_access, TOKEN_TYPE_ACCESS_TOKEN)) == (
        "person_token.claim"
    )


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"typ": None}, "person_token.claim"),
        ({"typ": "Refresh"}, "person_token.claim"),
        ({"typ": "DPoP", "cnf": {"jkt": "x"}}, "person_token.claim"),
        ({"azp": None}, "person_token.claim"),
        ({"azp": "other-app"}, "person_token.party"),
        ({"client_id": "other-app"}, "person_token.party"),
        ({"aud": "account"}, "person_token.audience"),
        ({"aud": "agent-app"}, "person_token.audience"),
        ({"groups": ["partners"]}, "person_token.claim"),
    ],
    ids=str,
)
async def test_keycloaks_access_token_that_is_not_for_us_is_refused(
    keycloak: KeycloakProvider, idp: MemoryIdp, changes: dict[str, Any], rule: str
) -> None:
    token = keycloak_access_token(idp, **changes)
    assert rule_of(await judged(keycloak, token, TOKEN_TYPE_ACCESS_TOKEN)) == rule


# --- both ---


async def test_token_of_a_weak_login_is_refused(workforce: WorkforceParts, idp: MemoryIdp) -> None:
    strict = provider_of(workforce, acr_values=["phr"])
    assert rule_of(await judged(strict, idp.id_token(aud="agent-app"))) == "person_token.acr"
    strong = await accepted(strict, idp.id_token(aud="agent-app", acr="phr"))
    assert strong.person.acr == "phr"


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


@pytest.mark.requirement("attack-1")
async def test_unsigned_and_symmetric_tokens_are_refused_and_nothing_fetched(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    claims = {"iss": IDP, "sub": "carol", "aud": "agent-app", "iat": NOW, "exp": NOW + 300}
    unsigned = signed_with(idp.key, claims, algorithm="none")
    assert rule_of(await judged(provider, unsigned)) == "person_token.algorithm"
    assert idp.asked == []
