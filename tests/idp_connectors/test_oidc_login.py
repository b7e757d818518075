"""A login at an OpenID provider, judged by the connector: one thing wrong at a time."""

import dataclasses
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from idp_connectors.workforce.login import (
    AuthorizationRequest,
    LoginAttempt,
    LoginFailure,
    LoginFailureCode,
    RedirectLogin,
    Revalidates,
    UpstreamLogin,
    VerifiesPersonTokens,
)
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.parts import WorkforceParts
from outbound.fetcher import FetchError
from tests.idp_connectors.openid import (
    IDP,
    NOW,
    Key,
    MemoryIdp,
    provider_of,
    signed_with,
)

pytestmark = pytest.mark.anyio

ATTEMPT = LoginAttempt(
    redirect_uri="https://as.example.com/oauth/callback/partner",
    state="s" * 43,
    nonce="n" * 43,
    code_verifier="v" * 43,
    login_not_before=0,
    must_log_in=False,
)


async def url_of(provider: OidcProvider, attempt: LoginAttempt = ATTEMPT) -> str:
    there = await provider.begin(attempt, NOW)
    assert isinstance(there, AuthorizationRequest), there
    return there.url


async def log_in(
    provider: OidcProvider,
    idp: MemoryIdp,
    person: str = "carol",
    attempt: LoginAttempt = ATTEMPT,
    **changes: str | None,
) -> UpstreamLogin | LoginFailure:
    back = idp.answer(await url_of(provider, attempt), person, **changes)
    return await provider.finish(attempt, query_of(back), NOW)


