"""An attested agent presents a person's token: what it gets, and every way it does not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from audit_log.event import EventType, PrincipalKind
from tests.authz_server.back_half import CRM, ISSUER, NOW, error_of, payload_of
from tests.authz_server.blending import MANDATE_BOT, Blending, start_blending
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN

pytestmark = pytest.mark.anyio


@pytest.fixture
async def blending(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Blending]:
    del anyio_backend
    made = await start_blending(tmp_path)
    yield made
    made.authority.database.close()


async def test_persons_token_with_a_stored_consent_becomes_a_blended_token(
    blending: Blending,
) -> None:
    consent = await blending.consent("get_account")
    workload = blending.authority.workload(2000)
    answer = await workload.ask(**blending.form())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    claims = payload_of(body.pop("access_token"))
    assert body == {
        "token_type": "DPoP",
        "expires_in": 55,
        "scope": "mcp:tools",
        "issued_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "authorization_details": claims["authorization_details"],
    }
    assert claims["sub"] == consent.sub
