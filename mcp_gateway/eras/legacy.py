"""The ladder of the legacy era: headers and body to one typed message, or its rejection. Pure.

MCP 2025-11-25 and 2025-06-18, streamable HTTP. A tool call becomes the very `ToolCall` that the
modern ladder (`inbound`) makes, so whatever judges and forwards it cannot tell the eras apart.
First failure wins:

1. the body is one JSON-RPC request or notification: no batch (2025-06-18 removed them), no posted
   response (the gateway asks the agent for nothing), no unknown member;
2. no header that routes is repeated, and none of the modern ones contradicts the body;
3. `MCP-Protocol-Version` is one of the era, or absent: the session knows it;
4. [the session: `sessions`, before anything else is said of the message]
5. the method is one we serve, its parameters have the right shape and no unknown name.

Rung 5's refusals are JSON-RPC errors with status 200: in this era 404 means that the session is
gone, and clients of the time take any other failure for one of the connection.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from mcp_gateway.http_message import Headers
from mcp_gateway.inbound import (
    CAPABILITIES_KEY,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_CALL_TOOL,
    METHOD_LIST_TOOLS,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION,
    VERSION_KEY,
    ListTools,
    Notification,
    Rejection,
    RequestId,
    ToolCall,
    call_of_tool,
    is_envelope,
    is_request_id,
    list_of_tools,
)
from mcp_gateway.routing_headers import (
    METHOD_HEADER,
    NAME_HEADER,
    PARAMETER_PREFIX,
    PROTOCOL_VERSION_HEADER,
    decode_header_value,
    repeated_routing_header,
)

LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18")  # the newest first
SESSION_HEADER: Final = b"mcp-session-id"
SESSION_METHODS: Final = frozenset({"GET", "DELETE"})
METHOD_INITIALIZE: Final = "initialize"
METHOD_PING: Final = "ping"
METHOD_CANCELLED: Final = "notifications/cancelled"

RESERVED_META: Final = "io.modelcontextprotocol/"  # these keys are the modern era's to set
MAXIMUM_CLIENT_LENGTH: Final = 64  # of a client's name or version: it travels in the session id
_OK: Final = 200

_PARAMETERS: Final = {
    METHOD_INITIALIZE: frozenset({"_meta", "protocolVersion", "capabilities", "clientInfo"}),
    METHOD_PING: frozenset({"_meta"}),
    METHOD_LIST_TOOLS: frozenset({"_meta", "cursor"}),
    # 2025-11-25, tasks: without the capability `task` is ignored, and never forwarded.
    METHOD_CALL_TOOL: frozenset({"_meta", "name", "arguments", "task"}),
    METHOD_CANCELLED: frozenset({"_meta", "requestId", "reason"}),
}


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What a client says of itself at `initialize`: its word, nothing rests on it."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Initialize:
    """A request for a session, at the version that will be spoken in it."""

    id: RequestId
    version: str
    client: ClientInfo | None


@dataclass(frozen=True, slots=True)
class Ping:
    """A request for a sign of life."""

    id: RequestId


@dataclass(frozen=True, slots=True)
class Cancel:
    """A notification that the reply to a request is no longer wanted."""

    request_id: RequestId


Made = TypeVar("Made", ToolCall, ListTools)
Said = ToolCall | ListTools | Initialize | Ping | Cancel | Notification


@dataclass(frozen=True, slots=True)
class LegacyMessage:
    """A message of the legacy era, and the session it claims to belong to.

    `said` may be a rejection: it is only spoken to those whose session it is.
    """

    said: Said | Rejection
    sealed_id: str | None
    version: str | None


def is_legacy(headers: Headers, decoded: Mapping[str, Any]) -> bool:
    """Whether a message speaks the legacy era; what mixes both is the modern ladder's to refuse."""
    params = decoded.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    if isinstance(meta, dict) and VERSION_KEY in meta:
        return False
    versions = headers.all(PROTOCOL_VERSION_HEADER)
    if PROTOCOL_VERSION in versions:
        return False
    if not set(versions).isdisjoint(LEGACY_VERSIONS):
        return True
    return decoded.get("method") == METHOD_INITIALIZE or bool(headers.all(SESSION_HEADER))


def is_session_request(method: str, headers: Headers) -> bool:
    """Whether an HTTP request without a body is one on a legacy session."""
    versions = headers.all(PROTOCOL_VERSION_HEADER)
    claims = headers.all(SESSION_HEADER) or not set(versions).isdisjoint(LEGACY_VERSIONS)
    return method in SESSION_METHODS and bool(claims)


def climb_legacy(headers: Headers, decoded: Mapping[str, Any]) -> LegacyMessage | Rejection:
    """Climb the ladder of the module docstring, from its first rung."""
    request_id = decoded.get("id")
    if "id" in decoded and not is_request_id(request_id):
        return Rejection(400, INVALID_REQUEST, "id must be a string or an integer.")
    method = decoded.get("method")
    if not isinstance(method, str) or not is_envelope(decoded):
        message = "The body must be one JSON-RPC request or notification."
        return Rejection(400, INVALID_REQUEST, message)
    params = decoded.get("params", {})
    problem = headers_problem(headers) or _contradiction(headers, method, params)
    if problem is not None:
        return Rejection(400, INVALID_REQUEST, problem)
    if request_id is None:
        said = _notification(method, params)
    else:
        said = _request(method, params, request_id)
    if method == METHOD_INITIALIZE and isinstance(said, Rejection):
        return said  # there is no session yet
    return LegacyMessage(
        said=said,
        sealed_id=headers.first(SESSION_HEADER),
        version=headers.first(PROTOCOL_VERSION_HEADER),
    )


