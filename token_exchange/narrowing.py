"""What one grant leaves of another: coverage and intersection that are total and only shrink.

Scopes are sets of RFC 6749 §3.3 tokens. Tool patterns are a literal, or a literal with one
trailing `*`: two of them nest or are disjoint, so an intersection is always one of the two.
Details are compared permission by permission: type, server, tool, action. Whatever is malformed
grants nothing and is covered by nothing. Left out: who asks, and policy.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from token_exchange.authorization_details import ACTION_CALL
from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.token_types import DETAIL_DISCOVERY, DETAIL_TOOL, DETAIL_TOOL_CALL

Details = tuple[AuthorizationDetail, ...]

MAXIMUM_SCOPES: Final = 64

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")
_SCOPE_PROBLEM: Final = Refusal(
    "invalid_scope",
    "The scope is not a list of scope tokens separated by single spaces.",
    "RFC 6749 section 3.3 grammar, or more tokens than accepted",
    "scope.form",
)


def parse_scope(text: str) -> frozenset[str] | Refusal:
    """The scope tokens of a `scope` value; none for the empty text (RFC 6749 §3.3)."""
    if not text:
        return frozenset()
    if _SCOPE.fullmatch(text) is None:
        return _SCOPE_PROBLEM
    scopes = frozenset(text.split(" "))
    return scopes if len(scopes) <= MAXIMUM_SCOPES else _SCOPE_PROBLEM


def format_scope(scopes: Iterable[str]) -> str:
    """The one spelling of a set of scope tokens: sorted."""
    return " ".join(sorted(set(scopes)))


def scope_covers(outer: frozenset[str], inner: frozenset[str]) -> bool:
    """Whether `inner` asks for nothing beyond `outer`."""
    return inner <= outer


def scope_intersection(left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    """The scopes in both."""
    return left & right


def pattern_matches(pattern: str, tool: str) -> bool:
    """Whether a tool's name is one the pattern stands for. A malformed pattern matches none."""
    return "*" not in tool and pattern_covers(pattern, tool)


def pattern_covers(outer: str, inner: str) -> bool:
    """Whether every tool that `inner` stands for, `outer` stands for as well."""
    if not (is_pattern(outer) and is_pattern(inner)):
        return False
    if outer.endswith("*"):
        return inner.removesuffix("*").startswith(outer[:-1])
    return inner == outer


def pattern_intersection(left: str, right: str) -> str | None:
    """The pattern for the tools both stand for, or None when there are none."""
    if pattern_covers(left, right):
        return right
    return left if pattern_covers(right, left) else None


def is_pattern(text: str) -> bool:
    """Whether it is a literal, or a literal with one trailing `*`."""
    return bool(text) and "*" not in text[:-1]


def tools_permitted(details: Details, server: str, tool: str, action: str = ACTION_CALL) -> bool:
    """Whether consented details permit a tool of a server.

    Only `mcp_tool` counts: an `mcp_tool_call` permits one set of arguments, which a tool's name
    cannot tell.
    """
    return any(
        detail.type == DETAIL_TOOL
        and detail.server == server
        and action in detail.actions
        and any(pattern_matches(pattern, tool) for pattern in detail.tools)
        for detail in details
    )


def details_cover(outer: Details, inner: Details) -> bool:
    """Whether `inner` asks for nothing beyond `outer`."""
    return all(_is_covered(outer, detail) for detail in inner)


def details_intersection(left: Details, right: Details) -> Details:
    """The greatest details that both cover, without repetition."""
    common = [
        detail
        for one in left
        for other in right
        if (detail := detail_intersection(one, other)) is not None
    ]
    kept: list[AuthorizationDetail] = []
    for detail in common:
        if not _is_covered(tuple(kept), detail):
            kept = [earlier for earlier in kept if not _is_covered((detail,), earlier)]
            kept.append(detail)
    return tuple(kept)


def detail_intersection(
    left: AuthorizationDetail, right: AuthorizationDetail
) -> AuthorizationDetail | None:
    """The permissions in both details as one detail, or None when there are none."""
    if left.type == right.type == DETAIL_TOOL:
        return _tool_intersection(left, right)
    for outer, inner in ((left, right), (right, left)):
        if _is_covered((outer,), inner):
            return inner
    return None


def _tool_intersection(
    left: AuthorizationDetail, right: AuthorizationDetail
) -> AuthorizationDetail | None:
    tools: list[str] = []
    for one in left.tools:
        for other in right.tools:
            common = pattern_intersection(one, other)
            if common is not None and not any(pattern_covers(kept, common) for kept in tools):
                tools = [kept for kept in tools if not pattern_covers(common, kept)]
                tools.append(common)
    actions = tuple(sorted(set(left.actions) & set(right.actions)))
    if left.server != right.server or not tools or not actions:
        return None
    return msgspec.structs.replace(left, tools=tuple(tools), actions=actions)


def _is_covered(outer: Details, inner: AuthorizationDetail) -> bool:
    if inner.type == DETAIL_TOOL:
        # Without a tool or an action it would name a server and grant nothing.
        return bool(inner.tools and inner.actions) and all(
            any(_permits(detail, inner.server, pattern, action) for detail in outer)
            for pattern in inner.tools
            for action in inner.actions
        )
    if inner.type == DETAIL_TOOL_CALL:
        tool = inner.tool or ""
        return inner in outer or tools_permitted(outer, inner.server, tool)
    return inner.type == DETAIL_DISCOVERY and inner in outer


def _permits(outer: AuthorizationDetail, server: str, pattern: str, action: str) -> bool:
    return (
        outer.type == DETAIL_TOOL
        and outer.server == server
        and action in outer.actions
        and any(pattern_covers(tool, pattern) for tool in outer.tools)
    )
