"""What an agent may ask for with a person's token, and what a consent leaves of it."""

import json
from typing import Any

import pytest

from token_exchange.authorization_details import MAXIMUM_DETAIL_TOOLS, MAXIMUM_TOOL_CHARACTERS
from token_exchange.blend import (
    DETAILS,
    REQUESTED_TYPE,
    RESOURCE,
    SCOPE,
    BlendRequest,
    ConsentedTools,
    asked_access,
    granted_access,
)
from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN

ENDPOINT = "https://gw.example.com/crm/mcp"
MINE = frozenset({"get_account", "get_hours", "refund"})
ENDS = 1_800_000_300


def asked(**changes: Any) -> AuthorizationDetail | Refusal:
    fields: dict[str, Any] = {
        "resource": (ENDPOINT,),
        "server": "crm",
        "tools": MINE,
        "requested_token_type": None,
        "scope": "",
        "encoded_details": None,
    }
    return asked_access(BlendRequest(**(fields | changes)))


def detail(*tools: str, **changes: Any) -> dict[str, Any]:
    plain = {"type": "mcp_tool", "server": "crm", "tools": list(tools), "actions": ["call"]}
    return plain | changes


def of_crm(*tools: str) -> AuthorizationDetail:
    return AuthorizationDetail("mcp_tool", "crm", tools, ("call",))


def consent(gid: str, *tools: str, expires_at: int = ENDS + 1000) -> ConsentedTools:
    return ConsentedTools(gid, frozenset(tools), expires_at)


# --- what is asked for ---


@pytest.mark.parametrize(
    ("changes", "tools"),
    [
        ({}, ("get_account", "get_hours", "refund")),
        ({"scope": "mcp:tools"}, ("get_account", "get_hours", "refund")),
        ({"requested_token_type": TOKEN_TYPE_ACCESS_TOKEN}, ("get_account", "get_hours", "refund")),
        ({"encoded_details": [detail("get_*")]}, ("get_account", "get_hours")),
        ({"encoded_details": [detail("*")]}, ("get_account", "get_hours", "refund")),
        ({"encoded_details": [detail("refund"), detail("get_a*")]}, ("get_account", "refund")),
        ({"encoded_details": [detail("refund", "delete_account")]}, ("refund",)),
        ({"encoded_details": [detail("refund", *"abcdefgh")]}, ("refund",)),
    ],
    ids=str,
)
def test_what_is_asked_for_is_the_agents_own_tools_or_fewer(
    changes: dict[str, Any], tools: tuple[str, ...]
) -> None:
    if "encoded_details" in changes:
        changes = {"encoded_details": json.dumps(changes["encoded_details"])}
    assert asked(**changes) == of_crm(*tools)


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"resource": ()}, RESOURCE),
        ({"resource": (ENDPOINT, ENDPOINT)}, RESOURCE),
        ({"server": ""}, RESOURCE),
        ({"tools": frozenset()}, RESOURCE),
        ({"requested_token_type": TOKEN_TYPE_ID_TOKEN}, REQUESTED_TYPE),
        ({"requested_token_type": ""}, REQUESTED_TYPE),
        ({"scope": "openid"}, SCOPE),
        ({"scope": "mcp:tools offline_access"}, SCOPE),
        ({"scope": "mcp:tools  mcp:tools"}, SCOPE),
        ({"encoded_details": json.dumps([detail("x")])}, DETAILS),
        ({"encoded_details": json.dumps([detail("refund", server="notes")])}, DETAILS),
        ({"encoded_details": json.dumps([detail("refund"), detail("x", server="n")])}, DETAILS),
        ({"encoded_details": json.dumps([{"type": "mcp_discovery", "server": "crm"}])}, DETAILS),
    ],
    ids=str,
)
def test_asking_for_anything_else_is_refused(changes: dict[str, Any], refusal: Refusal) -> None:
    assert asked(**changes) == refusal


def test_as_many_patterns_as_a_token_can_name_are_compared() -> None:
    most = [detail("refund"), detail(*["c"] * (MAXIMUM_DETAIL_TOOLS - 1))]
    assert asked(encoded_details=json.dumps(most)) == of_crm("refund")


def test_details_that_cannot_be_read_are_refused_with_their_own_rule() -> None:
    too_many = json.dumps([detail(*"ab"), detail(*["c"] * 127)])
    for text in ("", "[", "{}", "[]", '[{"type":"mcp_tool"}]', too_many):
        refusal = asked(encoded_details=text)
        assert isinstance(refusal, Refusal)
        assert refusal.rule == "details.form"


def test_a_token_must_be_able_to_name_every_tool() -> None:
    most = frozenset(f"t{number}" for number in range(MAXIMUM_DETAIL_TOOLS))
    assert asked(tools=most) == of_crm(*sorted(most))
    more = most | {"one-more"}
    assert asked(tools=more) == DETAILS
    assert asked(tools=more, encoded_details=json.dumps([detail("one-*")])) == of_crm("one-more")
    count = MAXIMUM_TOOL_CHARACTERS // 128
    longest = frozenset(f"{number:02}" + "x" * 126 for number in range(count))
    assert sum(map(len, longest)) == MAXIMUM_TOOL_CHARACTERS
    assert asked(tools=longest) == of_crm(*sorted(longest))
    assert asked(tools=longest | {"x"}) == DETAILS


# --- what a consent leaves ---


def test_a_consent_leaves_what_both_name_until_the_first_end() -> None:
    wanted = of_crm("get_account", "refund")
    found = granted_access(wanted, [consent("grt_1", "refund", "other")], ENDS)
    assert found is not None
    assert (found.details, found.gid, found.until) == ((of_crm("refund"),), "grt_1", ENDS)
    ends_before = granted_access(wanted, [consent("grt_1", "refund", expires_at=ENDS - 1)], ENDS)
    assert ends_before is not None
    assert ends_before.until == ENDS - 1


def test_without_a_consent_that_leaves_anything_there_is_no_access() -> None:
    wanted = of_crm("get_account")
    assert granted_access(wanted, [], ENDS) is None
    assert granted_access(wanted, [consent("grt_1", "refund"), consent("grt_2")], ENDS) is None
    assert granted_access(wanted, [consent("grt_1", "get_account")], ENDS) is not None


def test_of_several_consents_the_widest_counts_and_of_equals_the_latest() -> None:
    wanted = of_crm("get_account", "refund")
    latest_first = [
        consent("grt_3", "refund", "a", "b", "c"),
        consent("grt_2", "get_account", "refund"),
        consent("grt_1", "get_account", "refund", "d"),
    ]
    found = granted_access(wanted, latest_first, ENDS)
    assert found is not None
    assert found.gid == "grt_2"
    assert found.details == (wanted,)


def test_a_mandate_leaves_all_of_it_and_names_no_consent() -> None:
    wanted = of_crm("get_account", "refund")
    found = granted_access(wanted, None, ENDS)
    assert found is not None
    assert (found.details, found.gid, found.until) == ((wanted,), None, ENDS)
