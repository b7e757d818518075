"""The end of a run: by its own agent and key alone, for good, at any time, as often as it likes."""

from typing import Any

import httpx2
import msgspec
import pytest

from audit_log.event import EventType, Outcome, PrincipalKind
from authz_server.endpoints import invocation_end
from authz_server.grants.client_credentials import MAXIMUM_PAUSE_SECONDS
from authz_server.store.refresh_tokens import RefreshGrant, begin_in
from database.errors import DatabaseUnavailableError
from registry.blocks import BlockKind
from registry.publisher import UnpublishableRegistryError
from tests.authz_server.back_half import (
    CONTROL,
    ISSUER,
    NOTES,
    Authority,
    Keyholder,
    Workload,
    error_of,
    payload_of,
)
from token_exchange.claims import AccessTokenClaims, Confirmation

pytestmark = pytest.mark.anyio


def end_uri(invocation: str) -> str:
    return f"{ISSUER}/invocations/{invocation}/end"


async def end(
    holder: Keyholder, token: str, invocation: str, *, headers: dict[str, str] | None = None
) -> httpx2.Response:
    uri = end_uri(invocation)
    own = {"authorization": f"DPoP {token}", "dpop": holder.proof(uri, access_token=token)}
    async with holder.authority.http() as http:
        return await http.post(uri, headers=own if headers is None else headers)


async def alone(workload: Workload, **changes: Any) -> tuple[str, str]:
    """A token of the agent alone, and its run."""
    answer = await workload.ask(**changes)
    assert answer.status_code == 200, answer.text
    token = str(answer.json()["access_token"])
    return token, str(payload_of(token)["inv"])


def blended(holder: Keyholder, **changes: Any) -> AccessTokenClaims:
    authority = holder.authority
    return authority.blended(cnf=Confirmation(holder.thumbprint), **changes)


