"""client_credentials: an attested agent alone, at an endpoint it is declared for."""

from typing import Any

import msgspec
import pytest

from audit_log.event import EventType, PrincipalKind
from authz_server.issuing.signing_keys import KeyPurpose
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
    Authority,
    error_of,
    payload_of,
)
from token_exchange.claims import VerifiedClaims
from token_exchange.token_types import MAXIMUM_TOKEN_BYTES
from token_exchange.verify import verify_access_token

pytestmark = pytest.mark.anyio


def details(*tools: str, server: str = "crm", **changes: Any) -> str:
    detail = {"type": "mcp_tool", "server": server, "tools": tools, "actions": ["call"], **changes}
    return msgspec.json.encode([detail]).decode()


async def test_client_credentials_agent_alone_gets_a_bound_token(authority: Authority) -> None:
    workload = authority.workload(1002)
    answer = await workload.ask()
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["token_type"] == "DPoP"
    assert body["expires_in"] == 600  # the agent's invocation_seconds
    assert body["scope"] == "mcp:tools"
    assert body["authorization_details"] == [
        {"type": "mcp_tool", "server": "crm", "tools": ["get_*"], "actions": ["call"]}
    ]
    assert "issued_token_type" not in body
    assert "id_token" not in body
    assert "refresh_token" not in body
    claims = payload_of(body["access_token"])
    assert claims["iss"] == ISSUER
    assert claims["aud"] == CRM
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 600)
    assert claims["sub"] == "agent:batch-bot"
    assert claims["sub_profile"] == "ai_agent"
    assert claims["agent"] == claims["client_id"] == "batch-bot"
    assert claims["cnf"] == {"jkt": workload.thumbprint}
    assert "act" not in claims
    assert "uctx" not in claims
    assert claims["inv"].startswith("inv_")
    assert claims["txn"].startswith("txn_")


@pytest.mark.requirement("RFC9068-2.1")
async def test_client_credentials_token_is_what_the_verifier_accepts(authority: Authority) -> None:
    answer = await authority.workload(1002).ask()
    verified = verify_access_token(
        answer.json()["access_token"],
        keys=authority.parts.keys.verification_keys(KeyPurpose.TOKENS),
        issuer=ISSUER,
        audiences=(CRM,),
        now=NOW,
    )
    assert isinstance(verified, VerifiedClaims)


@pytest.mark.requirement("C1")
async def test_client_credentials_every_run_has_its_own_invocation(authority: Authority) -> None:
    workload = authority.workload(1002)
    runs = [payload_of((await workload.ask()).json()["access_token"]) for _ in range(2)]
    assert runs[0]["inv"] != runs[1]["inv"]
    assert runs[0]["jti"] != runs[1]["jti"]


async def test_client_credentials_issuance_is_audited_with_its_evidence(
    authority: Authority,
) -> None:
    answer = await authority.workload(1002).ask()
    claims = payload_of(answer.json()["access_token"])
    (event,) = authority.spool.of(EventType.TOKEN_ISSUED)
    assert event.principal_kind is PrincipalKind.AGENT_ALONE
    assert event.agent == "batch-bot"
    assert event.workload_svid == "unix:host/1002/-"
    assert event.workload_type == "unix_process"
    assert event.token_id == claims["jti"]
    assert event.ttl_seconds == 600
    assert event.target_service == "crm"
    assert event.invocation == claims["inv"]
    assert event.evidence == {"unix.uid": "1002"}
    assert event.user is None


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "resource",
    [
        CRM_URL,
        CRM_AUDIENCE,
        CONTROL,
        ADMIN,
        ISSUER,
        "https://nowhere.example/mcp",
        CRM + "/",
        CRM.upper(),
        NOTES,  # not in Agent.tools
        None,
        [CRM, OTHER_CRM],
        [CRM, CRM],
        [CRM, CRM_AUDIENCE],
    ],
)
async def test_client_credentials_other_audience_is_invalid_target(
    authority: Authority, resource: object
) -> None:
    answer = await authority.workload(1002).ask(resource=resource)
    assert error_of(answer) == "invalid_target"
    (event,) = authority.refusals()
    assert event.type is EventType.TOKEN_REFUSED
    assert event.error_code == "invalid_target"
    assert event.client_id == "batch-bot"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("audience", [CRM_AUDIENCE, CRM_URL, CONTROL, ADMIN, CRM])
async def test_client_credentials_audience_parameter_is_invalid_target(
    authority: Authority, audience: str
) -> None:
    assert error_of(await authority.workload(1002).ask(audience=audience)) == "invalid_target"


async def test_client_credentials_endpoint_of_another_gateway_is_for_its_server(
    authority: Authority,
) -> None:
    answer = await authority.workload(1002).ask(resource=OTHER_CRM)
    assert answer.status_code == 200, answer.text
    assert answer.json()["authorization_details"][0]["server"] == "ledger"


async def test_client_credentials_agent_that_acts_for_people_may_not_act_alone(
    authority: Authority,
) -> None:
    answer = await authority.workload(1000).ask()
    assert error_of(answer) == "unauthorized_client"


