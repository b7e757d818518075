"""Which person's token counts: of a listed client, type and provider, of a person it names."""

import dataclasses
from typing import Any

import pytest

from outbound.fetcher import FetchError
from tests.authz_server.back_half import ISSUER, NOW, error_of, payload_of
from tests.authz_server.blend_answers import assert_refused, change_agent, claims_of
from tests.authz_server.blending import PORTAL, Blending, subject_tokens
from tests.idp_connectors.openid import signed_with
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_JWT

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": "other-portal"}, "person_token.audience"),
        ({"aud": "countersign"}, "person_token.audience"),
        ({"aud": [PORTAL, "other-portal"], "azp": PORTAL}, "person_token.audience"),
        ({"azp": "other-portal"}, "person_token.party"),
        ({"iat": NOW - 301}, "person_token.age"),
        ({"exp": NOW - 31}, "person_token.expired"),
        ({"typ": "Bearer"}, "person_token.claim"),
        ({"iss": "https://evil.example"}, "blend.not_listed"),
        ({"iss": None}, "blend.form"),
        ({"groups": ["staff"]}, "blend.not_in_group"),
        ({"groups": None}, "blend.not_in_group"),
    ],
    ids=str,
)
async def test_token_that_is_not_one_the_agent_lists_is_refused(
    blending: Blending, changes: dict[str, Any], rule: str
) -> None:
    await blending.consent()
    answer = await blending.ask(subject_token=blending.id_token(**changes))
    assert_refused(blending, answer, rule)


async def test_token_of_a_type_the_agent_does_not_list_is_refused(blending: Blending) -> None:
    await blending.consent()
    at_jwt = {"client_id": PORTAL, "jti": "j1", "aud": ISSUER}
    blending.idp.header_changes = {"typ": "at+jwt"}
    token = blending.id_token(**at_jwt)
    refused = await blending.ask(subject_token=token, subject_token_type=TOKEN_TYPE_ACCESS_TOKEN)
    assert_refused(blending, refused, "blend.type")
    await change_agent(blending, subject_tokens(types=["id_token", "access_token"]))
    await blending.consent()  # what the page says of the agent is another thing now
    answer = await blending.ask(subject_token=token, subject_token_type=TOKEN_TYPE_ACCESS_TOKEN)
    assert answer.status_code == 200, answer.text
    for kind in (TOKEN_TYPE_JWT, "urn:ietf:params:oauth:token-type:refresh_token", "saml"):
        refused = await blending.ask(subject_token_type=kind)
        assert_refused(blending, refused, "blend.type")


async def test_request_without_a_token_or_its_type_is_refused(blending: Blending) -> None:
    for without in (
        await blending.ask(subject_token=None),
        await blending.ask(subject_token_type=None),
        await blending.ask(subject_token=""),
    ):
        assert_refused(blending, without, "blend.subject_token")
    for text in ("x", "a.b.c", "e30.e30.AA"):
        assert_refused(blending, await blending.ask(subject_token=text), "blend.form")


async def test_token_by_another_key_is_refused(blending: Blending) -> None:
    await blending.consent()
    claims = payload_of(blending.id_token())
    stranger = dataclasses.replace(blending, idp=type(blending.idp)())
    forged = signed_with(stranger.idp.key, claims)
    assert_refused(blending, await blending.ask(subject_token=forged), "jwt.signature")
    refused = await blending.ask(subject_token=signed_with(stranger.idp.key, claims, kid="x"))
    assert_refused(blending, refused, "jwt.key")


@pytest.mark.requirement("attack-29")
async def test_person_is_found_by_issuer_and_subject_alone(blending: Blending) -> None:
    consent = await blending.consent(person="carol")
    same_words = {"email": "carol@partner.example", "preferred_username": "carol", "name": "carol"}
    blending.idp.people["mallory"] = {"groups": ["partners"], **same_words}
    refused = await blending.ask(subject_token=blending.id_token("mallory"))
    assert_refused(blending, refused, "blend.no_consent")
    assert blending.refusal().user is None
    renamed = blending.id_token("carol", name="Somebody Else", email="x@y.example")
    assert claims_of(await blending.ask(subject_token=renamed))["sub"] == consent.sub


async def test_groups_of_another_provider_cannot_be_asserted(blending: Blending) -> None:
    await blending.consent()
    token = blending.id_token(groups=["partners", "../local/support", "local/support"])
    claims = claims_of(await blending.ask(subject_token=token))
    assert all(group.startswith("partner/") for group in claims["uctx"]["groups"])


async def test_provider_that_cannot_be_asked_is_said_and_uses_nothing_up(
    blending: Blending,
) -> None:
    await blending.consent()
    token = blending.id_token()
    blending.idp.failure = FetchError("unreachable")
    answer = await blending.ask(subject_token=token)
    assert error_of(answer) == "temporarily_unavailable"
    assert blending.refusal().reasons == ("blend.unavailable",)
    blending.idp.failure = None
    await blending.later(60)
    assert (await blending.ask(subject_token=token)).status_code == 200


async def test_provider_that_must_be_watched_and_cannot_be_vouches_for_nobody(
    blending: Blending,
) -> None:
    await blending.consent()
    blending.authority.parts.unwatched.add("partner")
    assert error_of(await blending.ask()) == "temporarily_unavailable"
    assert blending.refusal().reasons == ("blend.unwatched",)
    blending.authority.parts.unwatched.discard("partner")
    assert (await blending.ask()).status_code == 200
