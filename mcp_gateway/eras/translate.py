"""A modern message to its legacy form, touching nothing it need not. Pure.

Only members that the legacy era does not have are taken out of a response: `resultType`, `ttlMs`
and `cacheScope` of the result, the modern keys of its `_meta`. Every other value stays as its own
bytes (`msgspec.Raw`): no number is read, no text spelled anew, nothing is invented. A message that
has none of them passes byte for byte, and so does every notification.
"""

from typing import Final

import msgspec

from mcp_gateway.upstream.protocol import UpstreamInvalidError

_MODERN_MEMBERS: Final = ("resultType", "ttlMs", "cacheScope")
_MODERN_META: Final = tuple(
    f"io.modelcontextprotocol/{name}"
    for name in (
        "serverInfo",
        "protocolVersion",
        "clientInfo",
        "clientCapabilities",
        "logLevel",
        "subscriptionId",
    )
)
INTERNAL_ERROR: Final = -32603
# Header mismatch, missing client capability, unsupported version: the modern era's own codes. An
# upstream that answers so complains of us, not of the agent.
_MODERN_CODES: Final = frozenset({-32020, -32021, -32022})

_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members).decode
_encode = msgspec.json.Encoder().encode


def legacy_form(message: bytes) -> bytes:
    """The legacy form of one JSON-RPC message.

    Raises:
        UpstreamInvalidError: it is not a JSON-RPC message.
    """
    return legacy_answer(message)[0]


def legacy_answer(message: bytes) -> tuple[bytes, bool]:
    """The legacy form, and whether it is an error that answers a request: one with an id.

    Raises:
        UpstreamInvalidError: as `legacy_form`.
    """
    try:
        members = _members(message)
        if "result" in members:
            return _with_result(message, members), False
        if "error" in members:
            has_id = bytes(members.get("id", b"null")) != b"null"
            return _with_error(message, members), has_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamInvalidError("the reply is not a JSON-RPC message") from error
    return message, False


def _with_result(message: bytes, members: _Members) -> bytes:
    result = _members(members["result"])
    removed = [result.pop(name) for name in _MODERN_MEMBERS if name in result]
    if _without_modern_meta(result) or removed:
        members["result"] = msgspec.Raw(_encode(result))
        return _encode(members)
    return message


def _without_modern_meta(result: _Members) -> bool:
    """Take the modern keys out of `_meta`; whether there were any."""
    if "_meta" not in result:
        return False
    meta = _members(result["_meta"])
    removed = [meta.pop(key) for key in _MODERN_META if key in meta]
    if not removed:
        return False
    if meta:
        result["_meta"] = msgspec.Raw(_encode(meta))
    else:
        del result["_meta"]
    return True


def _with_error(message: bytes, members: _Members) -> bytes:
    error = _members(members["error"])
    if "code" not in error or msgspec.json.decode(error["code"]) not in _MODERN_CODES:
        return message
    error["code"] = msgspec.Raw(_encode(INTERNAL_ERROR))
    members["error"] = msgspec.Raw(_encode(error))
    return _encode(members)
