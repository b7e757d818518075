"""How many runs an agent may end: enough for its work, too few to fill everybody's memory."""

import pytest

from audit_log.event import EventType, Outcome
from authz_server.endpoints import invocation_end
from registry.blocks import BlockKind
from tests.authz_server.back_half import Authority, Keyholder, payload_of
from tests.authz_server.test_invocation_end import alone, begin_family, blended, end

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("run-end-budget")]

BUDGET = 3
BUDGET_OF_AGENT = 5


@pytest.fixture(autouse=True)
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation_end, "ENDS_AN_HOUR", BUDGET)
    monkeypatch.setattr(invocation_end, "ENDS_OF_AGENT_AN_HOUR", BUDGET_OF_AGENT)


async def end_of(holder: Keyholder, invocation: str, person: str = "usr_alice") -> int:
    token = holder.authority.sign_token(blended(holder, inv=invocation, sub=person))
    return (await end(holder, token, invocation)).status_code


def is_blocked(authority: Authority, invocation: str) -> bool:
    return (BlockKind.INVOCATION, invocation) in authority.parts.live.blocks.entries


async def test_run_ended_over_the_budget_is_refused_recorded_and_goes_on(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    runs = [await alone(workload) for _ in range(BUDGET + 1)]
    for token, invocation in runs[:BUDGET]:
        assert (await end(workload, token, invocation)).status_code == 204
    sequence = authority.parts.revocations.sequence()
    token, invocation = runs[-1]
    answer = await end(workload, token, invocation)
    assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")
    assert answer.headers["retry-after"] == str(invocation_end.RETRY_SECONDS)
    assert not is_blocked(authority, invocation)
    assert authority.parts.revocations.sequence() == sequence
    assert len(authority.cuts(EventType.INVOCATION_ENDED)) == BUDGET
    (event,) = authority.spool.of(EventType.INVOCATION_REFUSED)
    assert (event.outcome, event.reasons) == (Outcome.DENIED, ("run.too_many_ends",))
    assert (event.agent, event.invocation, event.presented_token_id) == (
        "batch-bot",
        invocation,
        payload_of(token)["jti"],
    )
    assert (await alone(workload, invocation_token=token))[1] == invocation


async def test_refresh_tokens_of_a_run_end_over_the_budget_too(authority: Authority) -> None:
    holder, store = Keyholder(authority), authority.parts.refresh_tokens
    await begin_family(holder, "fam_1", "first", "inv_mine")
    for number in range(BUDGET):
        assert await end_of(holder, f"inv_{number}") == 204
    assert await end_of(holder, "inv_mine") == 429
    ended = await store.find("first")
    assert ended is not None
    assert ended.is_revoked


async def test_run_is_ended_again_when_the_hour_is_over(authority: Authority) -> None:
    holder = Keyholder(authority)
    for number in range(BUDGET):
        assert await end_of(holder, f"inv_{number}") == 204
    authority.clock.now += 3_599
    assert await end_of(holder, "inv_late") == 429
    authority.clock.now += 2
    assert await end_of(holder, "inv_late") == 204
    assert is_blocked(authority, "inv_late")


async def test_ended_run_is_ended_again_whatever_is_left_of_the_budget(
    authority: Authority,
) -> None:
    holder = Keyholder(authority)
    for number in range(BUDGET):
        assert await end_of(holder, f"inv_{number}") == 204
    for _ in range(BUDGET):
        assert await end_of(holder, "inv_0") == 204
    assert await end_of(holder, "inv_new") == 429


async def test_budget_is_of_one_agent_and_one_person(authority: Authority) -> None:
    holder, workload = Keyholder(authority), authority.workload(1002)
    for number in range(BUDGET):
        assert await end_of(holder, f"inv_{number}") == 204
    assert await end_of(holder, "inv_a") == 429
    assert await end_of(holder, "inv_b", "usr_bob") == 204  # the same agent for somebody else
    token, invocation = await alone(workload)  # another agent
    assert (await end(workload, token, invocation)).status_code == 204


async def test_budget_of_an_agent_is_one_over_all_persons_and_itself(authority: Authority) -> None:
    holder, store = Keyholder(authority), authority.parts.refresh_tokens
    for number in range(BUDGET_OF_AGENT):
        assert await end_of(holder, f"inv_{number}", f"usr_{number}") == 204
    await begin_family(holder, "fam_1", "first", "inv_late")
    sequence = authority.parts.revocations.sequence()
    token = authority.sign_token(blended(holder, inv="inv_late", sub="usr_late"))
    answer = await end(holder, token, "inv_late")
    assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")
    assert answer.headers["retry-after"] == "60"
    # With what it tells of: refresh tokens ended.
    (event,) = authority.cuts(EventType.INVOCATION_REFUSED)
    assert event.reasons == ("run.too_many_ends_of_agent",)
    assert (event.outcome, event.user) == (Outcome.DENIED, "usr_late")
    assert authority.parts.revocations.sequence() == sequence
    assert not is_blocked(authority, "inv_late")
    ended = await store.find("first")
    assert ended is not None
    assert ended.is_revoked  # no gateway remembers families
    # Another agent has its own, and this one has it again when the hour is over.
    workload = authority.workload(1002)
    alones, invocation = await alone(workload)
    assert (await end(workload, alones, invocation)).status_code == 204
    authority.clock.now += 3_601
    assert await end_of(holder, "inv_late", "usr_late") == 204


async def test_operators_and_replays_spend_nothing_of_the_budget(authority: Authority) -> None:
    for number in range(BUDGET + 1):
        await authority.block(BlockKind.INVOCATION, f"inv_{number}")
    assert await end_of(Keyholder(authority), "inv_mine") == 204


async def test_budget_is_one_over_all_processes(authority: Authority) -> None:
    other = await authority.another_process()
    try:
        for number in range(BUDGET):
            assert await end_of(Keyholder(other), f"inv_{number}") == 204
        assert await end_of(Keyholder(authority), "inv_mine") == 429
    finally:
        other.database.close()


async def test_thief_without_the_key_spends_nothing_of_the_agents_budget(
    authority: Authority,
) -> None:
    holder, thief = Keyholder(authority), Keyholder(authority)
    for number in range(BUDGET + 1):
        token = authority.sign_token(blended(holder, inv=f"inv_{number}"))
        assert (await end(thief, token, f"inv_{number}")).status_code == 401
    assert await end_of(holder, "inv_mine") == 204
