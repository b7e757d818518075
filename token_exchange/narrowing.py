"""What one grant leaves of another: coverage and intersection that are total and only shrink.

Scopes are sets of RFC 6749 §3.3 tokens. Tool patterns are a literal, or a literal with one
trailing `*`: two of them nest or are disjoint, so an intersection is always one of the two.
Details are compared permission by permission: type, server, tool, action. Whatever is malformed
grants nothing and is covered by nothing. Whoever asks chooses both the number of patterns and how
they nest, so nothing here compares each with each. Left out: who asks, and policy.
"""

import re
from collections.abc import Iterable
from typing import Final

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
    return all(map(_Permissions(outer).cover, inner))


def details_intersection(left: Details, right: Details) -> Details:
    """The greatest details that both cover, without repetition.

    Tools first, by server: one detail for all actions that have the same tools.
    """
    ours, theirs = _Permissions(left), _Permissions(right)
    merged = _merged(
        {
            key: _tools_of_both(ours.tools[key], theirs.tools[key])
            for key in sorted(ours.tools.keys() & theirs.tools.keys())
        }
    )
    permitted = _Permissions(merged)
    rest = (
        detail
        for detail in dict.fromkeys((*left, *right))
        if detail.type != DETAIL_TOOL
        and ours.cover(detail)
        and theirs.cover(detail)
        and not permitted.cover(detail)
    )
    return (*merged, *rest)


class _Patterns:
    """A set of patterns: a question costs what its own text is long, not how many they are."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = frozenset(filter(is_pattern, patterns))
        self._prefixes = frozenset(each[:-1] for each in self.patterns if each.endswith("*"))
        self._lengths = tuple(sorted(set(map(len, self._prefixes))))

    def cover(self, pattern: str) -> bool:
        """Whether one of them covers it, as `pattern_covers`."""
        if pattern in self.patterns:
            return True
        stem = pattern.removesuffix("*")
        return is_pattern(pattern) and any(stem[:size] in self._prefixes for size in self._lengths)

    def widest(self) -> tuple[str, ...]:
        """Those that no other one covers, sorted."""
        return tuple(sorted(each for each in self.patterns if not self._is_inside(each)))

    def _is_inside(self, pattern: str) -> bool:
        # A pattern of the same stem is itself, or covers the literal that is its stem.
        stem = pattern.removesuffix("*")
        size_of_wider = len(stem) + (stem == pattern)
        sizes = (size for size in self._lengths if size < size_of_wider)
        return any(stem[:size] in self._prefixes for size in sizes)


class _Permissions:
    """What details permit: patterns by server and action, and details that stand for themselves."""

    def __init__(self, details: Details) -> None:
        listed: dict[tuple[str, str], list[str]] = {}
        for detail in details:
            if detail.type == DETAIL_TOOL:
                for action in detail.actions:
                    listed.setdefault((detail.server, action), []).extend(detail.tools)
        self.tools = {key: _Patterns(patterns) for key, patterns in listed.items()}
        self._themselves = frozenset(details)

    def cover(self, inner: AuthorizationDetail) -> bool:
        """Whether `inner` asks for nothing beyond them."""
        if inner.type == DETAIL_TOOL:
            # Without a tool or an action it would name a server and grant nothing.
            return bool(inner.tools and inner.actions) and all(
                all(map(self._tools_at(inner.server, action).cover, inner.tools))
                for action in inner.actions
            )
        if inner.type == DETAIL_TOOL_CALL:
            tool = inner.tool or ""
            is_permitted = "*" not in tool and self._tools_at(inner.server, ACTION_CALL).cover(tool)
            return is_permitted or inner in self._themselves
        return inner.type == DETAIL_DISCOVERY and inner in self._themselves

    def _tools_at(self, server: str, action: str) -> _Patterns:
        return self.tools.get((server, action), _NO_PATTERNS)


def _tools_of_both(left: _Patterns, right: _Patterns) -> tuple[str, ...]:
    """Of two patterns that meet one covers the other, and is covered by the other's set."""
    common = (*filter(right.cover, left.patterns), *filter(left.cover, right.patterns))
    return _Patterns(common).widest()


def _merged(tools: dict[tuple[str, str], tuple[str, ...]]) -> Details:
    """One detail for all actions that have the same tools at a server."""
    actions: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (server, action), patterns in tools.items():
        if patterns:
            actions.setdefault((server, patterns), []).append(action)
    return tuple(
        AuthorizationDetail(DETAIL_TOOL, server, patterns, tuple(named))
        for (server, patterns), named in actions.items()
    )


_NO_PATTERNS: Final = _Patterns(())