def query_of(url: str) -> Mapping[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def failure_of(login: object) -> LoginFailure:
    assert isinstance(login, LoginFailure), login
    return login


def test_connector_has_every_capability(provider: OidcProvider) -> None:
    assert isinstance(provider, RedirectLogin)
    assert isinstance(provider, Revalidates)
    assert isinstance(provider, VerifiesPersonTokens)


async def test_login_yields_the_person_and_the_state_to_ask_again(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    login = await log_in(provider, idp)
    assert isinstance(login, UpstreamLogin)
    person = login.person
    assert (person.identity_provider, person.issuer, person.subject) == ("partner", IDP, "carol")
    assert person.groups == ("partner/partners", "partner/staff")
    assert (person.name, person.acr, person.auth_time) == ("Carol Partner", "unspecified", NOW - 10)
    assert login.upstream is not None
    assert login.upstream.decode() in idp.refresh_tokens
    assert login.claims_seconds == 900


async def test_request_asks_for_what_was_configured(workforce: WorkforceParts) -> None:
    provider = provider_of(workforce, acr_values=["phr"], scopes=["openid", "groups"])
    attempt = dataclasses.replace(ATTEMPT, must_log_in=True, login_not_before=NOW - 60)
    query = query_of(await url_of(provider, attempt))
    assert query["scope"] == "openid groups"
    assert query["acr_values"] == "phr"
    assert query["prompt"] == "login"
    assert query["max_age"] == "60"
    assert query["redirect_uri"] == ATTEMPT.redirect_uri
    assert "v" * 43 not in str(query)


async def test_endpoint_with_a_query_keeps_it(provider: OidcProvider, idp: MemoryIdp) -> None:
    idp.metadata_changes = {"authorization_endpoint": f"{IDP}/auth?tenant=1"}
    assert query_of(await url_of(provider))["tenant"] == "1"


@pytest.mark.parametrize("authentication", ["basic", "post"])
async def test_client_secret_is_sent_where_the_operator_says(
    workforce: WorkforceParts, idp: MemoryIdp, authentication: str
) -> None:
    provider = provider_of(workforce, client_authentication=authentication)
    assert isinstance(await log_in(provider, idp), UpstreamLogin)


@pytest.mark.requirement("attack-11", "RFC9207-2.4")
@pytest.mark.parametrize("issuer", ["https://evil.example", f"{IDP}/", ""])
async def test_response_of_another_issuer_reaches_no_token_endpoint(
    provider: OidcProvider, idp: MemoryIdp, issuer: str
) -> None:
    failure = failure_of(await log_in(provider, idp, iss=issuer or None))
    assert failure.code is LoginFailureCode.INVALID_RESPONSE
    assert f"{IDP}/token" not in idp.asked


async def test_response_without_iss_is_accepted_of_a_provider_that_promised_none(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.metadata_changes = {"authorization_response_iss_parameter_supported": False}
    assert isinstance(await log_in(provider, idp, iss=None), UpstreamLogin)


@pytest.mark.requirement("attack-11")
async def test_error_of_another_issuer_is_no_refusal_of_this_one(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    evil = "https://evil.example"
    failure = failure_of(await log_in(provider, idp, code=None, error="access_denied", iss=evil))
    assert failure.code is LoginFailureCode.INVALID_RESPONSE


@pytest.mark.parametrize(
    ("error", "detail"),
    [("access_denied", "access_denied"), ("x\u200b<script>" * 9, "unreadable")],
)
async def test_error_of_the_provider_is_a_refusal_with_its_code_for_the_audit(
    provider: OidcProvider, idp: MemoryIdp, error: str, detail: str
) -> None:
    failure = failure_of(await log_in(provider, idp, code=None, error=error))
    assert failure.code is LoginFailureCode.REFUSED
    assert failure.detail == f"the provider answered {detail}"
    assert error not in failure.description


@pytest.mark.parametrize("code", [None, "c" * 4097])
async def test_response_without_a_usable_code_is_refused(
    provider: OidcProvider, idp: MemoryIdp, code: str | None
) -> None:
    failure = failure_of(await log_in(provider, idp, code=code))
    assert failure.code is LoginFailureCode.INVALID_RESPONSE


async def test_code_with_another_verifier_is_refused_there(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    back = idp.answer(await url_of(provider))
    other = dataclasses.replace(ATTEMPT, code_verifier="w" * 43)
    failure = failure_of(await provider.finish(other, query_of(back), NOW))
    assert failure.detail == "code: token endpoint: invalid_grant"


WRONG_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://evil.example"},
    {"aud": "other-app"},
    {"aud": ["countersign", "other-app"]},
    {"aud": []},
    {"aud": None},
    {"azp": "other-app"},
    {"sub": None},
    {"sub": ""},
    {"sub": 7},
    {"sub": "x" * 256},
    {"sub": "car\u00f6l"},
    {"nonce": None},
    {"nonce": "m" * 43},
    {"nonce": 7},
    {"exp": None},
    {"exp": NOW - 30},
    {"exp": float(NOW + 300)},
    {"exp": str(NOW + 300)},
    {"exp": True},
    {"iat": None},
    {"iat": NOW + 31},
    {"nbf": NOW + 31},
    {"auth_time": None},
    {"auth_time": NOW + 31},
    {"auth_time": NOW - 28_831},
    {"auth_time": "yesterday"},
    {"acr": 1},
    {"groups": "partners"},
    {"groups": [1]},
    {"groups": [f"g{number}" for number in range(257)]},
]


@pytest.mark.requirement("attack-6", "attack-11")
@pytest.mark.parametrize("changes", WRONG_CLAIMS, ids=str)
async def test_id_token_with_one_wrong_claim_is_refused(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any]
) -> None:
    idp.claim_changes = changes
    failure = failure_of(await log_in(provider, idp))
    assert failure.code is LoginFailureCode.INVALID_RESPONSE
    assert "eyJ" not in failure.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["countersign"]},
        {"aud": ["countersign", "other-app"], "azp": "countersign"},
        {"azp": "countersign"},
        {"exp": NOW - 29},
        {"iat": NOW + 30},
        {"groups": None},
        {"groups": []},
        {"unknown": {"deep": [1]}},
        {"email_verified": "yes"},
    ],
    ids=str,
)
async def test_id_token_with_other_acceptable_claims_is_accepted(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any]
) -> None:
    idp.claim_changes = changes
    assert isinstance(await log_in(provider, idp), UpstreamLogin)


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize(
    "header",
    [
        {"typ": "at+jwt"},
        {"typ": "logout+jwt"},
        {"typ": ["JWT"]},
        {"kid": None},
        {"kid": "../../etc/passwd"},
        {"kid": "https://evil.example/keys"},
        {"jku": "https://evil.example/keys"},
        {"jwk": {"kty": "oct", "k": "AA"}},
        {"x5u": "https://evil.example/cert"},
        {"crit": ["exp"]},
        {"b64": False},
    ],
    ids=str,
)
async def test_id_token_with_another_kind_of_header_is_refused_and_nothing_is_fetched(
    provider: OidcProvider, idp: MemoryIdp, header: dict[str, Any]
) -> None:
    idp.header_changes = header
    assert failure_of(await log_in(provider, idp)).code is LoginFailureCode.INVALID_RESPONSE
    assert not [url for url in idp.asked if not url.startswith(IDP)]


