"""Headers and body to one typed message, or the rejection that answers it. Pure; one decode.

The ladder, first failure wins (MCP 2026-07-28, streamable HTTP and "Per-request protocol
fields"):

1. the body is strict JSON (`strict_json`);
2. it is one JSON-RPC request or notification: no batch, no posted response, no unknown member;
3. no routing header is repeated;
4. the protocol version is one we serve: header and `_meta` must agree;
5. `params._meta` carries the required pair;
6. `Mcp-Method`, and for a tool call `Mcp-Name`, equal the body;
7. the method is one we serve, its parameters have the right shape and no unknown name.

Once the tool is known (`ceiling`), `against_definition` adds what its definition is needed for. The
legacy era has a ladder of its own beside this one (`eras.legacy`); what both share is public here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_gateway.http_message import Headers
from mcp_gateway.routing_headers import (
    METHOD_HEADER,
    NAME_HEADER,
    PROTOCOL_VERSION_HEADER,
    decode_header_value,
    repeated_routing_header,
)
from mcp_gateway.strict_json import JsonProblem, StrictJsonError, decode_strictly

PROTOCOL_VERSION: Final = "2026-07-28"
SUPPORTED_VERSIONS: Final = (PROTOCOL_VERSION,)
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"

METHOD_DISCOVER: Final = "server/discover"
METHOD_LIST_TOOLS: Final = "tools/list"
METHOD_CALL_TOOL: Final = "tools/call"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022

MAXIMUM_NAME_LENGTH: Final = 128  # MCP tool names
MAXIMUM_ID_LENGTH: Final = 1024  # a request id is echoed: it is no place to store things
_MAXIMUM_VERSION_LENGTH: Final = 64  # echoed in the refusal

# What a request may carry. Anything else would be forwarded unjudged, and a peer that matches
# names without case (Go's encoding/json) would read `Name` as `name`.
_ENVELOPE: Final = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMETERS: Final = {
    METHOD_DISCOVER: frozenset({"_meta"}),
    METHOD_LIST_TOOLS: frozenset({"_meta", "cursor"}),
    METHOD_CALL_TOOL: frozenset({"_meta", "name", "arguments"}),
}

# Answers of a person and state of a server: neither policy nor the argument digest covers them.
_ROUND_TRIP: Final = frozenset({"inputResponses", "requestState"})

RequestId = int | str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call whose headers and body agree. `meta` is `params._meta`."""

    id: RequestId
    name: str
    arguments: Mapping[str, Any]
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ListTools:
    """A request for one page of tools."""

    id: RequestId
    cursor: str | None
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Discover:
    """A request for what this endpoint can do."""

    id: RequestId


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification; this protocol version defines none that a server acts on."""

    method: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A JSON-RPC error and its HTTP status. `message` is safe to send, `detail` for the audit."""

    status: int
    code: int
    message: str
    request_id: RequestId | None = None
    data: Mapping[str, Any] | None = None
    detail: str | None = None


Message = ToolCall | ListTools | Discover | Notification

_PROBLEM_CODES: Final = {
    JsonProblem.SYNTAX: PARSE_ERROR,
    JsonProblem.REPEATED_KEY: INVALID_REQUEST,
    JsonProblem.NUMBER: INVALID_PARAMS,
    JsonProblem.SURROGATE: INVALID_PARAMS,
    JsonProblem.DEPTH: INVALID_PARAMS,
    JsonProblem.VALUES: INVALID_PARAMS,
}


def one_message(body: bytes) -> dict[str, Any] | Rejection:
    """The first rung, the same in every era: strict JSON, and one object."""
    try:
        decoded = decode_strictly(body)
    except StrictJsonError as error:
        return Rejection(400, _PROBLEM_CODES[error.problem], f"The body {error.problem.value}.")
    if not isinstance(decoded, dict):
        return Rejection(400, INVALID_REQUEST, "The body must be one JSON-RPC message object.")
    return decoded


def climb(headers: Headers, decoded: dict[str, Any]) -> Message | Rejection:
    """The rest of the ladder."""
    if "id" not in decoded:
        return _notification(headers, decoded)
    return _request(headers, decoded)


def _request(headers: Headers, decoded: dict[str, Any]) -> Message | Rejection:
    request_id, method = decoded["id"], decoded.get("method")
    if not is_request_id(request_id):
        return Rejection(400, INVALID_REQUEST, "id must be a string or an integer.")
    if not isinstance(method, str) or not is_envelope(decoded):
        message = "The body must be one JSON-RPC request: jsonrpc, id, method, params."
        return Rejection(400, INVALID_REQUEST, message, request_id)
    if (repeated := repeated_routing_header(headers)) is not None:
        return Rejection(400, HEADER_MISMATCH, f"{repeated} appears more than once.", request_id)
    params = decoded.get("params", {})
    rejection = _version_problem(headers, method, params, request_id)
    if rejection is not None:
        return rejection
    if headers.first(METHOD_HEADER) != method:
        message = "Mcp-Method does not match the method of the body."
        return Rejection(400, HEADER_MISMATCH, message, request_id)
    return _typed(headers, method, params, request_id)


def is_request_id(value: object) -> bool:
    """Whether a value is an id we echo."""
    if isinstance(value, str):
        return len(value) <= MAXIMUM_ID_LENGTH
    return isinstance(value, int) and not isinstance(value, bool)


