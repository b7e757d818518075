"""Token exchange for tool calls: what a gateway gets for the agent it serves."""

import asyncio

import msgspec
import pytest

from audit_log.event import EventType, PrincipalKind
from authz_server.issuing.signing_keys import KeyPurpose
from credential_providers.vault.seal import unseal_credential
from tests.authz_server.back_half import (
    API_KEY,
    BASE_URL,
    CRM_AUDIENCE,
    ISSUER,
    LEDGER_URL,
    NOTES,
    NOTES_URL,
    NOW,
    OTHER_CRM,
    Authority,
    GatewayProcess,
    error_of,
    payload_of,
)
from token_exchange.claims import AccessTokenClaims, AuthorizationDetail, VerifiedClaims
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_STATIC_SECRET
from token_exchange.verify import verify_access_token

pytestmark = pytest.mark.anyio


def alone(authority: Authority, server: str = "ledger", **changes: object) -> AccessTokenClaims:
    """What batch-bot holds at the other gateway's ledger."""
    return authority.blended(
        aud=OTHER_CRM,
        sub="agent:batch-bot",
        sub_profile="ai_agent",
        agent="batch-bot",
        client_id="batch-bot",
        act=None,
        uctx=None,
        sid=None,
        gid=None,
        authorization_details=(AuthorizationDetail("mcp_tool", server, ("*",), ("call",)),),
        **changes,
    )


@pytest.mark.requirement("RFC8693-2.2.1")
async def test_exchange_of_a_call_gives_a_bearer_for_the_target(authority: Authority) -> None:
    gateway = await authority.enrolled()
    blended = authority.blended()
    answer = await gateway.exchange(authority.sign_token(blended))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["issued_token_type"] == TOKEN_TYPE_ACCESS_TOKEN
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 300
    claims = payload_of(body["access_token"])
    assert claims["aud"] == CRM_AUDIENCE
    assert claims["exp"] == NOW + 300
    assert claims["client_id"] == "gateway:demo"
    assert claims["act"]["sub"] == "gateway:demo"
    assert claims["act"]["iss"] == ISSUER
    assert claims["act"]["act"] == msgspec.to_builtins(blended.act)
    assert (claims["txn"], claims["inv"]) == ("txn_1", "inv_1")
    assert claims["sub"] != "usr_alice"  # pairwise for the target
    assert claims["uctx"] == {"groups": ["local/support"]}
    assert not {"cnf", "sid", "gid", "attn"} & set(claims)


