"""Whatever is asked and consented to: a blend never widens."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from token_exchange.blend import BlendRequest, ConsentedTools, asked_access, granted_access
from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.narrowing import details_cover, pattern_matches

TOOLS = ("get_account", "get_hours", "get", "refund", "list/all", "a")
names = st.sampled_from(TOOLS)
patterns = names | st.builds(lambda name, cut: f"{name[:cut]}*", names, st.integers(0, 6))
mine = st.frozensets(names)
details = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["mcp_tool", "mcp_tool", "mcp_tool", "mcp_discovery"]),
            "server": st.sampled_from(["crm", "crm", "crm", "notes"]),
            "tools": st.lists(patterns, max_size=4),
            "actions": st.sampled_from([["call"], ["call"], []]),
        }
    ),
    max_size=4,
)
consents = st.lists(
    st.builds(ConsentedTools, st.sampled_from(["grt_1", "grt_2"]), mine, st.integers(0, 2_000)),
    max_size=4,
)
requests = st.builds(
    BlendRequest,
    resource=st.sampled_from([("crm",), ("crm",), (), ("crm", "notes")]),
    server=st.sampled_from(["crm", "crm", ""]),
    tools=mine,
    requested_token_type=st.none(),
    scope=st.sampled_from(["", "mcp:tools", "openid", "mcp:tools openid"]),
    encoded_details=st.none() | details.map(json.dumps),
)


def outer(tools: frozenset[str]) -> tuple[AuthorizationDetail, ...]:
    return (AuthorizationDetail("mcp_tool", "crm", tuple(tools), ("call",)),)


@given(requests, consents | st.none(), st.integers(0, 2_000))
def test_blend_is_within_agent_request_and_consent_and_ends_with_the_first(
    request: BlendRequest, given_consents: list[ConsentedTools] | None, token_ends_at: int
) -> None:
    access = asked_access(request)
    if isinstance(access, Refusal):
        return
    granted = granted_access(access, given_consents, token_ends_at)
    if granted is None:
        return
    assert granted.details
    assert details_cover(outer(request.tools), granted.details)
    assert granted.until <= token_ends_at
    tools = [tool for each in granted.details for tool in each.tools]
    assert tools
    assert all(_is_asked_for(request, tool) for tool in tools)
    if given_consents is None:
        assert granted.gid is None
        return
    by = [each for each in given_consents if each.gid == granted.gid]
    assert any(set(tools) <= each.tools and granted.until <= each.expires_at for each in by)


def _is_asked_for(request: BlendRequest, tool: str) -> bool:
    if request.encoded_details is None:
        return True
    asked: list[dict[str, Any]] = json.loads(request.encoded_details)
    return any(
        each["server"] == "crm" and pattern_matches(pattern, tool)
        for each in asked
        for pattern in each["tools"]
    )


@given(requests, mine, mine, st.integers(0, 2_000))
def test_a_wider_consent_never_leaves_less(
    request: BlendRequest, tools: frozenset[str], more: frozenset[str], ends_at: int
) -> None:
    access = asked_access(request)
    if isinstance(access, Refusal):
        return
    narrow = granted_access(access, [ConsentedTools("grt_1", tools, ends_at)], ends_at)
    wide = granted_access(access, [ConsentedTools("grt_1", tools | more, ends_at)], ends_at)
    if narrow is not None:
        assert wide is not None
        assert details_cover(wide.details, narrow.details)
