"""Modern MCP messages to legacy ones and back, by their bytes. Pure.

What crosses is taken apart only where the two eras differ: the envelope, `_meta`, the progress
token, and the first member of a result. Arguments, `structuredContent`, numbers and `_meta` of a
reply keep the bytes they came with (`msgspec.Raw`), so no number is rewritten and nothing is
invented. A request id of the agent is unique to its POST, one of a legacy session must be unique
to the session: we number the requests ourselves and put the agent's id back.

Of what a legacy server sends, only what belongs to the request passes: progress under the agent's
own token, log messages if the agent asked for them, the answer. Requests of the server are never
the agent's to see: they are refused towards the server (`Asked`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mcp_gateway.upstream.protocol import UpstreamInvalidError

LATEST_VERSION: Final = "2025-11-25"
LEGACY_VERSIONS: Final = (LATEST_VERSION, "2025-06-18")
OWN_INFO: Final = {"name": "countersign-gateway", "version": "1"}
INITIALIZE_ID: Final = 0  # requests are numbered from 1
MAXIMUM_SESSION_ID_LENGTH: Final = 1024
METHOD_NOT_FOUND: Final = -32601

_CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"
_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
_PROGRESS: Final = "progressToken"
# The keys of `_meta` that older revisions know (2025-11-25, "General fields") or everybody passes.
_LEGACY_META: Final = ("traceparent", "tracestate", "baggage")
_LEVELS: Final = (  # RFC 5424 §6.2.1, least first
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)
# What a modern result says of itself; a legacy server that says it too means something else.
_OF_RESULTS: Final[Mapping[str, bytes]] = {"resultType": b'"complete"'}
_OF_LISTS: Final[Mapping[str, bytes]] = {
    **_OF_RESULTS,
    "ttlMs": b"0",
    "cacheScope": b'"private"',
}
_LIST_SUFFIX: Final = "/list"
_INTEGER: Final = re.compile(rb"-?[0-9]{1,9}")

_encode = msgspec.json.Encoder().encode
_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members).decode


class _Request(msgspec.Struct):
    id: msgspec.Raw
    method: str
    params: _Members


class _Message(msgspec.Struct):
    """Any JSON-RPC message; what is absent is empty."""

    id: msgspec.Raw = msgspec.Raw()
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_request = msgspec.json.Decoder(_Request).decode
_message = msgspec.json.Decoder(_Message).decode


@dataclass(frozen=True, slots=True)
class ModernCall:
    """A modern request as `forward` encoded it. `meta` is `params._meta`."""

    id: bytes
    method: str
    params: Mapping[str, msgspec.Raw]
    meta: Mapping[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the request, as a modern message; with `error_code` if it is an error."""

    message: bytes
    error_code: int | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A notification that belongs to the request, as a modern message."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """The server asked something; `reply` is what it is told."""

    reply: bytes


Heard = Answer | Note | Asked | None


def modern_call(body: bytes) -> ModernCall:
    """Take a request apart that this gateway encoded."""
    request = _request(body)
    meta = request.params.get("_meta")
    rest = {name: value for name, value in request.params.items() if name != "_meta"}
    return ModernCall(
        bytes(request.id), request.method, rest, {} if meta is None else _members(meta)
    )


def legacy_request(call: ModernCall, number: int) -> bytes:
    """The same request for a legacy session, under our own number."""
    meta: dict[str, Any] = {key: call.meta[key] for key in _LEGACY_META if key in call.meta}
    if _PROGRESS in call.meta:
        meta[_PROGRESS] = number  # unique among the requests of the session, as it must be
    params: dict[str, Any] = dict(call.params)
    if meta:
        params["_meta"] = meta
    return _encode({"jsonrpc": "2.0", "id": number, "method": call.method, "params": params})


def initialize_request(call: ModernCall) -> bytes:
    """The first request of a session, in the name of the agent's own client software."""
    params = {
        "protocolVersion": LATEST_VERSION,
        "capabilities": {},  # nobody here answers for the agent
        "clientInfo": _client_info(call),
    }
    message = {"jsonrpc": "2.0", "id": INITIALIZE_ID, "method": "initialize", "params": params}
    return _encode(message)


def _client_info(call: ModernCall) -> Any:  # noqa: ANN401 - raw JSON or ours
    raw = call.meta.get(_CLIENT_INFO)
    info = {} if raw is None else _members(raw)
    return raw if {"name", "version"} <= info.keys() else OWN_INFO  # both are required here


def initialized_notification() -> bytes:
    """What follows the answer to `initialize`."""
    return _encode({"jsonrpc": "2.0", "method": "notifications/initialized"})