def headers_problem(headers: Headers) -> str | None:
    """What is wrong with the version and session headers themselves."""
    if headers.is_repeated(SESSION_HEADER):
        return "mcp-session-id appears more than once."
    if (repeated := repeated_routing_header(headers)) is not None:
        return f"{repeated} appears more than once."
    version = headers.first(PROTOCOL_VERSION_HEADER)
    if version is not None and version not in LEGACY_VERSIONS:
        return "MCP-Protocol-Version is not one this gateway serves."
    return None


def _contradiction(headers: Headers, method: str, params: Mapping[str, Any]) -> str | None:
    """This era has no such headers; but whoever routes by them must not be told another call."""
    said_method, said_name = headers.first(METHOD_HEADER), headers.first(NAME_HEADER)
    if said_method is not None and said_method != method:
        return "Mcp-Method does not match the method of the body."
    if said_name is not None and decode_header_value(said_name) != params.get("name"):
        return "Mcp-Name does not match the name of the body."
    if any(name.startswith(PARAMETER_PREFIX.encode("ascii")) for name in headers.names()):
        return "Mcp-Param headers do not exist in this protocol version."
    return None


def _request(method: str, params: Mapping[str, Any], request_id: RequestId) -> Said | Rejection:
    make = _REQUESTS.get(method)
    if make is None:
        return Rejection(_OK, METHOD_NOT_FOUND, "Method not found.", request_id)
    if not params.keys() <= _PARAMETERS[method]:
        message = f"{method} has an unknown parameter."
        return Rejection(_OK, INVALID_PARAMS, message, request_id)
    if not isinstance(params.get("_meta", {}), dict):
        return Rejection(_OK, INVALID_PARAMS, "params._meta must be an object.", request_id)
    return make(params, request_id)


def _notification(method: str, params: Mapping[str, Any]) -> Said | Rejection:
    if method != METHOD_CANCELLED:
        return Notification(method)
    request_id: RequestId | None = params.get("requestId")
    if (
        request_id is None
        or not is_request_id(request_id)
        or not params.keys() <= _PARAMETERS[METHOD_CANCELLED]
    ):
        message = "notifications/cancelled must name a requestId."
        return Rejection(400, INVALID_PARAMS, message)
    return Cancel(request_id)


def _initialize(params: Mapping[str, Any], request_id: RequestId) -> Initialize | Rejection:
    version = params.get("protocolVersion")
    if not isinstance(version, str) or not isinstance(params.get("capabilities"), dict):
        message = "initialize must carry protocolVersion and capabilities."
        return Rejection(_OK, INVALID_PARAMS, message, request_id)
    # Lifecycle, "Version Negotiation": the same version, or else the latest of ours.
    agreed = version if version in LEGACY_VERSIONS else LEGACY_VERSIONS[0]
    return Initialize(request_id, agreed, _client_info(params.get("clientInfo")))


def _client_info(info: object) -> ClientInfo | None:
    if not isinstance(info, dict):
        return None
    name, version = info.get("name"), info.get("version")
    if not isinstance(name, str) or not isinstance(version, str):
        return None
    is_short = max(len(name), len(version)) <= MAXIMUM_CLIENT_LENGTH
    return ClientInfo(name, version) if is_short else None


def _ping(_params: Mapping[str, Any], request_id: RequestId) -> Ping:
    return Ping(request_id)


def _list_tools(params: Mapping[str, Any], request_id: RequestId) -> ListTools | Rejection:
    return _with_status_ok(list_of_tools(params, modern_meta(params), request_id))


def _call_tool(params: Mapping[str, Any], request_id: RequestId) -> ToolCall | Rejection:
    return _with_status_ok(call_of_tool(params, modern_meta(params), request_id))


def modern_meta(params: Mapping[str, Any]) -> dict[str, Any]:
    """`_meta` as a modern request has it: no key of that era is the legacy agent's to set."""
    own = {
        key: value
        for key, value in params.get("_meta", {}).items()
        if not key.startswith(RESERVED_META)
    }
    return {VERSION_KEY: PROTOCOL_VERSION, CAPABILITIES_KEY: {}, **own}


def _with_status_ok(made: Made | Rejection) -> Made | Rejection:
    return replace(made, status=_OK) if isinstance(made, Rejection) else made


_REQUESTS: Final[Mapping[str, Callable[[Mapping[str, Any], RequestId], Said | Rejection]]] = {
    METHOD_INITIALIZE: _initialize,
    METHOD_PING: _ping,
    METHOD_LIST_TOOLS: _list_tools,
    METHOD_CALL_TOOL: _call_tool,
}
