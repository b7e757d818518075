"""Discovery: the one exchange without a person, with the gateway's own control token."""

from typing import Any

import msgspec
import pytest

from audit_log.event import EventType, PrincipalKind
from credential_providers.vault.seal import unseal_credential
from tests.authz_server.back_half import (
    API_KEY,
    CRM_AUDIENCE,
    CRM_URL,
    LEDGER_URL,
    NOTES_URL,
    NOW,
    Authority,
    GatewayProcess,
    error_of,
    payload_of,
)
from token_exchange.token_types import TOKEN_TYPE_STATIC_SECRET

pytestmark = pytest.mark.anyio


def discovery(server: str) -> str:
    return msgspec.json.encode([{"type": "mcp_discovery", "server": server}]).decode()


async def discover(gateway: GatewayProcess, server: str, **changes: Any) -> Any:
    return await gateway.exchange(
        await gateway.control_token(), authorization_details=discovery(server), **changes
    )


@pytest.mark.requirement("exchange-discovery")
async def test_exchange_for_discovery_gives_a_token_of_the_gateway(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await discover(gateway, "crm")
    assert answer.status_code == 200, answer.text
    claims = payload_of(answer.json()["access_token"])
    assert claims["sub"] == claims["client_id"] == "gateway:demo"
    assert claims["sub_profile"] == "service"
    assert claims["scope"] == "mcp:discover"
    assert claims["aud"] == CRM_AUDIENCE
    assert claims["exp"] <= NOW + 60
    assert "act" not in claims
    (event,) = authority.spool.of(EventType.TOKEN_EXCHANGED)
    assert event.principal_kind is PrincipalKind.GATEWAY
    assert event.user is None


async def test_exchange_for_discovery_hands_out_a_static_secret(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await discover(
        gateway, "notes", resource=NOTES_URL, requested_token_type=TOKEN_TYPE_STATIC_SECRET
    )
    assert answer.status_code == 200, answer.text
    private = gateway.key.as_dict(private=True)
    sealed = answer.json()["access_token"]
    assert unseal_credential(sealed, private) == ("x-api-key", API_KEY)


@pytest.mark.parametrize(
    ("server", "resource", "code"),
    [
        ("ledger", LEDGER_URL, "invalid_target"),
        ("notes", CRM_URL, "invalid_authorization_details"),
        ("crm", NOTES_URL, "invalid_authorization_details"),
        ("crm", CRM_AUDIENCE, "invalid_target"),
    ],
)
async def test_exchange_for_discovery_elsewhere_is_refused(
    authority: Authority, server: str, resource: str, code: str
) -> None:
    gateway = await authority.enrolled()
    assert error_of(await discover(gateway, server, resource=resource)) == code


async def test_exchange_for_discovery_cannot_call_tools(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.exchange(await gateway.control_token())
    assert error_of(answer) == "invalid_authorization_details"
    assert error_of(await discover(gateway, "crm", scope="mcp:tools")) == "invalid_scope"


@pytest.mark.requirement("exchange-discovery")
async def test_exchange_for_discovery_with_another_gateways_token_is_refused(
    authority: Authority,
) -> None:
    own, other = await authority.enrolled("demo"), await authority.enrolled("other")
    answer = await own.exchange(await other.control_token(), authorization_details=discovery("crm"))
    assert error_of(answer) == "invalid_request"
    assert authority.refusals()[0].reasons == ("exchange.discovery_subject",)
