"""What tools a server offers, seen with a discovery credential: never with a person's.

All pages of `tools/list`, within limits; the definitions verbatim, for the registry to compare
and an operator to approve. Nothing here makes a tool callable.
"""

from collections.abc import Mapping
from typing import Any, Final

from mcp_gateway.credential import Credential
from mcp_gateway.echo_guard import CredentialEchoError, EchoGuard
from mcp_gateway.exchange_client import ExchangeClient, ExchangeRefusal
from mcp_gateway.forward import USER_AGENT, mcp_headers, mcp_request
from mcp_gateway.inbound import (
    CAPABILITIES_KEY,
    METHOD_LIST_TOOLS,
    PROTOCOL_VERSION,
    VERSION_KEY,
)
from mcp_gateway.relay import EVENT_STREAM, JSON
from mcp_gateway.strict_json import StrictJsonError, decode_strictly
from mcp_gateway.upstream.protocol import Upstream, UpstreamError, UpstreamReply
from mcp_gateway.upstream.server_sent_events import EventReader, EventTooLargeError
from registry.snapshot import ServerEntry
from token_exchange.claims import AuthorizationDetail
from token_exchange.token_types import DETAIL_DISCOVERY

MAXIMUM_PAGES: Final = 100
MAXIMUM_TOOLS: Final = 1_000  # what the registry takes of one server
_OK: Final = 200
_CLIENT_INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"


class DiscoveryError(Exception):
    """The tools of a server could not be seen. The text has no secret."""


async def observed_tools(
    server: ServerEntry, own_token: str, exchange: ExchangeClient, upstream: Upstream
) -> list[dict[str, Any]]:
    """Every tool definition of `server`, in its own order.

    Raises:
        DiscoveryError: no credential, no answer, or not an MCP server's answer.
    """
    detail = AuthorizationDetail(type=DETAIL_DISCOVERY, server=server.name)
    credential = await exchange.exchange_own_token(own_token, server, detail)
    if isinstance(credential, ExchangeRefusal):
        raise DiscoveryError(f"no discovery credential: {credential.code}")
    tools: list[dict[str, Any]] = []
    cursor: str | None = None
    for page in range(1, MAXIMUM_PAGES + 1):
        result = await _page(server, credential, upstream, page, cursor)
        listed = result.get("tools")
        if not isinstance(listed, list):
            raise DiscoveryError("tools/list has no tools")
        tools.extend(tool for tool in listed if _is_tool(tool))
        next_cursor = result.get("nextCursor")
        if next_cursor is None:
            return tools
        if not isinstance(next_cursor, str) or next_cursor == cursor or len(tools) > MAXIMUM_TOOLS:
            break
        cursor = next_cursor
    raise DiscoveryError("tools/list does not come to an end")


async def _page(
    server: ServerEntry, credential: Credential, upstream: Upstream, page: int, cursor: str | None
) -> Mapping[str, Any]:
    meta = {
        VERSION_KEY: PROTOCOL_VERSION,
        CAPABILITIES_KEY: {},
        _CLIENT_INFO_KEY: {"name": USER_AGENT, "version": "1"},
    }
    params: dict[str, Any] = {"_meta": meta}
    if cursor is not None:
        params["cursor"] = cursor
    headers = mcp_headers(METHOD_LIST_TOOLS, credential)
    request = mcp_request(server, page, METHOD_LIST_TOOLS, params, headers)
    try:
        async with upstream.post(request) as reply:
            messages = await _messages(reply, EchoGuard(credential.traces))
    except UpstreamError as error:
        raise DiscoveryError(error.code) from error
    except CredentialEchoError as error:
        raise DiscoveryError("the server echoes its credential") from error
    for message in messages:
        if isinstance(message, dict) and message.get("id") == page:
            result = message.get("result")
            if isinstance(result, dict):
                return result
    raise DiscoveryError("tools/list was answered with an error")


async def _messages(reply: UpstreamReply, guard: EchoGuard) -> list[Any]:
    body = b"".join([chunk async for chunk in reply.chunks()])
    guard.require_clean(body)
    if reply.status != _OK or reply.content_encoding != "identity":
        raise DiscoveryError(f"tools/list: HTTP {reply.status}")
    try:
        if reply.media_type == EVENT_STREAM:
            return [decode_strictly(event.data) for event in EventReader().feed(body) if event.data]
        if reply.media_type == JSON:
            return [decode_strictly(body)]
    except (StrictJsonError, EventTooLargeError) as error:
        raise DiscoveryError("tools/list was not answered in strict JSON") from error
    raise DiscoveryError(f"tools/list has the media type {reply.media_type[:64]}")


def _is_tool(tool: object) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("name"), str)