def is_envelope(decoded: Mapping[str, Any]) -> bool:
    """Whether an object has the members of one JSON-RPC request or notification, and no other."""
    is_shaped = isinstance(decoded.get("params", {}), dict)
    return is_shaped and decoded.get("jsonrpc") == "2.0" and decoded.keys() <= _ENVELOPE


def _version_problem(
    headers: Headers, method: str, params: Mapping[str, Any], request_id: RequestId
) -> Rejection | None:
    header, meta = headers.first(PROTOCOL_VERSION_HEADER), params.get("_meta")
    if not isinstance(meta, dict) or VERSION_KEY not in meta:
        # Before 2026-07-28 the version stood in the header, or in `initialize` itself: such a
        # client is told what we serve, which is how it learns to speak it or give up.
        older = header if header is not None else _initialize_version(method, params)
        if older is not None and older not in SUPPORTED_VERSIONS:
            return unsupported_version(older, request_id)
    problem = _meta_problem(meta)
    if problem is not None:
        return Rejection(400, INVALID_PARAMS, problem, request_id)
    version = meta[VERSION_KEY] if isinstance(meta, dict) else None
    if header is None or header != version:
        message = "MCP-Protocol-Version does not match the version in params._meta."
        return Rejection(400, HEADER_MISMATCH, message, request_id)
    return None if version in SUPPORTED_VERSIONS else unsupported_version(header, request_id)


def _meta_problem(meta: object) -> str | None:
    if not isinstance(meta, dict):
        return "params._meta must be an object."
    missing = [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]
    if missing:
        return f"params._meta lacks {', '.join(missing)}."
    if not isinstance(meta[CAPABILITIES_KEY], dict):
        return f"params._meta[{CAPABILITIES_KEY}] must be an object."
    return None


def _initialize_version(method: str, params: Mapping[str, Any]) -> str | None:
    version = params.get("protocolVersion")
    return version if method == "initialize" and isinstance(version, str) else None


def unsupported_version(requested: str, request_id: RequestId | None) -> Rejection:
    """The answer to a protocol version we do not serve."""
    data = {
        "supported": list(SUPPORTED_VERSIONS),
        "requested": requested[:_MAXIMUM_VERSION_LENGTH],
    }
    return Rejection(400, UNSUPPORTED_VERSION, "Unsupported protocol version.", request_id, data)


def _typed(
    headers: Headers, method: str, params: Mapping[str, Any], request_id: RequestId
) -> Message | Rejection:
    allowed = _PARAMETERS.get(method)
    if allowed is None:
        return Rejection(404, METHOD_NOT_FOUND, "Method not found.", request_id)
    if not params.keys() <= allowed:
        message = f"{method} has an unknown parameter."
        if not _ROUND_TRIP.isdisjoint(params):
            message = "Multi round trip requests are not supported yet."
        return Rejection(400, INVALID_PARAMS, message, request_id)
    if method == METHOD_CALL_TOOL:
        return _tool_call(headers, params, request_id)
    if method == METHOD_LIST_TOOLS:
        return list_of_tools(params, params["_meta"], request_id)
    return Discover(request_id)


def _tool_call(
    headers: Headers, params: Mapping[str, Any], request_id: RequestId
) -> ToolCall | Rejection:
    call = call_of_tool(params, params["_meta"], request_id)
    if isinstance(call, ToolCall) and decode_header_value(headers.first(NAME_HEADER)) != call.name:
        message = "Mcp-Name does not match the tool name of the body."
        return Rejection(400, HEADER_MISMATCH, message, request_id)
    return call


def list_of_tools(
    params: Mapping[str, Any], meta: Mapping[str, Any], request_id: RequestId
) -> ListTools | Rejection:
    """The shape of `tools/list`, the same in every era."""
    cursor = params.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        return Rejection(400, INVALID_PARAMS, "cursor must be a string.", request_id)
    return ListTools(request_id, cursor, meta)


def call_of_tool(
    params: Mapping[str, Any], meta: Mapping[str, Any], request_id: RequestId
) -> ToolCall | Rejection:
    """The shape of `tools/call`, the same in every era."""
    name, arguments = params.get("name"), params.get("arguments", {})
    if not isinstance(name, str) or not 0 < len(name) <= MAXIMUM_NAME_LENGTH:
        return Rejection(400, INVALID_PARAMS, "name must be a tool's name.", request_id)
    if not isinstance(arguments, dict):
        return Rejection(400, INVALID_PARAMS, "arguments must be an object.", request_id)
    return ToolCall(request_id, name, arguments, meta)


def _notification(headers: Headers, decoded: dict[str, Any]) -> Notification | Rejection:
    """JSON-RPC 2.0 §4.1: without an `id` member it is a notification, whatever else it is."""
    method = decoded.get("method")
    if not isinstance(method, str) or not is_envelope(decoded):
        return Rejection(400, INVALID_REQUEST, "The body must be one JSON-RPC message object.")
    if (repeated := repeated_routing_header(headers)) is not None:
        return Rejection(400, HEADER_MISMATCH, f"{repeated} appears more than once.")
    version = headers.first(PROTOCOL_VERSION_HEADER)
    if version not in SUPPORTED_VERSIONS:
        return unsupported_version(version or "", None)
    return Notification(method)