async def test_id_token_without_typ_is_accepted(provider: OidcProvider, idp: MemoryIdp) -> None:
    idp.header_changes = {"typ": None}
    assert isinstance(await log_in(provider, idp), UpstreamLogin)


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES384", "RS512"])
async def test_id_token_of_an_algorithm_that_is_not_listed_meets_no_key(
    provider: OidcProvider, idp: MemoryIdp, algorithm: str
) -> None:
    await url_of(provider)
    public = OctKey.import_key(str(idp.key.as_dict(private=False)))
    keys: dict[str, Key] = {
        "HS256": public,
        "ES384": ECKey.generate_key("P-384"),
        "RS512": RSAKey.generate_key(2048),
    }
    claims = {"iss": IDP, "sub": "carol", "aud": "countersign", "iat": NOW, "exp": NOW + 300}
    forged = signed_with(keys.get(algorithm, public), claims, algorithm=algorithm)
    idp.token_changes = {"id_token": forged}
    failure = failure_of(await log_in(provider, idp))
    assert "person_token.algorithm" in failure.detail
    assert f"{IDP}/keys" not in idp.asked


@pytest.mark.requirement("attack-1")
async def test_id_token_by_a_stranger_with_the_providers_kid_is_refused(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.token_changes = {"id_token": signed_with(ECKey.generate_key("P-256"), {"iss": IDP})}
    assert "jwt.signature" in failure_of(await log_in(provider, idp)).detail


async def test_id_token_by_rs256_is_accepted(provider: OidcProvider, idp: MemoryIdp) -> None:
    idp.key = RSAKey.generate_key(2048)
    idp.header_changes = {"algorithm": "RS256"}
    assert isinstance(await log_in(provider, idp), UpstreamLogin)


@pytest.mark.requirement("attack-30")
async def test_very_long_id_token_is_refused_unread(provider: OidcProvider, idp: MemoryIdp) -> None:
    idp.token_changes = {"id_token": "x" * 16_385}
    assert (
        failure_of(await log_in(provider, idp)).detail
        == "code: token endpoint: a token is no token"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"id_token": None},
        {"id_token": 7},
        {"access_token": None},
        {"token_type": "DPoP"},
        {"token_type": None},
        {"refresh_token": "a\nb"},
    ],
    ids=str,
)
async def test_token_answer_with_something_missing_is_refused(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any]
) -> None:
    idp.token_changes = changes
    assert failure_of(await log_in(provider, idp)).code is LoginFailureCode.INVALID_RESPONSE


async def test_person_without_refresh_token_has_nothing_to_ask_again_with(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.token_changes = {"refresh_token": None}
    login = await log_in(provider, idp)
    assert isinstance(login, UpstreamLogin)
    assert login.upstream is None


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": "invalid_grant"}, LoginFailureCode.ENDED),
        (401, {"error": "invalid_client"}, LoginFailureCode.UNAVAILABLE),
        (400, {}, LoginFailureCode.UNAVAILABLE),
        (500, {}, LoginFailureCode.UNAVAILABLE),
        (429, {}, LoginFailureCode.UNAVAILABLE),
        (201, {}, LoginFailureCode.UNAVAILABLE),
    ],
)
async def test_error_of_the_token_endpoint_is_a_failure(
    provider: OidcProvider,
    idp: MemoryIdp,
    status: int,
    body: dict[str, Any],
    code: LoginFailureCode,
) -> None:
    idp.token_status = (status, body)
    assert failure_of(await log_in(provider, idp)).code is code


