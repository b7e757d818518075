"""Whether an open call still stands under a newer snapshot, and the end of those that do not.

Everything that allowed the call is asked again, under the new snapshot: the endpoint exists and
leads to the same server; the token verifies, its agents are registered and strong enough, its
binding is what the server requires; the tool is within the ceiling; policy allows the recorded
request, at the recorded time (passing time alone ends a call only with its token). Blocks and
epochs are `OpenCalls.recheck`, which also acts between snapshots.
"""

import asyncio
from typing import Final

from mcp_gateway.caller import Caller, presented_again, standing_problem
from mcp_gateway.ceiling import ceiling
from mcp_gateway.compiled_view import CatalogueTool, CompiledView
from mcp_gateway.open_calls import EndedBy
from mcp_gateway.parts import Parts
from mcp_gateway.run_context import call_request
from mcp_gateway.stages import Approved

LOOKED_AT_ONCE: Final = 50  # evaluation holds the interpreter: let calls through in between


async def end_what_no_longer_stands(parts: Parts) -> int:
    """Ask again about every open call, after a snapshot was adopted; how many were ended."""
    ended = 0
    for number, call in enumerate(parts.open_calls.all(), start=1):
        view = parts.enforcement.view
        if view is not None and not call.is_over and not still_stands(call.approved, view, parts):
            call.end(EndedBy.WITHDRAWN)
            ended += 1
        if number % LOOKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return ended


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
    endpoint = view.endpoints.get(intent.endpoint.path)
    if endpoint is None or endpoint.server.url != intent.endpoint.server.url:
        return False
    now = int(parts.clock())
    caller = parts.callers.resolve(presented_again(intent.caller), endpoint, view, now)
    if not isinstance(caller, Caller):
        return False
    tool = ceiling(caller, endpoint, call.name)
    if not isinstance(tool, CatalogueTool):
        return False
    asked = call_request(caller, call, tool, intent.decided_at_ms)
    return parts.decisions.decide(view, asked).allowed