def cancelled_notification(number: int) -> bytes:
    """What tells a server that nobody waits for a request any more."""
    params = {"requestId": number, "reason": "The agent no longer waits."}
    return _encode({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def negotiated_version(body: bytes) -> str | None:
    """The version in the answer to `initialize`; None when `body` is another message.

    Raises:
        UpstreamInvalidError: it is an error, or a version this gateway does not speak.
    """
    message = _decoded(body)
    if message.method is not None:
        return None
    if bytes(message.id) != str(INITIALIZE_ID).encode():
        raise UpstreamInvalidError("another request than initialize was answered")
    if not bytes(message.result):
        raise UpstreamInvalidError("initialize was answered with an error")
    version = _members_of(message.result).get("protocolVersion")
    for known in LEGACY_VERSIONS:
        if version is not None and bytes(version) == f'"{known}"'.encode():
            return known
    raise UpstreamInvalidError("the server speaks another protocol version")


def is_session_id(value: str) -> bool:
    """Visible ASCII (2025-11-25, "Session management"), and short enough to be kept."""
    visible = all("\x21" <= character <= "\x7e" for character in value)
    return visible and 0 < len(value) <= MAXIMUM_SESSION_ID_LENGTH


def heard(body: bytes, call: ModernCall, number: int) -> Heard:
    """What one message of the server means for a request; None: nothing for the agent.

    Raises:
        UpstreamInvalidError: it is no message, or another request's answer.
    """
    message = _decoded(body)
    own_id = bytes(message.id)
    if message.method is None:
        return _answer(message, own_id, call, number)
    if own_id:
        if own_id == b"null" or own_id[:1] in b"[{tf":
            raise UpstreamInvalidError("the server sent a request without a proper id")
        return Asked(_refusal(message.method, message.id))
    note = _note(message, call, number)
    return None if note is None else Note(note)


def _answer(message: _Message, own_id: bytes, call: ModernCall, number: int) -> Answer:
    expected = str(number).encode()
    if bytes(message.error) and own_id in (expected, b"", b"null"):
        code = bytes(_members_of(message.error).get("code", b""))
        modern = b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (call.id, bytes(message.error))
        return Answer(modern, int(code) if _INTEGER.fullmatch(code) else None)
    if own_id != expected or not bytes(message.result):
        raise UpstreamInvalidError("the reply is not the answer to this request")
    own = _OF_LISTS if call.method.endswith(_LIST_SUFFIX) else _OF_RESULTS
    result = _extended(message.result, own)
    return Answer(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (call.id, result))


def _extended(result: msgspec.Raw, own: Mapping[str, bytes]) -> bytes:
    """`result` with our members first, and otherwise byte for byte."""
    members = _members_of(result)
    raw = bytes(result)
    if not own.keys().isdisjoint(members):
        raw = _encode({name: value for name, value in members.items() if name not in own})
    begun = b"{" + b",".join(b'"%b":%b' % (name.encode(), own[name]) for name in own)
    is_empty = members.keys() <= own.keys()
    return begun + b"}" if is_empty else begun + b"," + raw[1:]


def _refusal(method: str, request_id: msgspec.Raw) -> bytes:
    if method == "ping":
        return _encode({"jsonrpc": "2.0", "id": request_id, "result": {}})
    # No capability was offered, so to the server these methods do not exist.
    error = {"code": METHOD_NOT_FOUND, "message": "The gateway takes no requests of a server."}
    return _encode({"jsonrpc": "2.0", "id": request_id, "error": error})


def _note(message: _Message, call: ModernCall, number: int) -> bytes | None:
    if not bytes(message.params):
        return None
    params: dict[str, Any] = dict(_members_of(message.params))
    if message.method == "notifications/progress":
        if _PROGRESS not in call.meta or bytes(params.get(_PROGRESS, b"")) != str(number).encode():
            return None
        params[_PROGRESS] = call.meta[_PROGRESS]
    elif message.method != "notifications/message" or not _is_wanted(params.get("level"), call):
        return None
    return _encode({"jsonrpc": "2.0", "method": message.method, "params": params})


def _is_wanted(level: Any, call: ModernCall) -> bool:  # noqa: ANN401 - raw JSON
    """MCP 2026-07-28, "Logging": none unless the request asked, and then from its level on."""
    asked = _level(call.meta.get(_LOG_LEVEL))
    sent = _level(level)
    return asked is not None and sent is not None and sent >= asked


def _level(raw: msgspec.Raw | None) -> int | None:
    name = b"" if raw is None else bytes(raw).strip(b'"')
    return next((index for index, known in enumerate(_LEVELS) if known.encode() == name), None)


def _decoded(body: bytes) -> _Message:
    try:
        return _message(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamInvalidError("the reply is not a JSON-RPC message") from error


def _members_of(raw: msgspec.Raw) -> _Members:
    try:
        return _members(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamInvalidError("the reply is not a JSON-RPC message") from error
