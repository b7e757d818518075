"""Which era an MCP server speaks, asked without touching a tool.

`server/discover` goes first: every modern server must answer it, and it changes nothing, so that
the question is never a call that may have run. What the answer means (2026-07-28, "Backward
compatibility"):

| answer | era |
|---|---|
| a result that lists our version | modern |
| -32020, -32021, or -32022 without a legacy version we speak | modern: it will say so itself |
| -32022 that lists one | legacy |
| 401, 403 | not known: the credential is in question, not the era |
| anything else | legacy, if `initialize` then succeeds |
"""

from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

import msgspec

from mcp_gateway.inbound import (
    CAPABILITIES_KEY,
    METHOD_DISCOVER,
    PROTOCOL_VERSION,
    VERSION_KEY,
)
from mcp_gateway.upstream.legacy_handshake import EVENT_STREAM, JSON, StatusRefusedError, whole
from mcp_gateway.upstream.legacy_wire import LEGACY_VERSIONS
from mcp_gateway.upstream.protocol import (
    UpstreamReply,
    UpstreamRequest,
    UpstreamTooLargeError,
)
from mcp_gateway.upstream.server_sent_events import EventReader, EventTooLargeError
from mcp_gateway.upstream.transport import Transport

MAXIMUM_ANSWER_BYTES: Final = 262_144
PROBE_SECONDS: Final = 10.0
_REFUSED: Final = frozenset({401, 403})
_UNSUPPORTED_VERSION: Final = -32022
_MODERN_CODES: Final = frozenset({-32020, -32021, _UNSUPPORTED_VERSION})
_ROUTED: Final = frozenset({"mcp-method", "mcp-name"})
_PARAMETER: Final = "mcp-param-"


class Era(StrEnum):
    """How a server is spoken to."""

    MODERN = "modern"
    LEGACY = "legacy"


class _Said(msgspec.Struct):
    """As much of an answer as tells the eras apart; whatever has another shape is not modern."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_said = msgspec.json.Decoder(_Said).decode


async def probe(transport: Transport, request: UpstreamRequest) -> Era:
    """Ask the server that `request` is for, with its credential.

    Raises:
        StatusRefusedError: the credential was refused.
        UpstreamError: no answer.
    """
    asked = replace(
        request,
        headers=_headers(request),
        body=_BODY,
        timeout_seconds=min(request.timeout_seconds, PROBE_SECONDS),
        maximum_response_bytes=MAXIMUM_ANSWER_BYTES,
    )
    async with transport.send("POST", asked) as reply:
        if reply.status in _REFUSED:
            raise StatusRefusedError(reply.status)
        return era_of(await _answer(reply))


def era_of(answer: bytes) -> Era:
    """The table of the module docstring."""
    try:
        said = _said(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Era.LEGACY
    if said.result is not None:
        supported = said.result.get("supportedVersions")
        return Era.MODERN if _lists(supported, (PROTOCOL_VERSION,)) else Era.LEGACY
    error = said.error or {}
    code = error.get("code")
    if not isinstance(code, int) or code not in _MODERN_CODES:
        return Era.LEGACY
    data = error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    is_older = code == _UNSUPPORTED_VERSION and _lists(supported, LEGACY_VERSIONS)
    return Era.LEGACY if is_older else Era.MODERN


def _lists(listed: object, versions: tuple[str, ...]) -> bool:
    return isinstance(listed, list) and any(version in listed for version in versions)


def _headers(request: UpstreamRequest) -> tuple[tuple[str, str], ...]:
    kept = tuple(
        (name, value)
        for name, value in request.headers
        if name.lower() not in _ROUTED and not name.lower().startswith(_PARAMETER)
    )
    return (*kept, ("Mcp-Method", METHOD_DISCOVER))


async def _answer(reply: UpstreamReply) -> bytes:
    """The first message of the reply; empty when there is none worth reading."""
    if reply.content_encoding != "identity":
        return b""
    try:
        body = await whole(reply, MAXIMUM_ANSWER_BYTES)
        if reply.media_type == EVENT_STREAM:
            events = EventReader(MAXIMUM_ANSWER_BYTES).feed(body)
            return next((event.data for event in events if event.data), b"")
    except (UpstreamTooLargeError, EventTooLargeError):
        return b""
    return body if reply.media_type == JSON else b""


_BODY: Final = msgspec.json.encode(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": METHOD_DISCOVER,
        "params": {
            "_meta": {
                VERSION_KEY: PROTOCOL_VERSION,
                CAPABILITIES_KEY: {},
                "io.modelcontextprotocol/clientInfo": {
                    "name": "countersign-gateway",
                    "version": "1",
                },
            }
        },
    }
)
