"""An attested agent presents a person's token: what it gets, and every way it does not.

`portal-bot` lists the ID tokens of the application `support-portal` at the provider `partner`.
"""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import msgspec
import pytest

from audit_log.event import EventType, Outcome, PrincipalKind
from authz_server.endpoints.token import STALE
from authz_server.person_changes import apply_change
from idp_connectors.workforce.person_changes import ChangeKind, PersonChange
from outbound.fetcher import FetchError
from registry.blocks import BlockKind
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
    agent,
    declare,
    error_of,
    payload_of,
)
from tests.authz_server.blending import (
    MANDATE_BOT,
    OTHER_BOT,
    PORTAL,
    PORTAL_BOT,
    Blending,
    acts_for,
    start_blending,
    subject_tokens,
)
from tests.idp_connectors.openid import signed_with
from token_exchange.token_types import (
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_ID_TOKEN,
    TOKEN_TYPE_JWT,
)

pytestmark = pytest.mark.anyio

ONE_SENTENCE = "The subject_token cannot be used by this request."


@pytest.fixture
async def blending(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Blending]:
    del anyio_backend
    made = await start_blending(tmp_path)
    yield made
    made.authority.database.close()


def claims_of(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return payload_of(answer.json()["access_token"])


def tools_of(answer: httpx2.Response) -> list[str]:
    (detail,) = claims_of(answer)["authorization_details"]
    return list(detail["tools"])


def details(*tools: str, **changes: Any) -> str:
    detail = {"type": "mcp_tool", "server": "crm", "tools": list(tools), "actions": ["call"]}
    return json.dumps([detail | changes])


def assert_refused(blending: Blending, answer: httpx2.Response, rule: str) -> None:
    """The agent learns one sentence, the audit which rule it was."""
    assert error_of(answer) == "invalid_request"
    assert answer.json()["error_description"] == ONE_SENTENCE
    event = blending.refusal()
    assert (event.type, event.reasons) == (EventType.EXCHANGE_REFUSED, (rule,)), event
    assert event.agent is not None


# --- what it gets ---


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


# --- what may be asked for ---


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


# --- who asks ---


@pytest.mark.requirement("attack-16")
async def test_agent_that_lists_no_tokens_may_present_none(blending: Blending) -> None:
    answer = await blending.ask(1000)  # support-bot: its persons log in
    assert error_of(answer) == "unauthorized_client"
    assert blending.refusal().reasons == ("token.grant_of_client",)


@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("C27")
async def test_consent_for_one_agent_is_none_for_another(blending: Blending) -> None:
    await blending.consent(bot="portal-bot")
    answer = await blending.ask(OTHER_BOT)
    assert_refused(blending, answer, "blend.no_consent")
    await blending.consent(bot="other-bot")
    assert claims_of(await blending.ask(OTHER_BOT))["act"]["agent"] == "other-bot"


async def test_unattested_request_gets_nothing(blending: Blending) -> None:
    await blending.consent()
    form = blending.authority.workload(PORTAL_BOT).form(**blending.form(client_id="portal-bot"))
    del form["client_assertion"], form["client_assertion_type"]
    answer = await blending.authority.post(form)
    assert error_of(answer) == "invalid_client"


@pytest.mark.requirement("attack-15")
async def test_request_without_or_with_another_key_is_refused(blending: Blending) -> None:
    await blending.consent()
    workload, thief = (blending.authority.workload(PORTAL_BOT) for _ in range(2))
    form = workload.form(**blending.form())
    assert error_of(await blending.authority.post(form)) == "invalid_dpop_proof"
    answer = await blending.authority.post(form, {"dpop": thief.proof()})
    assert error_of(answer) == "invalid_client"
    answer = await blending.authority.post(form, {"dpop": workload.proof()})
    assert answer.status_code == 200


@pytest.mark.requirement("attack-16")
async def test_agent_cannot_exchange_its_own_blended_token(blending: Blending) -> None:
    await blending.consent()
    token = (await blending.ask()).json()["access_token"]
    for kind in (TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN):
        answer = await blending.ask(subject_token=token, subject_token_type=kind)
        assert_refused(blending, answer, "blend.not_listed")
    target = await blending.ask(
        subject_token=token, subject_token_type=TOKEN_TYPE_ACCESS_TOKEN, resource=CRM_URL
    )
    assert error_of(target) == "invalid_target"


# --- the actor ---


@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("attack-17")
async def test_actor_token_is_the_authenticated_agent_or_refused(blending: Blending) -> None:
    await blending.consent()
    workload = blending.authority.workload(PORTAL_BOT)
    other = blending.authority.workload(OTHER_BOT)

    async def ask(**changes: Any) -> httpx2.Response:
        assertion = workload.attestation()
        actor = {"actor_token": assertion, "actor_token_type": TOKEN_TYPE_JWT}
        sent = blending.form(client_assertion=assertion, **(actor | changes))
        return await workload.ask(**sent)

    assert claims_of(await ask())["act"]["agent"] == "portal-bot"
    again = await ask(actor_token=workload.attestation())  # a fresh one of the same workload
    assert again.status_code == 200, again.text
    assert "act" not in claims_of(again)["act"]
    for changes, rule in (
        ({"actor_token_type": None}, "blend.actor_type"),
        ({"actor_token": None}, "blend.actor_type"),
        ({"actor_token_type": TOKEN_TYPE_ACCESS_TOKEN}, "blend.actor_type"),
        ({"actor_token": other.attestation()}, "blend.actor_other"),
        ({"actor_token": workload.attestation(act={"sub": "x"})}, "blend.actor_chain"),
        ({"actor_token": workload.attestation(exp=NOW - 60)}, "blend.actor_invalid"),
        ({"actor_token": blending.id_token()}, "blend.actor_issuer"),
        ({"actor_token": "x"}, "blend.actor_form"),
    ):
        refused = await ask(**changes)
        assert error_of(refused) == "invalid_request", changes
        assert blending.refusal().reasons == (rule,)


# --- whose token ---


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


# --- consent ---


@pytest.mark.requirement("blend-consent")
async def test_without_consent_the_agent_learns_nothing_and_the_audit_has_the_link(
    blending: Blending,
) -> None:
    sub = await blending.known()
    answer = await blending.ask()
    assert_refused(blending, answer, "blend.no_consent")
    assert "consent" not in answer.text
    event = blending.refusal()
    assert (event.user, event.user_name) == (sub, "Carol Partner")
    link = (event.detail or "").split()[-1]
    assert link.startswith(f"{ISSUER}/oauth/consents/new?")
    assert parse_qs(urlsplit(link).query) == {"client_id": ["portal-bot"], "resource": [CRM]}


async def test_consent_of_somebody_else_or_for_another_server_is_none(blending: Blending) -> None:
    await blending.consent(person="dave")
    await blending.consent(server="notes")
    assert_refused(blending, await blending.ask(), "blend.no_consent")
    await blending.consent()
    assert (await blending.ask()).status_code == 200


async def test_consent_that_ended_or_was_withdrawn_is_none(blending: Blending) -> None:
    await blending.consent(expires_at=NOW + 10)
    assert (await blending.ask()).status_code == 200
    await blending.later(10)
    assert_refused(blending, await blending.ask(), "blend.no_consent")
    consent = await blending.consent()
    assert (await blending.ask()).status_code == 200
    await blending.authority.block(BlockKind.CONSENT, consent.gid)
    await blending.later(60)
    assert_refused(blending, await blending.ask(), "blend.no_consent")


async def test_tool_that_changed_since_it_was_shown_is_not_consented_to(
    blending: Blending,
) -> None:
    await blending.consent("get_account", "refund")
    await change_tools(blending, refund=3)
    assert tools_of(await blending.ask()) == ["get_account"]
    await change_tools(blending, refund=3, get_account=3)
    assert_refused(blending, await blending.ask(), "blend.no_consent")


async def test_consent_from_before_the_agent_could_bring_tokens_does_not_count(
    blending: Blending,
) -> None:
    await change_agent(blending)
    before = await blending.consent()
    await change_agent(blending, subject_tokens())
    assert_refused(blending, await blending.ask(), "blend.no_consent")
    assert (await blending.consent()).gid != before.gid
    assert (await blending.ask()).status_code == 200


async def test_of_several_consents_the_one_that_leaves_most_is_used(blending: Blending) -> None:
    wide = await blending.consent("get_account", "refund", created_at=NOW - 100)
    narrow = await blending.consent("get_account", created_at=NOW - 50)
    assert claims_of(await blending.ask())["gid"] == wide.gid
    one = await blending.ask(authorization_details=details("get_account"))
    assert claims_of(one)["gid"] == narrow.gid  # both would do: the later one


# --- mandate ---


@pytest.mark.requirement("blend-consent")
async def test_mandate_needs_no_consent_and_each_use_is_an_event(blending: Blending) -> None:
    claims = claims_of(await blending.ask(MANDATE_BOT))
    assert "gid" not in claims
    assert claims["sub"].startswith("usr_")
    (event,) = blending.authority.spool.of(EventType.MANDATE_USED)
    assert (event.outcome, event.object_ref) == (Outcome.ALLOWED, "Agent/mandate-bot")
    assert (event.user, event.agent, event.token_id) == (
        claims["sub"],
        "mandate-bot",
        claims["jti"],
    )
    again = claims_of(await blending.ask(MANDATE_BOT))
    assert again["sub"] == claims["sub"]
    assert len(blending.authority.spool.of(EventType.MANDATE_USED)) == 2


async def test_mandate_taken_away_while_the_provider_is_asked_is_none(
    blending: Blending, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = blending.provider.verify_person_token

    async def slow(*arguments: Any) -> Any:
        found = await verify(*arguments)
        tools = ["crm/get_*", "crm/refund", "notes/search"]
        changed = agent("mandate-bot", MANDATE_BOT, tools, acts_for=acts_for())
        await asyncio.create_task(blending.declare(changed))  # by somebody else meanwhile
        return found

    monkeypatch.setattr(blending.provider, "verify_person_token", slow)
    assert_refused(blending, await blending.ask(MANDATE_BOT), "blend.changed")
    assert_refused(blending, await blending.ask(MANDATE_BOT), "blend.no_consent")


async def test_server_that_changed_while_the_provider_is_asked_is_not_consented_to(
    blending: Blending, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blending.consent()
    live = blending.authority.parts.live
    crm = live.snapshot.servers["crm"]
    moved = msgspec.structs.replace(crm, url="https://elsewhere.example.com/mcp")
    servers = live.snapshot.servers | {"crm": moved}
    changed = msgspec.structs.replace(live.snapshot, servers=servers)
    verify = blending.provider.verify_person_token

    async def slow(*arguments: Any) -> Any:
        found = await verify(*arguments)
        monkeypatch.setattr(type(live), "snapshot", property(lambda _: changed))
        return found

    monkeypatch.setattr(blending.provider, "verify_person_token", slow)
    assert_refused(blending, await blending.ask(), "blend.changed")
    assert_refused(blending, await blending.ask(), "blend.no_consent")


async def test_provider_that_cannot_be_watched_any_more_while_it_is_asked_vouches_for_nobody(
    blending: Blending, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blending.consent()
    verify = blending.provider.verify_person_token

    async def slow(*arguments: Any) -> Any:
        found = await verify(*arguments)
        blending.authority.parts.unwatched.add("partner")
        return found

    monkeypatch.setattr(blending.provider, "verify_person_token", slow)
    assert error_of(await blending.ask()) == "temporarily_unavailable"
    assert blending.refusal().reasons == ("blend.unwatched",)


async def test_mandate_is_for_the_agents_groups_and_listed_clients_only(
    blending: Blending,
) -> None:
    refused = await blending.ask(MANDATE_BOT, subject_token=blending.id_token("dave"))
    assert_refused(blending, refused, "blend.not_in_group")
    refused = await blending.ask(MANDATE_BOT, subject_token=blending.id_token(aud="other-portal"))
    assert_refused(blending, refused, "person_token.audience")
    assert blending.authority.spool.of(EventType.MANDATE_USED) == []


async def test_mandate_whose_use_cannot_be_recorded_is_not_used(blending: Blending) -> None:
    blending.authority.spool.is_broken = True
    answer = await blending.ask(MANDATE_BOT)
    assert answer.status_code == 503
    assert "access_token" not in answer.text


# --- what ends it ---


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    "kind", [BlockKind.SUBJECT, BlockKind.AGENT, BlockKind.AGENT_GROUP, BlockKind.CLIENT]
)
async def test_blocked_person_or_agent_gets_nothing(blending: Blending, kind: BlockKind) -> None:
    consent = await blending.consent()
    named = {
        BlockKind.SUBJECT: consent.sub,
        BlockKind.AGENT: "portal-bot",
        BlockKind.AGENT_GROUP: "support-agents",
        BlockKind.CLIENT: "portal-bot",
    }[kind]
    before = blending.id_token()
    assert (await blending.ask(subject_token=before)).status_code == 200
    await blending.authority.block(kind, named)
    await blending.later(2)
    assert error_of(await blending.ask(subject_token=before)) == "invalid_grant"
    assert blending.refusal().reasons == ("token.revoked",)
    # INVARIANT: restoring lets new tokens in, never those from before.
    await blending.authority.restore(kind, named)
    await blending.later(60)
    assert error_of(await blending.ask(subject_token=before)) == "invalid_grant"
    assert (await blending.ask()).status_code == 200


async def test_change_at_the_provider_outdates_tokens_from_before_it(blending: Blending) -> None:
    consent = await blending.consent()
    before = blending.id_token()
    await blending.later(2)
    change = PersonChange("e1", ChangeKind.GROUPS, NOW * 1000, subject="carol")
    assert await apply_change(blending.authority.parts, "partner", change) == 1
    await blending.authority.parts.live.refresh()
    await blending.later(2)
    assert error_of(await blending.ask(subject_token=before)) == "invalid_grant"
    assert f"claims {consent.sub}" in (blending.refusal().detail or "")
    # The provider's clock may be ahead: what it issued within the leeway may be from before.
    await blending.later(29)
    assert (await blending.ask()).status_code == 200


async def test_token_of_a_clock_that_is_ahead_does_not_outlive_a_change(
    blending: Blending,
) -> None:
    await blending.consent()
    ahead = blending.id_token(iat=NOW + 29)
    change = PersonChange("e1", ChangeKind.GROUPS, (NOW + 5) * 1000, subject="carol")
    await blending.later(5)
    await apply_change(blending.authority.parts, "partner", change)
    await blending.authority.parts.live.refresh()
    await blending.later(25)
    assert error_of(await blending.ask(subject_token=ahead)) == "invalid_grant"


async def test_end_of_the_session_at_the_provider_ends_what_came_of_it(blending: Blending) -> None:
    await blending.consent()
    token = blending.id_token()
    first, second = [claims_of(await blending.ask(subject_token=token)) for _ in range(2)]
    assert first["sid"] == second["sid"]  # one session there, one here
    other = claims_of(await blending.ask(subject_token=blending.id_token(sid="idp-session-2")))
    assert other["sid"] != first["sid"]
    await blending.later(2)
    # A back-channel logout that names the session alone.
    change = PersonChange("e1", ChangeKind.LOGGED_OUT, NOW * 1000, upstream_session="idp-session-1")
    assert await apply_change(blending.authority.parts, "partner", change) == 1
    await blending.authority.parts.live.refresh()
    hit = blending.authority.parts.live.blocks.entries[BlockKind.CLAIMS, first["sub"]]
    assert hit.not_before >= first["iat"]  # every gateway refuses the token
    assert error_of(await blending.ask(subject_token=token)) == "invalid_grant"


async def test_session_blocked_here_refuses_every_token_of_it(blending: Blending) -> None:
    await blending.consent()
    claims = claims_of(await blending.ask())
    await blending.authority.block(BlockKind.SESSION, claims["sid"])
    await blending.later(60)
    assert error_of(await blending.ask()) == "invalid_grant"
    other = await blending.ask(subject_token=blending.id_token(sid="idp-session-2"))
    assert other.status_code == 200


async def test_token_without_a_session_makes_a_token_without_one(blending: Blending) -> None:
    await blending.consent()
    claims = claims_of(await blending.ask(subject_token=blending.id_token(sid=None)))
    assert "sid" not in claims


async def test_stale_registry_yields_nothing(
    blending: Blending, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blending.consent()
    monkeypatch.setattr(blending.authority.parts.live, "is_stale", lambda _seconds: True)
    answer = await blending.ask()
    assert error_of(answer) == STALE.code


# --- nothing secret leaves ---


@pytest.mark.requirement("attack-26")
async def test_persons_token_is_in_no_answer_and_no_event(blending: Blending) -> None:
    await blending.consent()
    tokens = [blending.id_token(), blending.id_token(aud="other-portal")]
    answers = [await blending.ask(subject_token=token) for token in tokens]
    told = msgspec.json.encode(blending.authority.spool.events).decode()
    told += "".join(answer.text for answer in answers)
    for token in tokens:
        assert not any(part in told for part in token.split(".")[1:])


# --- helpers that change what is declared ---


async def change_agent(blending: Blending, *subject_tokens: dict[str, Any]) -> None:
    """Other `subject_tokens` for portal-bot."""
    tools = ["crm/get_*", "crm/refund", "notes/search"]
    spec = acts_for(subject_tokens=list(subject_tokens))
    await blending.declare(agent("portal-bot", PORTAL_BOT, tools, acts_for=spec))


async def change_tools(blending: Blending, **sensitivity: int) -> None:
    """What the operator says of crm's tools."""
    await blending.declare(
        declare(
            "McpServer",
            "crm",
            url=CRM_URL,
            person_attributes=["groups"],
            credential={"provider": "crm-token"},
            approve="first_seen",
            tools={
                "get_account": {"read_only": True},
                **{name: {"sensitivity": level} for name, level in sensitivity.items()},
            },
        )
    )