@pytest.mark.parametrize(("scope", "status"), [("mcp:tools", 200), ("", 200), (None, 200)])
async def test_client_credentials_scope_of_tools_is_given(
    authority: Authority, scope: str | None, status: int
) -> None:
    answer = await authority.workload(1002).ask(scope=scope)
    assert answer.status_code == status
    assert answer.json()["scope"] == "mcp:tools"


@pytest.mark.parametrize(
    "scope", ["openid", "mcp:tools openid", "mcp:discover", "admin", '"', "  "]
)
async def test_client_credentials_other_scope_is_invalid_scope(
    authority: Authority, scope: str
) -> None:
    assert error_of(await authority.workload(1002).ask(scope=scope)) == "invalid_scope"


@pytest.mark.parametrize(
    ("asked", "given"),
    [(details("get_account"), ["get_account"]), (details("*"), ["get_*"])],
)
async def test_client_credentials_details_are_cut_to_the_agents_tools(
    authority: Authority, asked: str, given: list[str]
) -> None:
    answer = await authority.workload(1002).ask(authorization_details=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["authorization_details"][0]["tools"] == given


@pytest.mark.parametrize(
    "asked",
    [
        details("refund"),
        details("get_account", server="notes"),
        details("get_account", type="mcp_tool_call"),
        details("get_account", extra="x"),
        "[]",
        "{}",
        "not json",
        '[{"type":"mcp_tool","type":"mcp_tool"}]',
    ],
)
async def test_client_credentials_details_beyond_the_agents_tools_are_refused(
    authority: Authority, asked: str
) -> None:
    answer = await authority.workload(1002).ask(authorization_details=asked)
    assert error_of(answer) == "invalid_authorization_details"


@pytest.mark.requirement("attack-17")
async def test_client_credentials_claims_sent_by_the_client_are_ignored(
    authority: Authority,
) -> None:
    forged = {
        "act": '{"sub":"usr_alice"}',
        "sub": "usr_alice",
        "aud": CRM_AUDIENCE,
        "exp": "9999999999",
        "claims": '{"access_token":{"sub":"usr_alice"}}',
        "sub_profile": "user",
    }
    answer = await authority.workload(1002).ask(**forged)
    claims = payload_of(answer.json()["access_token"])
    assert claims["sub"] == "agent:batch-bot"
    assert claims["aud"] == CRM
    assert claims["exp"] == NOW + 600
    assert "act" not in claims


@pytest.mark.requirement("attack-17")
async def test_client_credentials_claims_in_an_attestation_do_not_reach_the_token(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    attestation = workload.attestation(act={"sub": "usr_alice"}, agent="support-bot", scope="admin")
    claims = payload_of((await workload.ask(client_assertion=attestation)).json()["access_token"])
    assert claims["agent"] == "batch-bot"
    assert claims["scope"] == "mcp:tools"
    assert "act" not in claims


@pytest.mark.requirement("attack-30", "RFC9396-5")
async def test_client_credentials_details_are_bounded_together_and_answered_as_one(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    several = [
        {"type": "mcp_tool", "server": "crm", "tools": [f"get_{n}"], "actions": ["call"]}
        for n in range(64)
    ]
    answer = await workload.ask(authorization_details=msgspec.json.encode(several).decode())
    (granted,) = answer.json()["authorization_details"]
    assert granted["tools"] == sorted(f"get_{n}" for n in range(64))
    heavy = [
        {**each, "tools": [f"get_{n}_{i}" for i in range(3)]} for n, each in enumerate(several)
    ]
    answer = await workload.ask(authorization_details=msgspec.json.encode(heavy).decode())
    assert error_of(answer) == "invalid_authorization_details"
    assert authority.refusals()[-1].reasons == ("details.form",)


@pytest.mark.requirement("attack-30")
async def test_client_credentials_no_token_is_signed_that_nobody_would_take(
    authority: Authority,
) -> None:
    tools = [f"crm/get_{number:03}_{'x' * 110}" for number in range(100)]
    await authority.declare("Agent", "batch-bot", tools=tools)
    workload = authority.workload(1002)
    issued = len(authority.spool.of(EventType.TOKEN_ISSUED))
    answer = await workload.ask()
    assert error_of(answer) == "invalid_authorization_details"
    assert authority.refusals()[-1].reasons == ("token.size",)
    assert len(authority.spool.of(EventType.TOKEN_ISSUED)) == issued
    one = tools[0].removeprefix("crm/")
    answer = await workload.ask(authorization_details=details(one))
    assert answer.json()["authorization_details"][0]["tools"] == [one]


@pytest.mark.requirement("attack-30")
async def test_client_credentials_largest_token_that_is_signed_is_one_the_verifier_takes(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    sizes = []
    for count in range(70, 120, 10):
        tools = [f"crm/get_{number:03}_{'x' * 110}" for number in range(count)]
        await authority.declare("Agent", "batch-bot", tools=tools)
        answer = await workload.ask()
        sizes.append(len(answer.json().get("access_token", "")))
    assert sizes[-1] == 0
    assert MAXIMUM_TOKEN_BYTES * 0.8 < max(sizes) <= MAXIMUM_TOKEN_BYTES
