"""What a person agreed to, or an admin for them by mandate, at the moment of the exchange."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from audit_log.event import EventType, Outcome
from registry.blocks import BlockKind
from tests.authz_server.back_half import CRM, ISSUER, NOW, agent, error_of
from tests.authz_server.blend_answers import (
    assert_refused,
    change_agent,
    change_tools,
    claims_of,
    details,
    tools_of,
    while_the_provider_is_asked,
)
from tests.authz_server.blending import MANDATE_BOT, Blending, acts_for, subject_tokens

pytestmark = pytest.mark.anyio


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
    async def take_away() -> None:
        tools = ["crm/get_*", "crm/refund", "notes/search"]
        changed = agent("mandate-bot", MANDATE_BOT, tools, acts_for=acts_for())
        await asyncio.create_task(blending.declare(changed))  # by somebody else meanwhile

    while_the_provider_is_asked(blending, monkeypatch, take_away)
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

    async def move() -> None:
        monkeypatch.setattr(type(live), "snapshot", property(lambda _: changed))

    while_the_provider_is_asked(blending, monkeypatch, move)
    assert_refused(blending, await blending.ask(), "blend.changed")
    assert_refused(blending, await blending.ask(), "blend.no_consent")


async def test_provider_that_cannot_be_watched_any_more_while_it_is_asked_vouches_for_nobody(
    blending: Blending, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blending.consent()

    async def lose_sight() -> None:
        blending.authority.parts.unwatched.add("partner")

    while_the_provider_is_asked(blending, monkeypatch, lose_sight)
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
