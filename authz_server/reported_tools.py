"""Reads what a gateway says a server showed, a tool at a time.

Not in a thread: the decoder holds the interpreter's lock until it is done, so megabytes at once
would hold up the event loop, which has heartbeats to send, from any thread. The list is taken apart
without making its values, which is quick; then each tool is decoded by itself.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from authz_server.json_body import UNREADABLE, malformed
from registry.tool_digest import MAXIMUM_DEFINITION_BYTES
from token_exchange.claims import Refusal

MAXIMUM_BODY: Final = 8_388_608
MAXIMUM_COMMAS: Final = 500_000  # taken apart in some 25 ms; lists of tools have half as many


class ObservedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole list of tools a server showed, or the `error` because of which it showed none.

    `tools` are as they were sent (`tools_of`). `era` is how the server was spoken to, empty where
    that is not known.
    """

    server: str
    tools: list[msgspec.Raw]
    error: str = ""
    era: str = ""


class _Named(msgspec.Struct):
    name: str


async def tools_of(sent: Sequence[msgspec.Raw]) -> list[dict[str, Any]] | Refusal:
    """The definitions, or why they are none. Between two of them everybody else goes on."""
    tools: list[dict[str, Any]] = []
    for each in sent:
        try:
            tools.append(_definition(each))
        except UNREADABLE:
            return malformed("tools are not JSON objects")
        await asyncio.sleep(0)
    return tools


def _definition(sent: msgspec.Raw) -> dict[str, Any]:
    """One definition; its name alone where it is too long to be a tool.

    The name is read all the same: one offered twice is nobody's (`registry.offered_tools`).
    """
    if len(sent) <= MAXIMUM_DEFINITION_BYTES:
        return msgspec.json.decode(sent, type=dict[str, Any])
    try:
        return {"name": msgspec.json.decode(sent, type=_Named).name}
    except msgspec.ValidationError:
        return {}
