"""Who may present a person's token: the attested agent that lists it, and no other actor."""

from typing import Any

import httpx2
import pytest

from tests.authz_server.back_half import CRM_URL, NOW, error_of
from tests.authz_server.blend_answers import assert_refused, claims_of
from tests.authz_server.blending import OTHER_BOT, PORTAL_BOT, Blending
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN, TOKEN_TYPE_JWT

pytestmark = pytest.mark.anyio


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
