from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from token_exchange.authorization_details import ACTION_CALL
from token_exchange.claims import AuthorizationDetail
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

# A small alphabet, so that patterns nest and meet often; malformed ones are among them.
TOOL_NAMES = st.text("ab", min_size=1, max_size=4)
PATTERNS = st.text("ab*", max_size=4)
ACTIONS = st.lists(st.sampled_from(["call", "list"]), max_size=2).map(tuple)
SERVERS = st.sampled_from(["crm", "notes"])
TOOL_DETAILS = st.builds(
    AuthorizationDetail,
    type=st.just("mcp_tool"),
    server=SERVERS,
    tools=st.lists(PATTERNS, max_size=3).map(tuple),
    actions=ACTIONS,
)
CALL_DETAILS = st.builds(
    AuthorizationDetail,
    type=st.just("mcp_tool_call"),
    server=SERVERS,
    tool=st.none() | TOOL_NAMES,
    args_sha256=st.just("sha-256:x"),
    decision=st.sampled_from(["dec_1", "dec_2"]),
)
OTHER_DETAILS = st.builds(
    AuthorizationDetail, type=st.sampled_from(["mcp_discovery", "payment"]), server=SERVERS
)
DETAILS = st.lists(TOOL_DETAILS | CALL_DETAILS | OTHER_DETAILS, max_size=4).map(tuple)
SCOPES = st.frozensets(st.text("abc:", min_size=1, max_size=3), max_size=5)

Details = tuple[AuthorizationDetail, ...]


@given(SCOPES, SCOPES, SCOPES)
def test_scope_intersection_is_the_greatest_scope_both_cover(
    left: frozenset[str], right: frozenset[str], other: frozenset[str]
) -> None:
    common = scope_intersection(left, right)

    assert scope_covers(left, common)
    assert scope_covers(right, common)
    if scope_covers(left, other) and scope_covers(right, other):
        assert scope_covers(common, other)


@given(SCOPES)
def test_scope_formatted_is_read_back(scopes: frozenset[str]) -> None:
    assert parse_scope(format_scope(scopes)) == scopes


@given(PATTERNS, PATTERNS, TOOL_NAMES)
def test_pattern_covers_means_it_matches_whatever_the_other_does(
    outer: str, inner: str, tool: str
) -> None:
    if pattern_covers(outer, inner) and pattern_matches(inner, tool):
        assert pattern_matches(outer, tool)


@given(st.lists(PATTERNS, max_size=6), PATTERNS)
def test_patterns_cover_together_what_one_of_them_covers(outer: list[str], inner: str) -> None:
    crm = partial(AuthorizationDetail, "mcp_tool", "crm", actions=("call",))

    is_covered = details_cover((crm(tools=tuple(outer)),), (crm(tools=(inner,)),))

    assert is_covered == any(pattern_covers(each, inner) for each in outer)


@given(PATTERNS, PATTERNS)
def test_pattern_that_covers_not_has_a_counter_example(outer: str, inner: str) -> None:
    """Coverage is complete: it is refused only where something would be gained."""
    if is_pattern(outer) and is_pattern(inner) and not pattern_covers(outer, inner):
        gained = inner.removesuffix("*") or "z"
        witnesses = [gained, gained + "z"] if inner.endswith("*") else [gained]
        assert any(
            pattern_matches(inner, tool) and not pattern_matches(outer, tool) for tool in witnesses
        )


@given(PATTERNS, PATTERNS, TOOL_NAMES)
def test_pattern_intersection_matches_exactly_what_both_match(
    left: str, right: str, tool: str
) -> None:
    common = details_intersection(
        *((AuthorizationDetail("mcp_tool", "crm", (each,), ("call",)),) for each in (left, right))
    )

    both = pattern_matches(left, tool) and pattern_matches(right, tool)
    assert tools_permitted(common, "crm", tool) == both


@given(DETAILS, DETAILS, SERVERS, TOOL_NAMES, st.sampled_from(["call", "list"]))
def test_details_intersection_permits_exactly_what_both_permit(
    left: Details, right: Details, server: str, tool: str, action: str
) -> None:
    common = details_intersection(left, right)

    both = tools_permitted(left, server, tool, action) and tools_permitted(
        right, server, tool, action
    )
    assert tools_permitted(common, server, tool, action) == both


@given(DETAILS, DETAILS, DETAILS)
def test_details_intersection_is_the_greatest_both_cover(
    left: Details, right: Details, other: Details
) -> None:
    common = details_intersection(left, right)

    assert details_cover(left, common)
    assert details_cover(right, common)
    if details_cover(left, other) and details_cover(right, other):
        assert details_cover(common, other)


@given(DETAILS, DETAILS)
def test_details_intersection_repeats_nothing(left: Details, right: Details) -> None:
    common = details_intersection(left, right)

    assert not any(
        details_cover((one,), (other,)) for one in common for other in common if one is not other
    )


@given(DETAILS, DETAILS, SERVERS, TOOL_NAMES)
def test_details_covered_permit_nothing_more(
    outer: Details, inner: Details, server: str, tool: str
) -> None:
    if details_cover(outer, inner) and tools_permitted(inner, server, tool, ACTION_CALL):
        assert tools_permitted(outer, server, tool, ACTION_CALL)


@given(DETAILS, DETAILS, DETAILS)
def test_details_coverage_is_transitive(left: Details, middle: Details, right: Details) -> None:
    if details_cover(left, middle) and details_cover(middle, right):
        assert details_cover(left, right)
