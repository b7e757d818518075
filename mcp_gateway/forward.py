"""Step 9, what is sent: the judged call, encoded again, with the target's credential. Pure.

Nothing of the agent's request is copied: neither its body's bytes nor any of its headers. Of
`_meta` only the known members pass, and client capabilities are cut to those whose traffic this
gateway can relay.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mcp_gateway.compiled_view import CatalogueTool
from mcp_gateway.credential import Credential
from mcp_gateway.inbound import (
    CAPABILITIES_KEY,
    METHOD_CALL_TOOL,
    PROTOCOL_VERSION,
    VERSION_KEY,
    ToolCall,
)
from mcp_gateway.routing_headers import encode_header_value, mirrored_parameters
from mcp_gateway.upstream.protocol import SessionIdentity, UpstreamRequest
from registry.snapshot import ServerEntry

CLIENT_INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"
PROGRESS_KEY: Final = "progressToken"
# INVARIANT: `_meta` is in neither policy nor the argument digest, so nothing unknown passes.
RELAYED_TEXTS: Final = (
    PROGRESS_KEY,
    "io.modelcontextprotocol/logLevel",
    "traceparent",
    "tracestate",
    "baggage",
)
MAXIMUM_META_LENGTH: Final = 8192  # what W3C baggage may have
# None while multi round trip requests are refused: a server that knew of elicitation would ask.
RELAYED_CAPABILITIES: Final[frozenset[str]] = frozenset()
USER_AGENT: Final = "countersign-gateway"

_encode = msgspec.json.Encoder().encode


def forwarded_call(
    call: ToolCall, tool: CatalogueTool, server: ServerEntry, credential: Credential
) -> UpstreamRequest:
    """The request to the MCP server for one judged call."""
    params = {
        "name": call.name,
        "arguments": call.arguments,
        "_meta": _relayed_meta(call.meta),
    }
    headers = (
        *mcp_headers(METHOD_CALL_TOOL, credential),
        ("Mcp-Name", encode_header_value(call.name)),
        *mirrored_parameters(tool.parameters, call.arguments),
    )
    return mcp_request(
        server, call.id, METHOD_CALL_TOOL, params, headers, session=credential.session
    )


def mcp_headers(method: str, credential: Credential) -> tuple[tuple[str, str], ...]:
    """The headers of every MCP request we send."""
    return (
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("Accept-Encoding", "identity"),  # a compressed reply could not be searched
        ("User-Agent", USER_AGENT),
        ("MCP-Protocol-Version", PROTOCOL_VERSION),
        ("Mcp-Method", method),
        (credential.header, credential.value),
    )


def mcp_request(
    server: ServerEntry,
    request_id: int | str,
    method: str,
    params: Mapping[str, Any],
    headers: tuple[tuple[str, str], ...],
    *,
    session: SessionIdentity | None,
) -> UpstreamRequest:
    """One JSON-RPC request to a server, under its own limits."""
    body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return UpstreamRequest(
        url=server.url,
        headers=headers,
        body=_encode(body),
        timeout_seconds=server.timeout_seconds,
        maximum_response_bytes=server.maximum_response_bytes,
        protocol=server.protocol,
        session=session,
    )


def _relayed_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The members we know, in the shape we know; capabilities we cannot relay are not claimed."""
    relayed: dict[str, Any] = {
        VERSION_KEY: meta[VERSION_KEY],
        CAPABILITIES_KEY: {
            name: value
            for name, value in meta[CAPABILITIES_KEY].items()
            if name in RELAYED_CAPABILITIES
        },
    }
    for key in RELAYED_TEXTS:
        value = meta.get(key)
        if isinstance(value, str) and len(value) <= MAXIMUM_META_LENGTH:
            relayed[key] = value
    token = meta.get(PROGRESS_KEY)
    if isinstance(token, int) and not isinstance(token, bool):
        relayed[PROGRESS_KEY] = token
    client = meta.get(CLIENT_INFO_KEY)
    if isinstance(client, dict):
        relayed[CLIENT_INFO_KEY] = {
            key: value
            for key in ("name", "title", "version")
            if isinstance(value := client.get(key), str) and len(value) <= MAXIMUM_META_LENGTH
        }
    return relayed
