import pytest

from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.narrowing import (
    details_cover,
    details_intersection,
    format_scope,
    is_pattern,
    parse_scope,
    pattern_covers,
    pattern_matches,
    scope_covers,
    scope_intersection,
    tools_permitted,
)


def tools(
    *patterns: str, server: str = "crm", actions: tuple[str, ...] = ("call",)
) -> AuthorizationDetail:
    return AuthorizationDetail("mcp_tool", server, patterns, actions)


def call(tool: str | None, server: str = "crm", decision: str = "dec_1") -> AuthorizationDetail:
    return AuthorizationDetail(
        "mcp_tool_call", server, tool=tool, args_sha256="sha-256:x", decision=decision
    )


DISCOVERY = AuthorizationDetail("mcp_discovery", "crm")


@pytest.mark.requirement("RFC6749-3.3")
@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        ("", set()),
        ("mcp:tools", {"mcp:tools"}),
        ("b a", {"a", "b"}),
        ("a a", {"a"}),
        ("!#[]~", {"!#[]~"}),
        (" ".join(str(n) for n in range(64)), {str(n) for n in range(64)}),
    ],
)
def test_scope_of_the_grammar_is_read(text: str, scopes: set[str]) -> None:
    assert parse_scope(text) == frozenset(scopes)


@pytest.mark.requirement("RFC6749-3.3")
@pytest.mark.parametrize(
    "text",
    [
        " ",
        " a",
        "a ",
        "a  b",
        "a\tb",
        "a\nb",
        "a\n",
        'a"',
        "a\\b",
        "é",
        "\x7f",
        " ".join(str(n) for n in range(65)),
    ],
)
def test_scope_outside_the_grammar_is_refused(text: str) -> None:
    refusal = parse_scope(text)

    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.rule) == ("invalid_scope", "scope.form")


def test_scope_has_one_spelling() -> None:
    assert format_scope(["b", "a", "b"]) == "a b"
    assert format_scope([]) == ""


@pytest.mark.requirement("attack-16")
def test_scope_covers_its_parts_only() -> None:
    wide, narrow = frozenset(("a", "b")), frozenset(("a",))

    assert scope_covers(wide, narrow)
    assert scope_covers(wide, wide)
    assert scope_covers(wide, frozenset())
    assert not scope_covers(narrow, wide)
    assert scope_intersection(wide, frozenset(("b", "c"))) == {"b"}


@pytest.mark.parametrize("text", ["a", "*", "a*", "get_account", "a/b-c.d*"])
def test_pattern_is_a_literal_or_has_one_trailing_star(text: str) -> None:
    assert is_pattern(text)


@pytest.mark.parametrize("text", ["", "**", "*a", "a*b", "a**", "a*b*"])
def test_pattern_of_another_form_stands_for_nothing(text: str) -> None:
    assert not is_pattern(text)
    assert not pattern_matches(text, "a")
    assert not pattern_matches(text, text)
    assert not pattern_covers(text, text)
    assert not pattern_covers("*", text)
    assert not pattern_covers(text, "a")
    assert details_intersection((tools("*"),), (tools(text),)) == ()
    assert details_intersection((tools(text),), (tools("*"),)) == ()


@pytest.mark.parametrize(
    ("pattern", "tool", "expected"),
    [
        ("get", "get", True),
        ("get", "Get", False),
        ("get", "get_account", False),
        ("get_account", "get", False),
        ("get_*", "get_", True),
        ("get_*", "get_account", True),
        ("get_*", "get", False),
        ("get_*", "xget_account", False),
        ("*", "anything", True),
        ("*", "", False),
        ("get_*", "get_*", False),  # no tool has a star in its name
        ("*", "*", False),
    ],
)
def test_pattern_matches_its_tools(pattern: str, tool: str, expected: bool) -> None:
    assert pattern_matches(pattern, tool) is expected


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a*", "a", True),
        ("a*", "ab", True),
        ("a*", "a*", True),
        ("a*", "ab*", True),
        ("ab*", "a*", False),
        ("ab*", "a", False),
        ("a", "a*", False),
        ("*", "a*", True),
        ("a*", "*", False),
        ("*", "*", True),
    ],
)
def test_pattern_covers_what_it_contains(outer: str, inner: str, expected: bool) -> None:
    assert pattern_covers(outer, inner) is expected


@pytest.mark.parametrize(
    ("server", "tool", "action", "expected"),
    [
        ("crm", "get_account", "call", True),
        ("crm", "refund", "call", True),
        ("crm", "delete", "call", False),
        ("notes", "get_account", "call", False),
        ("crm", "get_account", "list", False),
        ("crm", "get_*", "call", False),
    ],
)
def test_tools_are_permitted_by_server_tool_and_action(
    server: str, tool: str, action: str, expected: bool
) -> None:
    details = (tools("x", server="other"), tools("get_*", "refund"))

    assert tools_permitted(details, server, tool, action) is expected


def test_tools_are_permitted_for_calling_by_default() -> None:
    assert tools_permitted((tools("get"),), "crm", "get")
    assert not tools_permitted((tools("get", actions=("list",)),), "crm", "get")


