"""Open calls end when what they were allowed on no longer holds."""

import asyncio

import msgspec
import pytest

from audit_log.event import Outcome
from mcp_gateway import standing
from mcp_gateway.compiled_view import CompiledView
from mcp_gateway.parts import Parts
from mcp_gateway.stages import Approved
from mcp_gateway.standing import end_what_no_longer_stands
from registry.snapshot import PolicyDocument, PolicySetEntry
from tests.mcp_gateway.rig import (
    GRANTS,
    NOW,
    TOOLS,
    Exchange,
    Rig,
    agent_entry,
    server_entry,
    tool_call,
)
from tests.mcp_gateway.test_streaming import CALL, FINAL, NOTE, last_error, opened, stream

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("attack-28")]


def policies(text: str) -> PolicySetEntry:
    return PolicySetEntry(4, (PolicyDocument("support", text),))


async def adopted(rig: Rig, **changes: object) -> None:
    view = msgspec.structs.replace(rig.view, version=rig.view.version + 1, **changes)
    rig.adopt(view)
    await end_what_no_longer_stands(rig.parts)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"servers": ()}, id="endpoint gone"),
        pytest.param({"servers": (server_entry(url="http://other.example/mcp"),)}, id="moved"),
        pytest.param({"servers": (server_entry(tools=TOOLS[1:]),)}, id="tool withdrawn"),
        pytest.param({"agents": ()}, id="agent gone"),
        pytest.param({"agents": (agent_entry(minimum_level=2),)}, id="level too low"),
        pytest.param({"agents": (agent_entry(tools=("crm/refund",)),)}, id="beyond the ceiling"),
        pytest.param({"agents": (agent_entry(groups=()),)}, id="no longer granted"),
        pytest.param({"policies": policies("")}, id="no policies"),
        pytest.param(
            {"policies": policies(GRANTS + "forbid (principal, action, resource);")}, id="forbidden"
        ),
        pytest.param({"token_keys": ()}, id="token key withdrawn"),
    ],
)
async def test_stream_ends_when_a_new_snapshot_would_refuse_its_call(
    rig: Rig, changes: dict[str, object]
) -> None:
    reply = stream(NOTE, asyncio.Event())
    exchange, task = await opened(rig, reply)
    await adopted(rig, **changes)
    async with asyncio.timeout(5):
        await task
    assert reply.is_closed
    assert exchange.is_finished
    assert exchange.body.startswith(NOTE)
    error = last_error(exchange)
    assert (error["code"], error["message"]) == (-32008, "The call is no longer permitted.")
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.REVOKED, "withdrawn")


async def test_stream_goes_on_when_a_new_snapshot_would_allow_its_call_again(rig: Rig) -> None:
    more = asyncio.Event()
    exchange, task = await opened(rig, stream(NOTE, more, FINAL))
    await adopted(rig, servers=(server_entry(tools=(*TOOLS[:1], *TOOLS[2:])),))
    rig.clock.now += 60  # time alone, short of the token's end, ends nothing
    await adopted(rig, policies=policies(GRANTS + "\n// a comment"))
    more.set()
    await task
    assert exchange.body == NOTE + FINAL
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED


async def test_call_with_arguments_the_new_policies_refuse_ends_and_another_goes_on(
    rig: Rig,
) -> None:
    more = asyncio.Event()
    rig.upstream.will(stream(NOTE, more, FINAL), stream(NOTE, more, FINAL))
    small, large = Exchange(), Exchange()
    tasks = [
        rig.start(small, rig.http(tool_call("refund", {"amount": 50}))),
        rig.start(large, rig.http(tool_call("refund", {"amount": 450}))),
    ]
    await small.until(lambda: bool(small.body))
    await large.until(lambda: bool(large.body))
    await adopted(rig, policies=policies(GRANTS.replace("<= 500", "<= 100")))
    await large.until(lambda: large.is_finished)
    more.set()
    await asyncio.gather(*tasks)
    assert small.body == NOTE + FINAL
    assert last_error(large)["code"] == -32008


async def test_snapshot_between_decision_and_reply_ends_the_call_before_anything_leaves(
    rig: Rig,
) -> None:
    async def refuse() -> None:
        await adopted(rig, policies=policies(""))
        await asyncio.sleep(0)  # the network's answer takes at least a turn of the loop
        await asyncio.sleep(0)

    rig.authority.before = refuse
    exchange = await rig.post(CALL)
    assert exchange.status == 403
    assert exchange.json["error"]["code"] == -32008
    assert not rig.upstream.requests
    assert rig.events("call.finished")[-1].outcome is Outcome.REVOKED


async def test_call_that_cannot_be_judged_ends_and_keeps_no_other_from_being_judged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [await opened(rig, stream(NOTE, asyncio.Event())) for _ in range(3)]
    first, *_ = rig.parts.open_calls.all()

    def fail_for_one(approved: Approved, view: CompiledView, parts: Parts) -> bool:
        if approved is first.approved:
            raise RuntimeError
        return standing_under(approved, view, parts)

    standing_under = standing.still_stands
    monkeypatch.setattr(standing, "still_stands", fail_for_one)
    await adopted(rig, policies=policies(""))
    async with asyncio.timeout(5):
        await asyncio.gather(*(task for _, task in calls))
    assert [event.error_code for event in rig.events("call.finished")] == ["withdrawn"] * 3


async def test_stream_ends_with_its_token(rig: Rig) -> None:
    rig.upstream.will(stream(NOTE, asyncio.Event()))
    token = rig.token(rig.claims(exp=NOW + 1))
    request = rig.http(CALL, token=token)
    rig.clock.now = NOW + 0.5
    exchange = Exchange()
    async with asyncio.timeout(5):
        await rig.start(exchange, request)
    assert exchange.body.startswith(NOTE)
    assert last_error(exchange)["message"] == "The token has expired."
    (outcome,) = rig.events("call.finished")
    assert (outcome.outcome, outcome.error_code) == (Outcome.FAILED, "expired")
    assert len(rig.parts.open_calls) == 0
