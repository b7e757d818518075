"""The authorization server does not believe the gateway: every wrong exchange, and its twin."""

from typing import Any

import pytest

from audit_log.event import EventType
from authz_server.issuing.signing_keys import KeyPurpose
from registry.blocks import BlockKind
from tests.authz_server.back_half import (
    ADMIN,
    CONTROL,
    CRM,
    CRM_AUDIENCE,
    CRM_URL,
    LEDGER_URL,
    NOTES,
    NOTES_URL,
    NOW,
    OTHER_CRM,
    Authority,
    error_of,
    payload_of,
)
from token_exchange.claims import Actor, AuthorizationDetail
from token_exchange.token_types import (
    TOKEN_TYPE_ID_TOKEN,
    TOKEN_TYPE_JWT,
    TOKEN_TYPE_STATIC_SECRET,
)

pytestmark = pytest.mark.anyio


async def test_exchange_right_request_is_accepted(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.exchange(authority.sign_token(authority.blended()))
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("changes", "code", "rule"),
    [
        ({"resource": NOTES_URL}, "invalid_target", "exchange.resource"),
        ({"resource": LEDGER_URL}, "invalid_target", "exchange.resource"),
        ({"resource": CRM_AUDIENCE}, "invalid_target", "exchange.resource"),
        ({"resource": CONTROL}, "invalid_target", "exchange.resource"),
        ({"resource": CRM}, "invalid_target", "token.resource"),
        ({"resource": ADMIN}, "invalid_target", "token.resource"),
        ({"resource": "https://nowhere.example"}, "invalid_target", "token.resource"),
        ({"resource": None}, "invalid_target", "exchange.resource_count"),
        ({"resource": [CRM_URL, NOTES_URL]}, "invalid_target", "exchange.resource_count"),
        ({"audience": CRM_AUDIENCE}, "invalid_target", "token.audience"),
        ({"scope": "mcp:tools admin"}, "invalid_scope", "exchange.scope_widened"),
        ({"scope": "mcp:discover"}, "invalid_scope", "exchange.scope_widened"),
        ({"subject_token": None}, "invalid_request", "exchange.subject_type"),
        ({"subject_token_type": None}, "invalid_request", "exchange.subject_type"),
        (
            {"subject_token_type": TOKEN_TYPE_ID_TOKEN},
            "invalid_request",
            "exchange.subject_type",
        ),
        ({"subject_token_type": TOKEN_TYPE_JWT}, "invalid_request", "exchange.subject_type"),
        ({"actor_token": "x.y.z"}, "invalid_request", "exchange.actor_token"),
        ({"actor_token_type": TOKEN_TYPE_JWT}, "invalid_request", "exchange.actor_token"),
        (
            {"requested_token_type": TOKEN_TYPE_STATIC_SECRET},
            "invalid_request",
            "exchange.token_type",
        ),
        (
            {"authorization_details": None},
            "invalid_authorization_details",
            "exchange.details_missing",
        ),
        ({"authorization_details": "nonsense"}, "invalid_authorization_details", "details.form"),
        (
            {"detail": {"tool": "refund"}},
            "invalid_authorization_details",
            "exchange.detail_widened",
        ),
        (
            {"detail": {"server": "notes"}},
            "invalid_authorization_details",
            "exchange.detail_server",
        ),
        ({"detail": {"decision": "x"}}, "invalid_authorization_details", "details.form"),
        (
            {"details": [{"type": "mcp_discovery", "server": "crm"}]},
            "invalid_authorization_details",
            "exchange.detail_form",
        ),
    ],
)
async def test_exchange_wrong_request_is_refused(
    authority: Authority, changes: dict[str, Any], code: str, rule: str
) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.exchange(authority.sign_token(authority.blended()), **changes)
    assert error_of(answer) == code
    (event,) = authority.refusals()
    assert event.type is EventType.EXCHANGE_REFUSED
    assert event.reasons == (rule,)
    assert event.client_id == "gateway:demo"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": OTHER_CRM}, "exchange.subject_audience"),
        ({"aud": CRM_AUDIENCE}, "exchange.subject_audience"),
        ({"aud": ADMIN}, "exchange.subject_audience"),
        ({"aud": CONTROL}, "exchange.discovery_subject"),
        ({"aud": "https://nowhere.example"}, "jwt.audience"),
        ({"iss": "https://elsewhere.example"}, "jwt.issuer"),
        ({"exp": NOW}, "jwt.expired"),
        ({"exp": NOW + 901}, "jwt.lifetime"),
        ({"nbf": NOW + 60}, "jwt.future"),
        ({"act": None}, "exchange.subject_form"),
        ({"sub_profile": "service"}, "exchange.subject_form"),
        ({"scope": "openid"}, "exchange.subject_scope"),
        ({"authorization_details": ()}, "exchange.detail_widened"),
        ({"cnf": None}, "exchange.unbound"),
    ],
)
async def test_exchange_of_a_wrong_subject_token_is_refused(
    authority: Authority, changes: dict[str, Any], rule: str
) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.exchange(authority.sign_token(authority.blended(**changes)))
    assert answer.status_code == 400
    assert authority.refusals()[0].reasons == (rule,)


