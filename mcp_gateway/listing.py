"""Answers `server/discover` and `tools/list` from what is approved: no upstream is asked.

A list shows what the same ceiling and the same policies would let this caller try (arguments
aside), in the order of names, from the definitions as they were approved. It may differ between
callers and is therefore private. Hiding is not enforcement: a call is decided again.
"""

import asyncio
import base64
import binascii
from typing import Any, Final

from mcp_gateway.caller import Caller
from mcp_gateway.ceiling import tools_within_ceiling
from mcp_gateway.compiled_view import CatalogueTool, CompiledView, Endpoint
from mcp_gateway.errors import rejected, rpc_result
from mcp_gateway.http_message import Answer
from mcp_gateway.inbound import (
    INVALID_PARAMS,
    SUPPORTED_VERSIONS,
    Discover,
    ListTools,
    Rejection,
)
from mcp_gateway.run_context import agent_facts, run_facts, user_facts

PAGE_SIZE: Final = 100
LIST_TTL_MS: Final = 5_000
DECIDED_AT_ONCE: Final = 50  # evaluation holds the interpreter: let calls through in between
SERVER_VERSION: Final = "1"
SERVER_INFO_KEY: Final = "io.modelcontextprotocol/serverInfo"


def discovered(request: Discover, endpoint: Endpoint) -> Answer:
    """What this endpoint serves."""
    result = {
        "resultType": "complete",
        "supportedVersions": list(SUPPORTED_VERSIONS),
        "capabilities": {"tools": {}},
        **_common(endpoint),
    }
    return rpc_result(request.id, result)


async def listed_tools(
    request: ListTools, caller: Caller, endpoint: Endpoint, view: CompiledView, now_ms: int
) -> Answer:
    """One page of the tools this caller may try."""
    after = "" if request.cursor is None else _name_of(request.cursor)
    if after is None:
        message = "cursor is not one of ours."
        return rejected(Rejection(400, INVALID_PARAMS, message, request.id))
    candidates = [
        tool for tool in tools_within_ceiling(caller, endpoint) if tool.entry.name > after
    ]
    visible = await _visible(candidates, request, caller, view, now_ms)
    result: dict[str, Any] = {
        "resultType": "complete",
        "tools": [tool.entry.definition for tool in visible[:PAGE_SIZE]],
        **_common(endpoint),
    }
    if len(visible) > PAGE_SIZE:
        result["nextCursor"] = _cursor_of(visible[PAGE_SIZE - 1].entry.name)
    return rpc_result(request.id, result)


async def _visible(
    candidates: list[CatalogueTool],
    request: ListTools,
    caller: Caller,
    view: CompiledView,
    now_ms: int,
) -> list[CatalogueTool]:
    """The first visible candidates: one more than a page, to know whether there is another."""
    if view.policies is None:
        return []
    agent, user, run = agent_facts(caller), user_facts(caller), run_facts(caller, request.meta)
    found: list[CatalogueTool] = []
    for start in range(0, len(candidates), DECIDED_AT_ONCE):
        part = candidates[start : start + DECIDED_AT_ONCE]
        facts = [tool.facts for tool in part]
        shown = frozenset(view.policies.visible(agent, user, run, now_ms, facts))
        found.extend(tool for tool in part if tool.facts.id in shown)
        if len(found) > PAGE_SIZE:
            break
        await asyncio.sleep(0)
    return found


def _common(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",
        "_meta": {SERVER_INFO_KEY: {"name": endpoint.server.name, "version": SERVER_VERSION}},
    }


def _cursor_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode("ascii")


def _name_of(cursor: str) -> str | None:
    """The tool name a cursor continues after. Not secret: whatever it says, the ceiling holds."""
    try:
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return None
