"""What tools a server offers, seen with a discovery credential: never with a person's.

All pages of `tools/list`, within limits; the definitions verbatim, for the registry to compare
and an operator to approve. Nothing here makes a tool callable. Whatever a server sends, the calls
of others go on: pages are small, searched and decoded in a thread, and few.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from mcp_gateway.credential import Credential
from mcp_gateway.echo_guard import CredentialEchoError, EchoGuard
from mcp_gateway.exchange_answer import ExchangeRefusal
from mcp_gateway.exchange_client import ExchangeClient
from mcp_gateway.forward import CLIENT_INFO_KEY, USER_AGENT, mcp_headers, mcp_request
from mcp_gateway.inbound import (
    CAPABILITIES_KEY,
    METHOD_LIST_TOOLS,
    PROTOCOL_VERSION,
    VERSION_KEY,
)
from mcp_gateway.relay import EVENT_STREAM, JSON
from mcp_gateway.strict_json import StrictJsonError, decode_strictly
from mcp_gateway.upstream.protocol import (
    Upstream,
    UpstreamError,
    UpstreamReply,
    UpstreamRequest,
    UpstreamTooLargeError,
    told_media_type,
)
from mcp_gateway.upstream.server_sent_events import EventReader, EventTooLargeError
from registry.snapshot import ServerEntry
from token_exchange.claims import AuthorizationDetail
from token_exchange.token_types import DETAIL_DISCOVERY

LOOK_SECONDS: Final = 60.0  # all pages of one server
MAXIMUM_PAGES: Final = 100
MAXIMUM_TOOLS: Final = 1_000  # what the registry takes of one server
MAXIMUM_PAGE_BYTES: Final = 1024 * 1024
MAXIMUM_LISTING_BYTES: Final = 4 * 1024 * 1024
MAXIMUM_LINES: Final = 10_000  # of an event stream; one message is one line or a few
_LINE_END: Final = re.compile(rb"\n|\r")
_OK: Final = 200


class DiscoveryError(Exception):
    """The tools of a server could not be seen. The text has no secret."""


class Look(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one look at a server found, as the control channel takes it.

    `error`: why its tools cannot be seen; operators are told that too. `era`: how it is spoken to.
    """

    server: str
    tools: list[dict[str, Any]]
    error: str = ""
    era: str = ""


async def look(
    server: ServerEntry, own_token: str, exchange: ExchangeClient, upstream: Upstream
) -> Look:
    """The tools of `server`, or why they cannot be seen."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            tools = await observed_tools(server, own_token, exchange, upstream)
    except DiscoveryError as error:
        return Look(server.name, [], error=str(error))
    except TimeoutError:
        return Look(server.name, [], error=f"no whole answer within {LOOK_SECONDS:.0f} s")
    return Look(server.name, tools, era=upstream.era_spoken(server.url, server.protocol))


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
    left = MAXIMUM_LISTING_BYTES
    for page in range(1, MAXIMUM_PAGES + 1):
        request = _request(server, credential, page, cursor, min(left, MAXIMUM_PAGE_BYTES))
        result, size = await _page(request, credential, upstream, page)
        left -= size
        listed = result.get("tools")
        if not isinstance(listed, list):
            raise DiscoveryError("tools/list has no tools")
        tools.extend(tool for tool in listed if _is_tool(tool))
        next_cursor = result.get("nextCursor")
        if len(tools) > MAXIMUM_TOOLS:
            raise DiscoveryError(f"tools/list has more than {MAXIMUM_TOOLS} tools")
        if next_cursor is None:
            return tools
        if not isinstance(next_cursor, str) or next_cursor == cursor:
            break
        cursor = next_cursor
    raise DiscoveryError("tools/list does not come to an end")


def _request(
    server: ServerEntry, credential: Credential, page: int, cursor: str | None, maximum_bytes: int
) -> UpstreamRequest:
    meta = {
        VERSION_KEY: PROTOCOL_VERSION,
        CAPABILITIES_KEY: {},
        CLIENT_INFO_KEY: {"name": USER_AGENT, "version": "1"},
    }
    params: dict[str, Any] = {"_meta": meta}
    if cursor is not None:
        params["cursor"] = cursor
    headers = mcp_headers(METHOD_LIST_TOOLS, credential)
    request = mcp_request(
        server, page, METHOD_LIST_TOOLS, params, headers, session=credential.session
    )
    maximum_bytes = min(maximum_bytes, request.maximum_response_bytes)
    return replace(request, maximum_response_bytes=maximum_bytes)


async def _page(
    request: UpstreamRequest, credential: Credential, upstream: Upstream, page: int
) -> tuple[Mapping[str, Any], int]:
    """The result of one page, and how many bytes it took."""
    try:
        async with upstream.post(request) as reply:
            body = await _body(reply, request.maximum_response_bytes)
        guard = EchoGuard(credential.traces)
        messages = await asyncio.to_thread(_messages, reply.media_type, body, guard)
    except UpstreamError as error:
        raise DiscoveryError(error.code) from error
    except CredentialEchoError as error:
        raise DiscoveryError("the server echoes its credential") from error
    for message in messages:
        if isinstance(message, dict) and message.get("id") == page:
            result = message.get("result")
            if isinstance(result, dict):
                return result, len(body)
    raise DiscoveryError("tools/list was answered with an error")


async def _body(reply: UpstreamReply, maximum_bytes: int) -> bytes:
    if reply.status != _OK or reply.content_encoding != "identity":
        raise DiscoveryError(f"tools/list: HTTP {reply.status}")
    body = bytearray()
    async for chunk in reply.chunks():
        body += chunk
        if len(body) > maximum_bytes:
            raise UpstreamTooLargeError
    return bytes(body)


def _messages(media_type: str, body: bytes, guard: EchoGuard) -> list[Any]:
    """What a page says. Runs in a thread: it may take a second in all."""
    guard.require_clean(body)
    try:
        if media_type == EVENT_STREAM:
            if len(_LINE_END.findall(body)) > MAXIMUM_LINES:
                raise DiscoveryError(f"tools/list has more than {MAXIMUM_LINES} lines")
            return [decode_strictly(event.data) for event in EventReader().feed(body) if event.data]
        if media_type == JSON:
            return [decode_strictly(body)]
    except (StrictJsonError, EventTooLargeError) as error:
        raise DiscoveryError("tools/list was not answered in strict JSON") from error
    raise DiscoveryError(f"tools/list was answered with {told_media_type(media_type)}")


def _is_tool(tool: object) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("name"), str)