@pytest.mark.requirement("exchange-bound")
async def test_exchange_of_a_bearer_ends_when_the_server_comes_to_require_bound_tokens(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    await authority.declare("McpServer", "crm", require_bound=False)
    bearer = authority.sign_token(authority.blended(cnf=None))
    bound = authority.sign_token(authority.blended())
    assert (await gateway.exchange(bearer)).status_code == 200
    assert (await gateway.exchange(bound)).status_code == 200

    await authority.declare("McpServer", "crm", require_bound=True)
    assert error_of(await gateway.exchange(bearer)) == "invalid_request"
    (event,) = authority.refusals()
    assert (event.type, event.reasons) == (EventType.EXCHANGE_REFUSED, ("exchange.unbound",))
    assert (await gateway.exchange(bound)).status_code == 200


@pytest.mark.requirement("exchange-gateway-not-believed")
async def test_exchange_of_another_gateways_endpoint_is_refused(authority: Authority) -> None:
    detail = AuthorizationDetail("mcp_tool", "ledger", ("*",), ("call",))
    actor = Actor("i", "s", "ai_agent", "batch-bot")
    blended = authority.blended(aud=OTHER_CRM, authorization_details=(detail,), act=actor)
    token = authority.sign_token(blended)
    call = {"resource": LEDGER_URL, "detail": {"server": "ledger"}}
    foreign, own = await authority.enrolled("demo"), await authority.enrolled("other")
    assert error_of(await foreign.exchange(token, **call)) == "invalid_request"
    assert (await own.exchange(token, **call)).status_code == 200


@pytest.mark.requirement("attack-6")
async def test_exchange_of_a_token_of_another_kind_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    keys, claims = authority.parts.keys, authority.blended()
    id_token = keys.sign(KeyPurpose.ID_TOKENS, claims)
    attestation = keys.sign(KeyPurpose.ATTESTATION, claims)
    for token in (id_token, attestation, gateway.assertion(), gateway.proof(), "x", "a.b.c"):
        assert error_of(await gateway.exchange(token)) == "invalid_request"


@pytest.mark.requirement("attack-16")
async def test_exchange_of_a_targets_own_token_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    issued = await gateway.exchange(authority.sign_token(authority.blended()))
    again = await gateway.exchange(issued.json()["access_token"])
    assert error_of(again) == "invalid_request"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("resource", [CRM_URL, CRM_AUDIENCE, CONTROL, ADMIN, NOTES_URL])
async def test_exchange_by_an_agent_of_its_own_token_is_invalid_target(
    authority: Authority, resource: str
) -> None:
    workload = authority.workload(1002)
    token = (await workload.ask()).json()["access_token"]
    form = (await authority.enrolled()).exchange_form(token, resource=resource)
    form |= {"client_assertion": workload.attestation()}
    answer = await authority.post(form, {"dpop": workload.proof()})
    assert error_of(answer) == "invalid_target"
    assert authority.refusals()[-1].type is EventType.EXCHANGE_REFUSED


async def test_exchange_by_an_agent_that_does_not_prove_its_key_is_refused(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    token = (await workload.ask()).json()["access_token"]
    form = (await authority.enrolled()).exchange_form(token)
    form |= {"client_assertion": workload.attestation()}
    assert error_of(await authority.post(form)) == "invalid_dpop_proof"


async def test_exchange_by_an_agent_for_an_endpoint_is_refused(authority: Authority) -> None:
    workload = authority.workload(1002)
    token = (await workload.ask()).json()["access_token"]
    form = (await authority.enrolled()).exchange_form(token, resource=NOTES)
    form |= {"client_assertion": workload.attestation()}
    answer = await authority.post(form, {"dpop": workload.proof()})
    assert error_of(answer) == "unauthorized_client"


async def test_exchange_by_a_public_client_is_refused(authority: Authority) -> None:
    form = (await authority.enrolled()).exchange_form(authority.sign_token(authority.blended()))
    del form["client_assertion"], form["client_assertion_type"]
    for client_id in ("countersign-cli", "portal"):
        answer = await authority.post({**form, "client_id": client_id})
        assert error_of(answer) == "invalid_target"


@pytest.mark.requirement("attack-16")
async def test_exchange_beyond_the_depth_of_actors_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    chain: Actor | None = None
    for depth in range(4):
        chain = Actor("i", f"s{depth}", "ai_agent", "support-bot", chain)
    assert (
        error_of(await gateway.exchange(authority.sign_token(authority.blended(act=chain))))
        == "invalid_request"
    )
    assert authority.refusals()[0].reasons == ("delegation.depth",)


@pytest.mark.requirement("attack-17")
async def test_exchange_claims_sent_by_the_gateway_are_ignored(authority: Authority) -> None:
    gateway = await authority.enrolled()
    forged = {"act": '{"sub":"usr_eve"}', "sub": "usr_eve", "aud": NOTES_URL, "exp": "9999999999"}
    answer = await gateway.exchange(authority.sign_token(authority.blended()), **forged)
    claims = payload_of(answer.json()["access_token"])
    assert claims["aud"] == CRM_AUDIENCE
    assert claims["exp"] == NOW + 300
    assert claims["act"]["act"]["agent"] == "support-bot"


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    ("kind", "subject_id"),
    [
        (BlockKind.AGENT, "support-bot"),
        (BlockKind.AGENT_GROUP, "support-agents"),
        (BlockKind.SUBJECT, "usr_alice"),
        (BlockKind.SESSION, "ses_1"),
        (BlockKind.CONSENT, "grt_1"),
        (BlockKind.INVOCATION, "inv_1"),
        (BlockKind.CLIENT, "support-bot"),
        (BlockKind.TOKEN, "tok_known"),
        (BlockKind.CLAIMS, "usr_alice"),
        (BlockKind.CLIENT, "gateway:demo"),
    ],
)
async def test_exchange_of_what_was_revoked_is_refused_and_restore_revives_nothing(
    authority: Authority, kind: BlockKind, subject_id: str
) -> None:
    gateway = await authority.enrolled()
    token = authority.sign_token(authority.blended(jti="tok_known"))
    assert (await gateway.exchange(token)).status_code == 200
    await authority.block(kind, subject_id)
    assert (await gateway.exchange(token)).status_code == 400
    await authority.restore(kind, subject_id)
    authority.clock.now += 2
    if subject_id == "gateway:demo":  # its own new assertion is from after the epoch
        return
    assert error_of(await gateway.exchange(token)) == "invalid_request"
    later = authority.sign_token(authority.blended())
    assert (await gateway.exchange(later)).status_code == 200


@pytest.mark.requirement("attack-28")
async def test_exchange_with_a_revoked_upstream_agent_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    upstream = Actor("i", "s", "ai_agent", "night-watch")
    chain = Actor("i", "s", "ai_agent", "support-bot", upstream)
    token = authority.sign_token(authority.blended(act=chain))
    assert (await gateway.exchange(token)).status_code == 200
    await authority.block(BlockKind.AGENT, "night-watch")
    assert error_of(await gateway.exchange(token)) == "invalid_request"


async def test_exchange_for_an_agent_that_is_no_longer_declared_is_refused(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    actor = Actor("i", "s", "ai_agent", "gone-bot")
    answer = await gateway.exchange(authority.sign_token(authority.blended(act=actor)))
    assert error_of(answer) == "invalid_authorization_details"
    assert authority.refusals()[0].reasons == ("exchange.tool",)


@pytest.mark.parametrize(("agent", "status"), [("night-watch", 403), ("batch-bot", 200)])
@pytest.mark.requirement("exchange-gateway-not-believed")
async def test_exchange_asks_our_own_policies(
    authority: Authority, agent: str, status: int
) -> None:
    gateway = await authority.enrolled("other")
    detail = AuthorizationDetail("mcp_tool", "ledger", ("get_account",), ("call",))
    token = authority.blended(
        aud=OTHER_CRM,
        sub=f"agent:{agent}",
        sub_profile="ai_agent",
        agent=agent,
        act=None,
        uctx=None,
        authorization_details=(detail,),
    )
    answer = await gateway.exchange(
        authority.sign_token(token), resource=LEDGER_URL, detail={"server": "ledger"}
    )
    assert answer.status_code == status, answer.text
    if status == 403:
        (event,) = authority.refusals()
        assert event.reasons == ("exchange.policy",)
        assert "guard-night-watch" in str(event.detail)