@pytest.mark.requirement("C30")
async def test_invocation_end_blocks_the_run_and_is_audited(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    answer = await end(workload, token, invocation)
    assert (answer.status_code, answer.content) == (204, b"")
    entry = authority.parts.live.blocks.entries[(BlockKind.INVOCATION, invocation)]
    assert entry.blocked
    assert entry.not_before >= authority.now
    (event,) = authority.cuts(EventType.INVOCATION_ENDED)
    assert (event.outcome, event.agent, event.invocation, event.presented_token_id) == (
        Outcome.REVOKED,
        "batch-bot",
        invocation,
        payload_of(token)["jti"],
    )
    assert event.principal_kind is PrincipalKind.AGENT_ALONE
    assert event.author == "agent:batch-bot"


@pytest.mark.requirement("C30")
async def test_invocation_end_again_changes_nothing(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    await end(workload, token, invocation)
    sequence = authority.parts.revocations.sequence()
    assert (await end(workload, token, invocation)).status_code == 204
    assert authority.parts.revocations.sequence() == sequence
    assert len(authority.cuts(EventType.INVOCATION_ENDED)) == 1


@pytest.mark.requirement("C30")
@pytest.mark.parametrize(
    "error",
    [DatabaseUnavailableError("away"), UnpublishableRegistryError(())],
    ids=["away", "unpublishable"],
)
async def test_invocation_end_that_nobody_here_can_read_yet_is_made(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails() -> None:
        raise error

    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    monkeypatch.setattr(authority.parts.live, "refresh", fails)
    assert (await end(workload, token, invocation)).status_code == 204
    entries = authority.parts.revocations.state().entries
    assert entries[(BlockKind.INVOCATION, invocation)].blocked


@pytest.mark.requirement("C30")
async def test_invocation_end_is_recorded_also_when_the_spool_is_full(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    authority.spool.is_broken = True
    assert (await end(workload, token, invocation)).status_code == 204
    authority.spool.is_broken = False
    assert (await end(workload, token, invocation)).status_code == 204
    (event,) = authority.cuts(EventType.INVOCATION_ENDED)
    assert event.invocation == invocation


@pytest.mark.requirement("C30")
async def test_invocation_end_with_an_expired_token_still_ends_the_run(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    authority.clock.now += 100_000
    assert (await end(workload, token, invocation)).status_code == 204
    assert (BlockKind.INVOCATION, invocation) in authority.parts.live.blocks.entries


async def begin_family(holder: Keyholder, family_id: str, token: str, invocation: str) -> None:
    now = holder.authority.now
    granted = RefreshGrant(
        client_id="support-bot",
        agent="support-bot",
        resource=NOTES,
        scope="mcp:tools",
        details=(),
        key=holder.thumbprint,
        sub="usr_alice",
        sid="ses_1",
        session_created_at=now,
        gid="grt_1",
        invocation=invocation,
        transaction="txn_1",
        created_at=now,
        expires_at=now + 3600,
    )
    await holder.authority.database.write(
        lambda connection: begin_in(connection, family_id, token, granted)
    )


@pytest.mark.requirement("C30")
async def test_invocation_end_for_a_person_ends_the_refresh_families_of_that_run_alone(
    authority: Authority,
) -> None:
    holder = Keyholder(authority)
    store = authority.parts.refresh_tokens
    await begin_family(holder, "fam_1", "first", "inv_1")
    await begin_family(holder, "fam_2", "second", "inv_2")
    token = authority.sign_token(blended(holder))
    assert (await end(holder, token, "inv_1")).status_code == 204
    ended, other = await store.find("first"), await store.find("second")
    assert ended is not None
    assert ended.is_revoked
    assert other is not None
    assert not other.is_revoked
    (event,) = authority.cuts(EventType.INVOCATION_ENDED)
    assert (event.user, event.session, event.consent) == ("usr_alice", "ses_1", "grt_1")
    assert event.actor_chain == ("support-bot",)


@pytest.mark.requirement("C30")
async def test_invocation_end_of_another_run_is_refused(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, _ = await alone(workload)
    _, others = await alone(authority.workload(1002))
    answer = await end(workload, token, others)
    assert (answer.status_code, error_of(answer)) == (403, "insufficient_scope")
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert (BlockKind.INVOCATION, others) not in authority.parts.live.blocks.entries
    (event,) = authority.spool.of(EventType.INVOCATION_REFUSED)
    assert (event.outcome, event.reasons) == (Outcome.DENIED, ("run.other",))


@pytest.mark.requirement("C30")
async def test_invocation_end_needs_the_key_of_the_token(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    uri, bound = end_uri(invocation), {"authorization": f"DPoP {token}"}
    thief = Keyholder(authority)
    good = workload.proof(uri, access_token=token)
    for headers, error in (
        (bound, "invalid_dpop_proof"),
        (bound | {"dpop": thief.proof(uri, access_token=token)}, "invalid_dpop_proof"),
        (bound | {"dpop": workload.proof(uri)}, "invalid_dpop_proof"),
        (bound | {"dpop": workload.proof(uri, "GET", token)}, "invalid_dpop_proof"),
        (bound | {"dpop": workload.proof(end_uri("inv_2"), access_token=token)}, None),
        ({"authorization": f"Bearer {token}", "dpop": good}, "invalid_token"),
        ({"dpop": good}, "invalid_token"),
    ):
        answer = await end(workload, token, invocation, headers=headers)
        assert answer.status_code == 401, answer.text
        assert error_of(answer) == (error or "invalid_dpop_proof")
        assert answer.headers["www-authenticate"].startswith("DPoP ")
    assert not authority.cuts(EventType.INVOCATION_ENDED)
    # The accepted twin, whose proof is then good no more.
    headers = bound | {"dpop": good}
    assert (await end(workload, token, invocation, headers=headers)).status_code == 204
    replayed = await end(workload, token, invocation, headers=headers)
    assert (replayed.status_code, error_of(replayed)) == (401, "invalid_dpop_proof")


@pytest.mark.requirement("C30")
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://elsewhere.example.com"},
        {"aud": CONTROL},
        {"inv": None},
        {"cnf": None},
        {"act": None},
        {"iss": "https://another.example.com"},
    ],
)
async def test_invocation_end_takes_only_an_agents_token_for_an_endpoint(
    authority: Authority, changes: dict[str, Any]
) -> None:
    holder = Keyholder(authority)
    claims = msgspec.structs.replace(blended(holder), **changes)
    answer = await end(holder, authority.sign_token(claims), "inv_1")
    assert (answer.status_code, error_of(answer)) == (401, "invalid_token")
    twin = await end(holder, authority.sign_token(blended(holder)), "inv_1")
    assert twin.status_code == 204


async def test_invocation_end_with_somebody_elses_signature_is_refused(
    authority: Authority,
) -> None:
    holder = Keyholder(authority)
    head, payload, signature = authority.sign_token(blended(holder)).split(".")
    forged = f"{head}.{payload}.{signature[:-4]}AAAA"
    answer = await end(holder, forged, "inv_1")
    assert (answer.status_code, error_of(answer)) == (401, "invalid_token")


async def test_invocation_end_that_cannot_be_recorded_ends_nothing_and_says_so(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)

    def broken(*_: object) -> None:
        raise DatabaseUnavailableError("full")

    with monkeypatch.context() as patched:
        patched.setattr(invocation_end, "append_in", broken)
        assert (await end(workload, token, invocation)).status_code == 503
    assert (BlockKind.INVOCATION, invocation) not in authority.parts.live.blocks.entries
    assert (await end(workload, token, invocation)).status_code == 204
    assert len(authority.cuts(EventType.INVOCATION_ENDED)) == 1


@pytest.mark.requirement("C1")
async def test_run_of_an_agent_alone_goes_on_under_its_id(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    transaction = payload_of(token)["txn"]
    authority.clock.now += 1_000
    await authority.parts.live.refresh()
    again, same = await alone(workload, invocation_token=token)
    assert same == invocation
    assert payload_of(again)["txn"] == transaction
    assert payload_of(again)["jti"] != payload_of(token)["jti"]
    assert payload_of(again)["exp"] == authority.now + 600


@pytest.mark.requirement("C1")
async def test_run_that_slept_for_too_long_does_not_go_on(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, _ = await alone(workload)
    authority.clock.now += 600 + MAXIMUM_PAUSE_SECONDS - 1
    await authority.parts.live.refresh()
    again, _ = await alone(workload, invocation_token=token)
    authority.clock.now += 600 + MAXIMUM_PAUSE_SECONDS
    await authority.parts.live.refresh()
    answer = await workload.ask(invocation_token=again)
    assert (answer.status_code, error_of(answer)) == (400, "invalid_grant")


@pytest.mark.requirement("C1")
async def test_ended_or_killed_run_does_not_go_on(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    await end(workload, token, invocation)
    answer = await workload.ask(invocation_token=token)
    assert (answer.status_code, error_of(answer)) == (400, "invalid_grant")
    assert authority.refusals()[-1].reasons == ("token.revoked",)
    assert (await workload.ask()).status_code == 200  # another run may begin


@pytest.mark.requirement("C1")
async def test_run_from_before_an_epoch_does_not_go_on(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, _ = await alone(workload)
    await authority.block(BlockKind.AGENT, "batch-bot")
    await authority.restore(BlockKind.AGENT, "batch-bot")
    authority.clock.now += 2
    await authority.parts.live.refresh()
    answer = await workload.ask(invocation_token=token)
    assert (answer.status_code, error_of(answer)) == (400, "invalid_grant")


@pytest.mark.requirement("C1")
async def test_run_goes_on_when_one_token_of_it_was_killed(authority: Authority) -> None:
    workload = authority.workload(1002)
    token, invocation = await alone(workload)
    await authority.block(BlockKind.TOKEN, payload_of(token)["jti"])
    assert (await alone(workload, invocation_token=token))[1] == invocation


@pytest.mark.requirement("C1")
async def test_run_of_another_key_agent_or_person_does_not_go_on(authority: Authority) -> None:
    workload = authority.workload(1002)
    for claims in (
        blended(workload),
        blended(workload, act=None, sub="agent:other", sub_profile="ai_agent", agent="other"),
    ):
        answer = await workload.ask(invocation_token=authority.sign_token(claims))
        assert (answer.status_code, error_of(answer)) == (400, "invalid_grant")
    others, _ = await alone(authority.workload(1002))
    answer = await workload.ask(invocation_token=others)
    assert (answer.status_code, error_of(answer)) == (400, "invalid_grant")
    answer = await workload.ask(invocation_token="nonsense")
    assert (answer.status_code, error_of(answer)) == (400, "invalid_grant")
    assert authority.refusals()[-1].reasons == ("client_credentials.run",)


async def test_gateway_has_no_run_to_go_on_with(authority: Authority) -> None:
    gateway = await authority.enrolled()
    token, _ = await alone(authority.workload(1002))
    answer = await gateway.ask_control(invocation_token=token)
    assert (answer.status_code, error_of(answer)) == (400, "invalid_grant")