def test_tools_are_not_permitted_by_a_detail_for_one_call_or_for_discovery() -> None:
    assert not tools_permitted((call("get"), DISCOVERY), "crm", "get")
    assert not tools_permitted((), "crm", "get")


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ((), ()),
        ((tools("get_*"),), ()),
        ((tools("get_*"),), (tools("get_account"),)),
        ((tools("get_*"),), (tools("get_*"), tools("get_a*"))),
        ((tools("get"), tools("put")), (tools("get", "put"),)),
        (
            (tools("a", actions=("call",)), tools("a", actions=("list",))),
            (tools("a", actions=("call", "list")),),
        ),
        ((tools("get_*"),), (call("get_account"),)),
        ((call("get"),), (call("get"),)),
        ((DISCOVERY,), (DISCOVERY,)),
    ],
)
def test_details_cover_what_they_contain(
    outer: tuple[AuthorizationDetail, ...], inner: tuple[AuthorizationDetail, ...]
) -> None:
    assert details_cover(outer, inner)


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ((), (tools("get"),)),
        ((tools("get"),), (tools("get", server="notes"),)),
        ((tools("get"),), (tools("get_account"),)),
        ((tools("get"),), (tools("get*"),)),
        ((tools("get"),), (tools("get", "put"),)),
        ((tools("get"),), (tools("get"), tools("put"))),
        ((tools("get"),), (tools("get", actions=("call", "list")),)),
        ((tools("get"),), (tools("get", actions=()),)),
        ((tools("get"),), (tools(),)),
        ((tools("*"),), (tools(server="notes"),)),
        ((tools("a*b"),), (tools("a*b"),)),
        ((tools("get"),), (call("put"),)),
        ((tools("get"),), (call("get", server="notes"),)),
        ((tools("*"),), (call(None),)),
        ((tools("*"),), (call(""),)),
        ((call("get"),), (tools("get"),)),
        ((call("get"),), (call("get", decision="dec_2"),)),
        ((tools("*"),), (DISCOVERY,)),
        ((DISCOVERY,), (AuthorizationDetail("mcp_discovery", "notes"),)),
        ((AuthorizationDetail("other", "crm"),), (AuthorizationDetail("other", "crm"),)),
        ((AuthorizationDetail("other", "crm", ("get",), ("call",)),), (tools("get"),)),
    ],
)
def test_details_do_not_cover_what_is_wider_or_malformed(
    outer: tuple[AuthorizationDetail, ...], inner: tuple[AuthorizationDetail, ...]
) -> None:
    assert not details_cover(outer, inner)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (tools("get_*", "refund"), tools("get_account", "refund"), tools("get_account", "refund")),
        (tools("a*", "ab*"), tools("*"), tools("a*")),
        (tools("ab*", "a*"), tools("*"), tools("a*")),
        (tools("a"), tools("a", "a*"), tools("a")),
        (
            tools("a", actions=("list", "call", "read")),
            tools("a", actions=("read", "list")),
            tools("a", actions=("list", "read")),
        ),
        (tools("a"), tools("b"), None),
        (tools("a"), tools("a", server="notes"), None),
        (tools("a"), tools("a", actions=("list",)), None),
        (tools("get_*"), call("get_account"), call("get_account")),
        (call("get_account"), tools("get_*"), call("get_account")),
        (tools("put"), call("get"), None),
        (call("get"), call("get"), call("get")),
        (call("get"), call("get", decision="dec_2"), None),
        (DISCOVERY, DISCOVERY, DISCOVERY),
        (DISCOVERY, tools("*"), None),
        (
            AuthorizationDetail("other", "crm", ("a",), ("call",)),
            AuthorizationDetail("other", "crm", ("a",), ("call",)),
            None,
        ),
    ],
)
def test_intersection_of_two_details_is_what_both_permit(
    left: AuthorizationDetail, right: AuthorizationDetail, expected: AuthorizationDetail | None
) -> None:
    assert details_intersection((left,), (right,)) == (() if expected is None else (expected,))


def test_details_intersection_keeps_each_permission_once() -> None:
    left = (tools("get_*", "refund"), tools("*", server="notes"), DISCOVERY)
    right = (
        tools("get_a*"),
        tools("get_account"),
        tools("get_*", "delete"),
        tools("search", server="notes"),
        tools("x", server="other"),
    )

    assert details_intersection(left, right) == (
        tools("get_*"),
        tools("search", server="notes"),
    )
    assert details_intersection(left, ()) == ()
    assert details_intersection((), right) == ()


def test_details_intersection_replaces_what_a_later_one_contains() -> None:
    assert details_intersection((tools("a"), tools("b"), tools("*")), (tools("*"),)) == (
        tools("*"),
    )
    assert details_intersection((tools("*"), tools("a")), (tools("*"),)) == (tools("*"),)


def test_details_intersection_is_one_detail_for_the_actions_that_have_the_same_tools() -> None:
    assert details_intersection((tools("b"), tools("a")), (tools("*"),)) == (tools("a", "b"),)
    both = (tools("a*", "b", actions=("call",)), tools("b", "a*", "c", actions=("list",)))
    everything = (tools("*", actions=("call", "list")),)
    assert details_intersection(both, everything) == (
        tools("a*", "b", actions=("call",)),
        tools("a*", "b", "c", actions=("list",)),
    )
    assert details_intersection((*both, tools("c")), everything) == (
        tools("a*", "b", "c", actions=("call", "list")),
    )


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a*", "ab", "ab"),
        ("ab", "a*", "ab"),
        ("a*", "ab*", "ab*"),
        ("ab*", "a*", "ab*"),
        ("a", "a", "a"),
        ("a", "b", None),
        ("a*", "b*", None),
        ("*", "*", "*"),
    ],
)
def test_intersection_of_two_patterns_is_the_narrower_or_nothing(
    left: str, right: str, expected: str | None
) -> None:
    common = details_intersection((tools(left),), (tools(right),))

    assert common == (() if expected is None else (tools(expected),))
