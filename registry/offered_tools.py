"""Which of the definitions a server shows are tools at all, a tool at a time.

A name offered twice is nobody's: neither definition is taken. Left out: what is approved.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from registry.tool_digest import MAXIMUM_DEFINITION_BYTES, canonical_definition, tool_digest

MAXIMUM_TOOLS_PER_SERVER: Final = 1_000
TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")  # as `registry.objects.ToolPattern`


@dataclass(frozen=True, slots=True)
class Offer:
    """An acceptable definition and its digest."""

    definition: Mapping[str, Any]
    digest: str


async def offered_tools(
    tools: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Offer], tuple[str, ...]]:
    """The acceptable definitions by name, and what was refused.

    A thousand digests: between two of them everybody else on the event loop goes on.
    """
    offered: dict[str, Offer] = {}
    refused: set[str] = set()
    for position, tool in enumerate(tools):
        name = tool.get("name")
        if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
            refused.add(f"#{position}")
        elif name in offered or position >= MAXIMUM_TOOLS_PER_SERVER or not _is_acceptable(tool):
            refused.add(name)
        else:
            offered[name] = Offer(tool, tool_digest(tool))
        await asyncio.sleep(0)
    for name in refused:
        offered.pop(name, None)
    return offered, tuple(sorted(refused))


def _is_acceptable(tool: Mapping[str, Any]) -> bool:
    if not isinstance(tool.get("inputSchema"), Mapping):
        return False
    return len(canonical_definition(tool)) <= MAXIMUM_DEFINITION_BYTES
