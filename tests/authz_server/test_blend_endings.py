"""What ends the access that a person's token gave: blocks, changes and logouts at the provider."""

import pytest

from authz_server.endpoints.token import STALE
from authz_server.person_changes import apply_change
from idp_connectors.workforce.person_changes import ChangeKind, PersonChange
from registry.blocks import BlockKind
from tests.authz_server.back_half import NOW, error_of
from tests.authz_server.blend_answers import claims_of
from tests.authz_server.blending import Blending

pytestmark = pytest.mark.anyio


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
    assert blending.refusal().user == consent.sub
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
