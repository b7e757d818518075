"""JSON-RPC messages on a pipe, by their bytes: ids and progress tokens replaced, no more. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

SERVER_ENDED: Final = -32000  # the implementation's own (JSON-RPC 2.0 §5.1)
METHOD_NOT_FOUND: Final = -32601
_PROGRESS: Final = "progressToken"

_encode = msgspec.json.Encoder().encode
_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members).decode


class Message(msgspec.Struct):
    """Any message; what is absent is empty."""

    id: msgspec.Raw = msgspec.Raw()
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()

    @property
    def raw_id(self) -> bytes:
        """The id as it was written; empty: none."""
        return bytes(self.id)


_message = msgspec.json.Decoder(Message).decode


@dataclass(frozen=True, slots=True)
class Request:
    """A request to pass on. `token` is the caller's progress token, if it wants progress."""

    id: bytes
    method: str
    params: Mapping[str, msgspec.Raw]
    meta: Mapping[str, msgspec.Raw]

    @property
    def token(self) -> msgspec.Raw | None:
        """What its progress is to be told under."""
        return self.meta.get(_PROGRESS)


def decoded(body: bytes) -> Message | None:
    """One message; None when it is none, or one that two lines could be made of."""
    if b"\n" in body or b"\r" in body:
        return None
    try:
        return _message(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def request_of(message: Message) -> Request | None:
    """A request; None when its params are no object."""
    try:
        params = _members(message.params) if bytes(message.params) else {}
        meta = _members(params["_meta"]) if "_meta" in params else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return Request(message.raw_id, message.method or "", params, meta)


def line_of(request: Request, number: int) -> bytes:
    """The request under the host's own number."""
    params: dict[str, Any] = dict(request.params)
    if request.token is not None:
        params["_meta"] = {**request.meta, _PROGRESS: number}
    message = {"jsonrpc": "2.0", "id": number, "method": request.method, "params": params}
    return _encode(message)


def notification(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """A notification of the host's own."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return _encode(message if params is None else message | {"params": params})


def answer_for(request_id: bytes, message: Message) -> bytes:
    """A server's answer as the answer to the caller's request."""
    if bytes(message.result):
        return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (request_id, bytes(message.result))
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id, bytes(message.error))


def error_for(request_id: bytes, code: int, text: str) -> bytes:
    """An error of the host's own."""
    error = _encode({"code": code, "message": text})
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id or b"null", error)


def refusal_of(message: Message) -> bytes:
    """What a server is told that asks something: it was offered no capability."""
    if message.method == "ping":
        return _encode({"jsonrpc": "2.0", "id": message.id, "result": {}})
    return error_for(message.raw_id, METHOD_NOT_FOUND, "The host takes no requests of a server.")


def progress_of(message: Message) -> tuple[int, dict[str, msgspec.Raw]] | None:
    """The number that a progress notification is about, and its params."""
    if message.method != "notifications/progress":
        return None
    try:
        params = _members(message.params)
        return int(bytes(params[_PROGRESS])), params
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
        return None


def note_for(token: msgspec.Raw, params: Mapping[str, msgspec.Raw]) -> bytes:
    """Progress under the caller's own token."""
    return notification("notifications/progress", {**params, _PROGRESS: token})


def cancelled_id(message: Message) -> bytes | None:
    """The caller's id of the request that it cancels."""
    try:
        return bytes(_members(message.params)["requestId"])
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return None