async def test_provider_that_is_down_is_unavailable_there_and_back(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    url = await url_of(provider)
    idp.failure = FetchError("timeout")
    failure = failure_of(await provider.finish(ATTEMPT, query_of(idp.answer(url)), NOW))
    assert failure.code is LoginFailureCode.UNAVAILABLE


async def test_provider_that_was_never_reached_cannot_be_begun_with(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    idp.failure = FetchError("address_refused")
    failure = failure_of(await provider.begin(ATTEMPT, NOW))
    assert failure.code is LoginFailureCode.UNAVAILABLE
    assert (
        failure.detail
        == "metadata: address_refused: not to be had; asked again after the cool-down"
    )


@pytest.mark.requirement("RFC8414-3.3")
@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": None},
        {"jwks_uri": "http://idp.example.com/keys"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://user@idp.example.com/"},
        {"userinfo_endpoint": "file:///etc/passwd"},
    ],
    ids=str,
)
async def test_metadata_that_cannot_be_right_begins_no_login(
    provider: OidcProvider, idp: MemoryIdp, changes: dict[str, Any]
) -> None:
    idp.metadata_changes = changes
    assert failure_of(await provider.begin(ATTEMPT, NOW)).code is LoginFailureCode.UNAVAILABLE


async def test_missing_client_secret_is_named_in_the_audit_only(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    provider = provider_of(workforce, client_secret="absent")
    failure = failure_of(await log_in(provider, idp))
    assert failure.code is LoginFailureCode.UNAVAILABLE
    assert failure.detail == "code: client secret absent: there is no secret absent"
    assert "absent" not in failure.description


@pytest.mark.requirement("attack-29")
async def test_person_is_found_by_issuer_and_subject_whatever_their_address(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    shared = {"email": "shared@partner.example", "email_verified": True, "name": "Same Name"}
    idp.claim_changes = shared
    one, two = await log_in(provider, idp, "carol"), await log_in(provider, idp, "dave")
    assert isinstance(one, UpstreamLogin)
    assert isinstance(two, UpstreamLogin)
    assert one.person.subject != two.person.subject
    assert "shared@partner.example" not in repr(one.person)


async def test_groups_are_prefixed_and_cut_to_what_the_object_may_assert(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    idp.people["carol"]["groups"] = ["staff", "admins", "local/admins", "/path", "staff"]
    login = await log_in(provider_of(workforce, ("staff", "local/admins")), idp)
    assert isinstance(login, UpstreamLogin)
    assert login.person.groups == ("partner/staff", "partner/local/admins")


async def test_groups_come_from_the_claim_the_operator_names(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    idp.claim_changes = {"roles": ["auditor"]}
    login = await log_in(provider_of(workforce, groups_claim="roles"), idp)
    assert isinstance(login, UpstreamLogin)
    assert login.person.groups == ("partner/auditor",)
    none = await log_in(provider_of(workforce, groups_claim=None), idp)
    assert isinstance(none, UpstreamLogin)
    assert none.person.groups == ()


async def test_acr_that_was_asked_for_is_required(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    provider = provider_of(workforce, acr_values=["phr", "phrh"])
    assert "acr" in failure_of(await log_in(provider, idp)).detail
    idp.claim_changes = {"acr": "pwd"}
    assert "acr" in failure_of(await log_in(provider, idp)).detail
    idp.claim_changes = {"acr": "phrh"}
    login = await log_in(provider, idp)
    assert isinstance(login, UpstreamLogin)
    assert login.person.acr == "phrh"


async def test_login_older_than_the_request_asks_for_is_refused(
    provider: OidcProvider, idp: MemoryIdp
) -> None:
    fresh = dataclasses.replace(ATTEMPT, must_log_in=True, login_not_before=NOW - 5)
    assert "older" in failure_of(await log_in(provider, idp, attempt=fresh)).detail
    idp.claim_changes = {"auth_time": NOW - 5}
    assert isinstance(await log_in(provider, idp, attempt=fresh), UpstreamLogin)


async def test_auth_time_that_nobody_asked_for_and_nobody_said_is_the_oldest_there_is(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    provider = provider_of(workforce, maximum_login_age_seconds=None)
    assert "max_age" not in query_of(await url_of(provider))
    idp.claim_changes = {"auth_time": None}
    login = await log_in(provider, idp)
    assert isinstance(login, UpstreamLogin)
    assert login.person.auth_time == 0


async def test_userinfo_adds_name_and_groups_of_the_same_subject_only(
    workforce: WorkforceParts, idp: MemoryIdp
) -> None:
    provider = provider_of(workforce, userinfo=True)
    idp.claim_changes = {"groups": None, "name": None}
    idp.userinfo_changes = {"acr": "phr", "auth_time": NOW}
    login = await log_in(provider, idp)
    assert isinstance(login, UpstreamLogin)
    assert login.person.groups == ("partner/partners", "partner/staff")
    assert (login.person.acr, login.person.auth_time) == ("unspecified", NOW - 10)
    idp.userinfo_changes = {"sub": "dave"}
    assert failure_of(await log_in(provider, idp)).detail == "userinfo: another subject"
