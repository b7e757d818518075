"""A flood of refusals neither fills the audit nor hides who proved themselves in it."""

import pytest

from audit_log.refusal_budgets import STRANGERS_PER_SECOND
from tests.authz_server.back_half import Authority, error_of

pytestmark = pytest.mark.anyio

STRANGER = {"grant_type": "client_credentials", "client_id": "nobody"}


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
async def test_refusals_of_strangers_are_written_up_to_a_rate_and_then_counted(
    authority: Authority,
) -> None:
    for _ in range(STRANGERS_PER_SECOND + 9):
        assert error_of(await authority.post(STRANGER)) == "invalid_client"
    assert len(authority.refusals()) == STRANGERS_PER_SECOND
    authority.clock.now += 1
    await authority.post(STRANGER)
    assert (authority.refusals()[-1].detail or "").endswith("(and 9 refusals before it)")


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
async def test_refusal_of_a_proved_client_is_written_beside_a_flood_of_strangers(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    for _ in range(STRANGERS_PER_SECOND + 9):
        await authority.post(STRANGER | {"client_id": "gateway:demo"})  # saying so proves nothing
    await gateway.ask_control(resource="https://elsewhere.example")
    assert authority.refusals()[-1].reasons == ("token.resource",)
    assert authority.refusals()[-1].client_id == "gateway:demo"
