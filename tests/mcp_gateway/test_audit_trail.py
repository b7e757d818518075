"""What a stranger's text may do to the audit: nothing."""

import pytest

from mcp_gateway.audit_trail import MAXIMUM_DETAIL_LENGTH
from tests.mcp_gateway.rig import FakeReply, HttpCall, Rig, tool_call

pytestmark = pytest.mark.anyio

CALL = tool_call("get_account", {"id": 1})


@pytest.mark.requirement("audit-durable")
@pytest.mark.parametrize("text", ["text/\udcff", "\ud800", "a\0\x1b[2J\u202e\n", "x" * 70_000])
async def test_reply_of_any_media_type_has_an_outcome(rig: Rig, text: str) -> None:
    rig.upstream.will(FakeReply(media_type=text, body=(b"x",)))
    exchange = await rig.post(CALL)
    assert exchange.status == 502
    (outcome,) = rig.events("call.finished")
    assert outcome.error_code == "upstream_reply_invalid"
    assert outcome.detail is not None
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= MAXIMUM_DETAIL_LENGTH


async def test_detail_of_a_refusal_is_cut_and_the_number_before_it_stays(rig: Rig) -> None:
    for _ in range(60):
        rig.parts.audit.not_accepted("POST", "/", 404, "\ud800" * 1000)
    rig.clock.now += 1
    rig.parts.audit.not_accepted("POST", "/", 404, "\ud800" * 1000)
    *_, last = rig.events("call.refused")
    assert last.detail == "?" * MAXIMUM_DETAIL_LENGTH + " (and 10 refusals before it)"


async def test_path_of_any_characters_is_refused_and_recorded(rig: Rig) -> None:
    request = HttpCall(rig.http(CALL).headers, path="/\x7f\xff\x00")
    assert (await rig.send(request)).status == 404
    (refused,) = rig.events("call.refused")
    assert refused.request_path is not None
    assert refused.request_path.isprintable()
