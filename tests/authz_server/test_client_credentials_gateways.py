"""client_credentials: a gateway's control token, and who never gets one."""

import pytest

from audit_log.event import EventType, PrincipalKind
from tests.authz_server.back_half import (
    ADMIN,
    CONTROL,
    CRM,
    CRM_AUDIENCE,
    CRM_URL,
    ISSUER,
    NOW,
    Authority,
    error_of,
    payload_of,
)

pytestmark = pytest.mark.anyio


async def test_client_credentials_gateway_gets_its_control_token(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.ask_control()
    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "DPoP"
    claims = payload_of(answer.json()["access_token"])
    assert claims["aud"] == CONTROL
    assert claims["sub"] == claims["client_id"] == "gateway:demo"
    assert claims["sub_profile"] == "service"
    assert claims["cnf"] == {"jkt": gateway.thumbprint}
    assert NOW < claims["exp"] <= NOW + 900
    assert not {"act", "agent", "scope", "authorization_details"} & set(claims)
    (event,) = authority.spool.of(EventType.TOKEN_ISSUED)
    assert event.principal_kind is PrincipalKind.GATEWAY
    assert event.client_id == "gateway:demo"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "resource", [CRM, CRM_URL, CRM_AUDIENCE, ADMIN, ISSUER, None, [CONTROL] * 2]
)
async def test_client_credentials_gateway_asks_for_another_audience_is_refused(
    authority: Authority, resource: object
) -> None:
    gateway = await authority.enrolled()
    assert error_of(await gateway.ask_control(resource=resource)) == "invalid_target"


async def test_client_credentials_gateway_gets_no_scope(authority: Authority) -> None:
    gateway = await authority.enrolled()
    assert error_of(await gateway.ask_control(scope="mcp:discover")) == "invalid_scope"
    details = '[{"type":"mcp_discovery","server":"crm"}]'
    answer = await gateway.ask_control(authorization_details=details)
    assert error_of(answer) == "invalid_authorization_details"


@pytest.mark.requirement("attack-18")
@pytest.mark.parametrize("client_id", ["countersign-cli", "portal"])
async def test_client_credentials_public_client_is_refused(
    authority: Authority, client_id: str
) -> None:
    workload = authority.workload()
    form = {"grant_type": "client_credentials", "client_id": client_id}
    answer = await authority.post(form, {"dpop": workload.proof()})
    assert error_of(answer) == "unauthorized_client"


@pytest.mark.parametrize("client_id", ["countersign-cli", "portal"])
@pytest.mark.parametrize("resource", [CONTROL, CRM, CRM_URL, CRM_AUDIENCE])
async def test_client_credentials_public_client_gets_no_audience(
    authority: Authority, client_id: str, resource: str
) -> None:
    workload = authority.workload()
    form = {"grant_type": "client_credentials", "client_id": client_id, "resource": resource}
    answer = await authority.post(form, {"dpop": workload.proof()})
    assert error_of(answer) == "invalid_target"
