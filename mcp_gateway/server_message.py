"""What one JSON-RPC message of a server says, and the form in which an agent gets it. Pure.

An answer to this request and a notification may pass; a request of the server, whatever it is
mixed with, and a result that is not complete may not. What passes is encoded again around its own
values, so no reader sees a member that was not judged here, or another one of two with one name:
`params`, `result` and `error` keep the bytes they came with.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from audit_log.event import Outcome
from mcp_gateway.audit_trail import CallResult
from mcp_gateway.inbound import RequestId
from mcp_gateway.upstream.protocol import InputRequiredError, UpstreamInvalidError

_OK: Final = 200
# MCP 2025-11-25, "URL Mode Elicitation": an error that makes a client open an address.
_URL_ELICITATION_REQUIRED: Final = -32042


@dataclass(frozen=True, slots=True)
class Said:
    """One message for the agent; `ending` is how the call ended, if it is the answer."""

    message: bytes
    ending: CallResult | None = None


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Result(msgspec.Struct):
    isError: bool = False  # noqa: N815 - the wire's name


class _Complete(msgspec.Struct):
    """Every `resultType` there is must be this one: of two, readers see one or the other."""

    resultType: Literal["complete"] = "complete"  # noqa: N815 - the wire's name


class _Typed(msgspec.Struct):
    resultType: Any = None  # noqa: N815 - the wire's name


class _Error(msgspec.Struct):
    code: int


_message = msgspec.json.Decoder(_Message).decode
_result = msgspec.json.Decoder(_Result).decode
_complete = msgspec.json.Decoder(_Complete).decode
_typed = msgspec.json.Decoder(_Typed).decode
_error = msgspec.json.Decoder(_Error).decode
_encode = msgspec.json.Encoder().encode


def said_to(request_id: RequestId, body: bytes | bytearray, status: int = _OK) -> Said:
    """Read one message of a reply to `request_id`; `status` is the HTTP status it came with.

    Raises:
        UpstreamInvalidError: it is neither this request's answer nor a notification.
        InputRequiredError: it asks the agent for input.
    """
    try:
        message = _message(body)
        if message.method is not UNSET:
            _require_notification(message)
            return Said(_encode(message))
        ending = _ending(message, request_id, status)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UpstreamInvalidError("the reply is not a JSON-RPC message") from error
    message.id = request_id
    return Said(_encode(message), ending)


def _require_notification(message: _Message) -> None:
    others = (message.id, message.result, message.error)
    if any(member is not UNSET for member in others):
        raise UpstreamInvalidError("the server sent a request")


def _ending(message: _Message, request_id: RequestId, status: int) -> CallResult:
    """How the call ended (JSON-RPC 2.0 §5): a result or an error, and nothing beside it."""
    result, error = message.result, message.error
    if message.params is UNSET and result is UNSET and error is not UNSET:
        # Without an id the server could not read which request it was; here it can only be ours.
        if message.id in (request_id, None, UNSET):
            return CallResult(Outcome.FAILED, status, str(_code_of(error)))
    elif message.params is UNSET and result is not UNSET and error is UNSET:
        is_ours = message.id == request_id and status == _OK
        if is_ours and _is_tool_error(result):
            return CallResult(Outcome.FAILED, status, "tool_error")
        if is_ours:
            return CallResult(Outcome.SUCCEEDED, status)
    raise UpstreamInvalidError("the reply is not the answer to this request")


def _code_of(error: Raw) -> int:
    code = _error(error).code
    if code == _URL_ELICITATION_REQUIRED:
        raise InputRequiredError("the error asks for input")
    return code


def _is_tool_error(result: Raw) -> bool:
    is_error = _result(result).isError
    _require_complete(result)
    return is_error


def _require_complete(result: Raw) -> None:
    """MCP 2026-07-28: absent is complete. Extensions have types of their own."""
    try:
        _complete(result)
    except msgspec.ValidationError as error:
        if _typed(result).resultType == "input_required":
            raise InputRequiredError("the result asks for input") from error
        raise UpstreamInvalidError("the result is not complete") from error