async def test_exchange_result_verifies_at_the_target(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.exchange(authority.sign_token(authority.blended()))
    verified = verify_access_token(
        answer.json()["access_token"],
        keys=authority.parts.keys.verification_keys(KeyPurpose.TOKENS),
        issuer=ISSUER,
        audiences=(CRM_AUDIENCE,),
        now=NOW,
    )
    assert isinstance(verified, VerifiedClaims)


async def test_exchange_of_an_issued_token_needs_no_crafted_one(authority: Authority) -> None:
    issued = await authority.workload(1002).ask(resource=OTHER_CRM)
    gateway = await authority.enrolled("other")
    answer = await gateway.exchange(
        issued.json()["access_token"], resource=LEDGER_URL, detail={"server": "ledger"}
    )
    assert answer.status_code == 200, answer.text
    claims = payload_of(answer.json()["access_token"])
    assert claims["sub"] == "agent:batch-bot"
    assert claims["act"]["sub"] == "gateway:other"


async def test_exchange_is_audited_with_both_tokens_and_the_decision(authority: Authority) -> None:
    gateway = await authority.enrolled()
    blended = authority.blended()
    decision = "dec_abcdefghijklmnopqrst"
    answer = await gateway.exchange(authority.sign_token(blended), detail={"decision": decision})
    claims = payload_of(answer.json()["access_token"])
    (event,) = authority.spool.of(EventType.TOKEN_EXCHANGED)
    assert event.principal_kind is PrincipalKind.AGENT_FOR_PERSON
    assert (event.agent, event.user) == ("support-bot", "usr_alice")
    assert event.actor_chain == ("gateway:demo", "support-bot")
    assert event.client_id == "gateway:demo"
    assert (event.target_service, event.tool) == ("crm", "get_account")
    assert event.decision_id == decision
    assert event.argument_digest is not None
    assert event.token_id == claims["jti"]
    assert event.presented_token_id == blended.jti
    assert event.policy_matched == ("base-issue-named-server",)
    assert event.ttl_seconds == 300
    assert (event.session, event.consent, event.invocation) == ("ses_1", "grt_1", "inv_1")


async def test_exchange_result_never_outlives_its_subject_token(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.exchange(authority.sign_token(authority.blended(exp=NOW + 40)))
    assert answer.json()["expires_in"] == 40


@pytest.mark.requirement("C27")
async def test_exchange_of_two_persons_gives_two_credentials(authority: Authority) -> None:
    gateway = await authority.enrolled()
    subjects = set()
    for person in ("usr_alice", "usr_bob"):
        answer = await gateway.exchange(authority.sign_token(authority.blended(sub=person)))
        subjects.add(payload_of(answer.json()["access_token"])["sub"])
    assert len(subjects) == 2


@pytest.mark.requirement("C36")
async def test_exchange_for_a_static_secret_is_sealed_to_the_enrolled_key(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    detail = AuthorizationDetail("mcp_tool", "notes", ("search",), ("call",))
    token = authority.sign_token(authority.blended(aud=NOTES, authorization_details=(detail,)))
    answer = await gateway.exchange(
        token,
        resource=NOTES_URL,
        requested_token_type=TOKEN_TYPE_STATIC_SECRET,
        detail={"server": "notes", "tool": "search"},
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["token_type"] == "N_A"
    assert body["issued_token_type"] == TOKEN_TYPE_STATIC_SECRET
    assert API_KEY not in answer.text
    private = gateway.key.as_dict(private=True)
    assert unseal_credential(body["access_token"], private) == ("x-api-key", API_KEY)
    stranger = GatewayProcess(authority, "gateway:demo").key.as_dict(private=True)
    assert unseal_credential(body["access_token"], stranger) != ("x-api-key", API_KEY)


@pytest.mark.requirement("exchange-decision-once")
async def test_exchange_of_a_decision_bound_to_a_call_works_once(authority: Authority) -> None:
    gateway = await authority.enrolled("other")
    call = {"resource": LEDGER_URL, "detail": {"server": "ledger", "decision": "dec_" + "a" * 26}}
    first = await gateway.exchange(authority.sign_token(alone(authority)), **call)
    assert first.status_code == 200, first.text
    claims = payload_of(first.json()["access_token"])
    assert claims["authorization_details"][0]["decision"] == "dec_" + "a" * 26
    again = await gateway.exchange(authority.sign_token(alone(authority)), **call)
    assert error_of(again) == "invalid_authorization_details"
    assert authority.refusals()[0].reasons == ("exchange.decision_used",)


@pytest.mark.requirement("exchange-decision-once")
async def test_exchange_of_one_decision_twenty_times_over_two_processes_is_one_success(
    authority: Authority,
) -> None:
    gateways = [await authority.enrolled("other") for _ in range(2)]
    second = await authority.another_process()
    detail = {"server": "ledger", "decision": "dec_" + "b" * 26}
    requests = (
        (authority, second)[n % 2].post(
            gateways[n // 2 % 2].exchange_form(
                authority.sign_token(alone(authority)), resource=LEDGER_URL, detail=dict(detail)
            )
        )
        for n in range(20)
    )
    answers = await asyncio.gather(*requests)
    second.database.close()
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 19


async def test_exchange_refused_for_another_reason_leaves_the_decision_usable(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled("other")
    call = {"resource": LEDGER_URL, "detail": {"server": "ledger", "decision": "dec_" + "c" * 26}}
    token = authority.sign_token(alone(authority))
    assert error_of(await gateway.exchange(token, scope="admin", **call)) == "invalid_scope"
    assert (await gateway.exchange(token, **call)).status_code == 200


async def test_exchange_of_a_decision_not_bound_to_a_call_may_be_repeated(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    token = authority.sign_token(authority.blended())
    for _ in range(2):
        answer = await gateway.exchange(token, detail={"decision": "dec_" + "d" * 26})
        assert answer.status_code == 200, answer.text
    assert BASE_URL in payload_of(token)["aud"]
