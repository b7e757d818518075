"""Which RFC 9396 authorization details are well formed, and their JSON.

Three types (see `AuthorizationDetail`); each has a table row of members it must and may have.
Unknown types and members are refused, not ignored (RFC 9396 §5). What a request may name is bounded
in all details together, so that no door compares or signs more than one token can say. Left out:
whether one grants another, which is `narrowing`.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.compact_jws import parse_json
from token_exchange.token_types import DETAIL_DISCOVERY, DETAIL_TOOL, DETAIL_TOOL_CALL

ACTION_CALL: Final = "call"
ACTIONS: Final = frozenset((ACTION_CALL,))
MAXIMUM_DETAILS: Final = 64
# In all details of a request together: as many as one token, and so one consent page, can name.
MAXIMUM_DETAIL_TOOLS: Final = 128
MAXIMUM_TOOL_CHARACTERS: Final = 6144  # the token that names them all stays below its 16 KiB

_SERVER: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TOOL: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")
_TOOL_PATTERN: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}|[A-Za-z0-9_.\-/]{0,127}\*")
_ARGUMENT_DIGEST: Final = re.compile(r"[A-Za-z0-9:_-]{16,128}")
_DECISION: Final = re.compile(r"dec_[0-9A-Za-z]{16,64}")

_PROBLEM: Final = Refusal(
    "invalid_authorization_details",
    "The authorization_details are not acceptable.",
    "not JSON, an unknown type or member, a value out of range, or too many tools",
    "details.form",
)


def parse_authorization_details(text: str) -> tuple[AuthorizationDetail, ...] | Refusal:
    """The details of a request's `authorization_details` parameter (RFC 9396 §2, §5)."""
    # A lone surrogate becomes bytes that are no UTF-8, which the parser refuses.
    value = parse_json(text.encode("utf-8", "surrogatepass"))
    try:
        details = msgspec.convert(value, tuple[AuthorizationDetail, ...])
    except msgspec.ValidationError:
        return _PROBLEM
    if not 1 <= len(details) <= MAXIMUM_DETAILS or not _are_few_tools(details):
        return _PROBLEM
    return details if all(map(is_well_formed, details)) else _PROBLEM


def is_well_formed(detail: AuthorizationDetail) -> bool:
    """Whether a detail has exactly the members of its type, with values in range."""
    check = _CHECKS.get(detail.type)
    return check is not None and _SERVER.fullmatch(detail.server) is not None and check(detail)


def describe_details(details: tuple[AuthorizationDetail, ...]) -> list[dict[str, Any]]:
    """Details as JSON values, for a token response (RFC 9396 §7)."""
    return [msgspec.to_builtins(detail) for detail in details]


def _are_few_tools(details: tuple[AuthorizationDetail, ...]) -> bool:
    tools = [tool for detail in details for tool in detail.tools]
    return len(tools) <= MAXIMUM_DETAIL_TOOLS and sum(map(len, tools)) <= MAXIMUM_TOOL_CHARACTERS


def _is_tool_detail(detail: AuthorizationDetail) -> bool:
    return (
        _has_only(detail, "tools", "actions")
        and bool(detail.tools)
        and all(map(_TOOL_PATTERN.fullmatch, detail.tools))
        and 1 <= len(detail.actions) <= len(ACTIONS)
        and ACTIONS.issuperset(detail.actions)
    )


def _is_call_detail(detail: AuthorizationDetail) -> bool:
    return (
        _has_only(detail, "tool", "args_sha256", "decision")
        and _TOOL.fullmatch(detail.tool or "") is not None
        and _ARGUMENT_DIGEST.fullmatch(detail.args_sha256 or "") is not None
        and _DECISION.fullmatch(detail.decision or "") is not None
    )


def _is_discovery_detail(detail: AuthorizationDetail) -> bool:
    return _has_only(detail)


def _has_only(detail: AuthorizationDetail, *members: str) -> bool:
    return all(name in members or not getattr(detail, name) for name in _OPTIONAL_MEMBERS)


_OPTIONAL_MEMBERS: Final = ("tools", "actions", "tool", "args_sha256", "decision")
_CHECKS: Final[dict[str, Callable[[AuthorizationDetail], bool]]] = {
    DETAIL_TOOL: _is_tool_detail,
    DETAIL_TOOL_CALL: _is_call_detail,
    DETAIL_DISCOVERY: _is_discovery_detail,
}
