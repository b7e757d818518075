"""What an attested agent gets for a person's token it lists, and how much of it."""

import json

import msgspec
import pytest

from audit_log.event import EventType, PrincipalKind
from tests.authz_server.back_half import (
    ADMIN,
    CONTROL,
    CRM,
    CRM_AUDIENCE,
    CRM_URL,
    ISSUER,
    NOTES,
    NOW,
    OTHER_CRM,
    error_of,
    payload_of,
)
from tests.authz_server.blend_answers import assert_refused, claims_of, details, tools_of
from tests.authz_server.blending import PORTAL_BOT, Blending
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("RFC8693-2.2.1")
@pytest.mark.requirement("C35")
@pytest.mark.requirement("C24")
async def test_persons_token_with_a_stored_consent_becomes_a_blended_token(
    blending: Blending,
) -> None:
    consent = await blending.consent("get_account")
    workload = blending.authority.workload(PORTAL_BOT)
    answer = await workload.ask(**blending.form())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    claims = payload_of(body.pop("access_token"))
    assert body == {
        "token_type": "DPoP",
        "expires_in": 300,
        "scope": "mcp:tools",
        "issued_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "authorization_details": claims["authorization_details"],
    }
    minted = {name: claims.pop(name) for name in ("jti", "sid", "txn", "inv", "attn")}
    assert [minted[name][:4] for name in ("jti", "sid", "txn", "inv")] == [
        "tok_",
        "ses_",
        "txn_",
        "inv_",
    ]
    assert minted["attn"]["level"] == 1
    assert claims == {
        "iss": ISSUER,
        "aud": CRM,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 300,
        "sub": consent.sub,
        "sub_profile": "user",
        "client_id": "portal-bot",
        "scope": "mcp:tools",
        "act": {
            "iss": f"{ISSUER}/attest/unix",
            "sub": f"unix:host/{PORTAL_BOT}/-",
            "sub_profile": "ai_agent",
            "agent": "portal-bot",
        },
        "cnf": {"jkt": workload.thumbprint},
        "authorization_details": [
            {"type": "mcp_tool", "server": "crm", "tools": ["get_account"], "actions": ["call"]}
        ],
        "gid": consent.gid,
        "uctx": {"groups": ["partner/partners", "partner/staff"]},
    }


async def test_blended_token_is_recorded_with_what_it_rests_on(blending: Blending) -> None:
    consent = await blending.consent()
    answer = await blending.ask(subject_token=blending.id_token(iat=NOW - 40))
    claims = claims_of(answer)
    (event,) = blending.authority.spool.of(EventType.TOKEN_EXCHANGED)
    assert (event.principal_kind, event.agent) == (PrincipalKind.AGENT_FOR_PERSON, "portal-bot")
    assert (event.user, event.consent) == (consent.sub, consent.gid)
    assert (event.session, event.invocation) == (claims["sid"], claims["inv"])
    assert event.detail == (
        "a token of IdentityProvider/partner for its client support-portal, 40 s old"
    )
    assert blending.authority.spool.of(EventType.MANDATE_USED) == []


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("token_seconds", "consent_seconds", "seconds"),
    [(300, 9_999, 300), (20, 9_999, 20), (3_600, 60, 60), (3_600, 9_999, 900)],
)
async def test_blended_token_ends_with_whatever_ends_first(
    blending: Blending, token_seconds: int, consent_seconds: int, seconds: int
) -> None:
    await blending.consent(expires_at=NOW + consent_seconds)
    token = blending.id_token(exp=NOW + token_seconds)
    claims = claims_of(await blending.ask(subject_token=token))
    assert claims["exp"] - claims["iat"] == seconds


async def test_token_that_ended_within_the_leeway_yields_nothing(blending: Blending) -> None:
    await blending.consent()
    answer = await blending.ask(subject_token=blending.id_token(exp=NOW))
    assert_refused(blending, answer, "blend.expired")


async def test_there_is_no_refresh_token_and_no_id_token(blending: Blending) -> None:
    await blending.consent(scope="mcp:tools offline_access openid")
    body = (await blending.ask()).json()
    assert "refresh_token" not in body
    assert "id_token" not in body
    for scope in ("mcp:tools offline_access", "openid", "admin"):
        refused = await blending.ask(scope=scope)
        assert error_of(refused) == "invalid_scope"
        assert blending.refusal().reasons == ("blend.scope",)


@pytest.mark.requirement("attack-16")
async def test_details_narrow_and_never_widen(blending: Blending) -> None:
    await blending.consent("get_account", "refund")
    assert tools_of(await blending.ask()) == ["get_account", "refund"]
    assert tools_of(await blending.ask(authorization_details=details("get_*"))) == ["get_account"]
    both = details("get_account", "delete_everything")
    assert tools_of(await blending.ask(authorization_details=both)) == ["get_account"]
    for wrong in (
        details("delete_everything"),
        details("get_account", server="notes"),
        details("get_account", type="mcp_tool_call"),
        details(*[f"t{number}" for number in range(129)]),
        json.dumps([json.loads(details(f"a{n}", f"b{n}", f"c{n}"))[0] for n in range(64)]),
        "[]",
        "{",
    ):
        refused = await blending.ask(authorization_details=wrong)
        assert error_of(refused) == "invalid_authorization_details", wrong


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "resource",
    [
        None,
        [CRM, NOTES],
        CRM_URL,
        CRM_AUDIENCE,
        CONTROL,
        ADMIN,
        OTHER_CRM,
        f"{CRM}/",
        "https://elsewhere.example",
    ],
    ids=str,
)
async def test_only_an_endpoint_of_the_agents_own_servers_can_be_asked_for(
    blending: Blending, resource: object
) -> None:
    await blending.consent()
    assert error_of(await blending.ask(resource=resource)) == "invalid_target"
    assert (await blending.ask()).status_code == 200


async def test_only_an_access_token_can_be_asked_for(blending: Blending) -> None:
    await blending.consent()
    for wanted in (TOKEN_TYPE_ID_TOKEN, "urn:ietf:params:oauth:token-type:refresh_token"):
        refused = await blending.ask(requested_token_type=wanted)
        assert error_of(refused) == "invalid_request"
        assert blending.refusal().reasons == ("blend.requested_type",)
    answer = await blending.ask(requested_token_type=TOKEN_TYPE_ACCESS_TOKEN)
    assert answer.status_code == 200


@pytest.mark.requirement("attack-26")
async def test_persons_token_is_in_no_answer_and_no_event(blending: Blending) -> None:
    await blending.consent()
    tokens = [blending.id_token(), blending.id_token(aud="other-portal")]
    answers = [await blending.ask(subject_token=token) for token in tokens]
    told = msgspec.json.encode(blending.authority.spool.events).decode()
    told += "".join(answer.text for answer in answers)
    for token in tokens:
        assert not any(part in told for part in token.split(".")[1:])
