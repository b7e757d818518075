"""Whether an open call still stands under a newer snapshot, and the end of those that do not.

Everything that allowed the call is asked again, under the new snapshot: the endpoint exists and
leads to the same server; the token verifies, its agents are registered and strong enough, its
binding is what the server requires; the tool is within the ceiling; policy allows the recorded
request, at the recorded time (passing time alone ends a call only with its token). Blocks and
epochs are `OpenCalls.recheck`, which also acts between snapshots.
"""

import asyncio
from typing import Final

import structlog

from mcp_gateway.caller import Caller, presented_again, standing_problem
from mcp_gateway.ceiling import ceiling
from mcp_gateway.compiled_view import CatalogueTool, CompiledView, Endpoint
from mcp_gateway.open_calls import EndedBy, OpenCall, OpenStream
from mcp_gateway.parts import Parts
from mcp_gateway.run_context import call_request
from mcp_gateway.stages import Approved

_logger = structlog.get_logger(__name__)

LOOKED_AT_ONCE: Final = 50  # evaluation holds the interpreter: let calls through in between


async def end_what_no_longer_stands(parts: Parts) -> int:
    """Ask again about every open call, after a snapshot was adopted; how many were ended."""
    ended = 0
    for number, call in enumerate(parts.open_calls.all(), start=1):
        view = parts.enforcement.view
        if view is not None and not call.is_over and not _surely_stands(call, view, parts):
            call.end(EndedBy.WITHDRAWN)
            ended += 1
        if number % LOOKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    for number, stream in enumerate(parts.open_calls.streams(), start=1):
        _hold_or_end(stream, parts)
        if number % LOOKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return ended


def _surely_stands(call: OpenCall, view: CompiledView, parts: Parts) -> bool:
    """INVARIANT: what cannot be judged does not stand, and all the others are judged."""
    try:
        return still_stands(call.approved, view, parts)
    except Exception:
        _logger.exception("call_not_judged", decision=call.approved.intent.decision_id)
        return False


def _hold_or_end(stream: OpenStream, parts: Parts) -> None:
    """As above, of a listening stream."""
    try:
        hold_stream_against(stream, parts)
    except Exception:
        _logger.exception("stream_not_judged", endpoint=stream.endpoint.audience)
        stream.end(EndedBy.WITHDRAWN)


def hold_stream_against(stream: OpenStream, parts: Parts) -> None:
    """End a listening stream that is no longer admitted; tell it if its list may have changed."""
    now = int(parts.clock())
    if standing_problem(stream.caller, parts.enforcement.blocks, now):
        stream.end(EndedBy.REVOKED)
        return
    view = parts.enforcement.view
    if view is stream.view:
        return
    held = None if view is None else _caller_under(stream.caller, stream.endpoint, view, parts)
    if view is None or held is None:
        stream.end(EndedBy.WITHDRAWN)
        return
    endpoint, caller = held
    if (
        endpoint.server.tools != stream.endpoint.server.tools
        or caller.agent != stream.caller.agent
        or view.view.policies.version != stream.view.view.policies.version
    ):
        stream.has_news.set()
    stream.endpoint, stream.caller, stream.view = endpoint, caller, view


def overtaken_by(approved: Approved, parts: Parts) -> EndedBy | None:
    """What came between the decision on a call and its registration as an open one."""
    view, now = parts.enforcement.view, int(parts.clock())
    if standing_problem(approved.intent.caller, parts.enforcement.blocks, now):
        return EndedBy.REVOKED
    stands = view is not None and still_stands(approved, view, parts)
    return None if stands else EndedBy.WITHDRAWN


def still_stands(approved: Approved, view: CompiledView, parts: Parts) -> bool:
    """Whether `view` would allow the call that was allowed under another."""
    if approved.view is view:
        return True
    intent, call = approved.intent, approved.call
    held = _caller_under(intent.caller, intent.endpoint, view, parts)
    if held is None:
        return False
    endpoint, caller = held
    tool = ceiling(caller, endpoint, call.name)
    if not isinstance(tool, CatalogueTool):
        return False
    asked = call_request(caller, call, tool, intent.decided_at_ms)
    return parts.decisions.decide(view, asked).allowed


def _caller_under(
    caller: Caller, endpoint: Endpoint, view: CompiledView, parts: Parts
) -> tuple[Endpoint, Caller] | None:
    """The endpoint and the caller under another view, if it still admits the one to the other."""
    current = view.endpoints.get(endpoint.path)
    if current is None or current.server.url != endpoint.server.url:
        return None
    again = parts.callers.resolve(presented_again(caller), current, view, int(parts.clock()))
    return (current, again) if isinstance(again, Caller) else None
