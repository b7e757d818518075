"""What one JSON-RPC message of a server says, and the form in which an agent gets it. Pure.

An answer to this request and a notification may pass; a request of the server, whatever it is
mixed with, and a result that is not complete may not. What passes is encoded again around its own
values, so no reader sees a member that was not judged here, or another one of two with one name:
`params`, `result` and `error` keep the bytes they came with, all of them UTF-8. A result or error
whose own members could be read in two ways does not pass.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from audit_log.event import Outcome
from mcp_gateway.audit_trail import CallResult
from mcp_gateway.inbound import RequestId
from mcp_gateway.upstream.protocol import InputRequiredError, UpstreamInvalidError

_OK: Final = 200
# MCP 2025-11-25, "URL Mode Elicitation": an error that makes a client open an address.
_URL_ELICITATION_REQUIRED: Final = -32042
# In a result or error, beside what a tool says: it cannot have more members than these. To compare
# the names of so many takes some 10 ms of the event loop.
MAXIMUM_COLONS: Final = 10_000


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
    content: Raw = Raw()
    structuredContent: Raw = Raw()  # noqa: N815 - the wire's name
    isError: bool = False  # noqa: N815 - the wire's name
    resultType: str = "complete"  # noqa: N815 - the wire's name


class _Error(msgspec.Struct):
    """`code`: in the range that every reader has an integer for; the audit keeps it."""

    code: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
    message: Raw = Raw()
    data: Raw = Raw()


_message = msgspec.json.Decoder(_Message).decode
_result = msgspec.json.Decoder(_Result).decode
_error = msgspec.json.Decoder(_Error).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def said_to(request_id: RequestId, body: bytes | bytearray, status: int = _OK) -> Said:
    """Read one message of a reply to `request_id`; `status` is the HTTP status it came with.

    Raises:
        UpstreamInvalidError: it is neither this request's answer nor a notification.
        InputRequiredError: it asks the agent for input.
    """
    try:
        str(body, "utf-8")  # RFC 8259 §8.1: nothing else looks at all of what keeps its bytes
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
    read = _error(error)
    if read.code == _URL_ELICITATION_REQUIRED:
        raise InputRequiredError("the error asks for input")
    _require_one_reading(error, read, read.message, read.data)
    return read.code


def _is_tool_error(result: Raw) -> bool:
    """MCP 2026-07-28: without a type it is complete. Extensions have types of their own."""
    read = _result(result)
    if read.resultType == "input_required":
        raise InputRequiredError("the result asks for input")
    if read.resultType != "complete":
        raise UpstreamInvalidError("the result is not complete")
    _require_one_reading(result, read, read.content, read.structuredContent)
    return read.isError


def _require_one_reading(value: Raw, read: msgspec.Struct, *large: Raw) -> None:
    """Some readers take the first of two members, some the last, some ignore case.

    What is in `large`, members of the value, may be any number: it is not decoded.
    """
    colons = _colons(value)
    if colons - sum(map(_colons, large)) > MAXIMUM_COLONS:
        raise UpstreamInvalidError("the answer has too many members")
    members = _members(value)
    # One colon is each member's own. More are another member of that name, or in a name: nobody's.
    if colons != len(members) + sum(map(_colons, members.values())):
        raise UpstreamInvalidError("the answer names a member twice, or with a colon")
    names = {*members, *read.__struct_fields__}
    if len(set(map(str.casefold, names))) < len(names):
        raise UpstreamInvalidError("the answer names a member in two cases")


def _colons(value: Raw) -> int:
    return bytes(value).count(b":")
