import json
from typing import Any

import pytest

from tests.token_exchange.signing import without
from token_exchange.authorization_details import (
    describe_details,
    is_well_formed,
    parse_authorization_details,
)
from token_exchange.claims import AuthorizationDetail, Refusal

TOOL = {"type": "mcp_tool", "server": "crm", "tools": ["get_*", "refund"], "actions": ["call"]}
CALL = {
    "type": "mcp_tool_call",
    "server": "crm",
    "tool": "get_account",
    "args_sha256": "sha-256:ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
    "decision": "dec_aaaqeayeaudaocajbifqydiob4",
}
DISCOVERY = {"type": "mcp_discovery", "server": "crm"}


def parsed(*details: dict[str, Any]) -> tuple[AuthorizationDetail, ...] | Refusal:
    return parse_authorization_details(json.dumps(details))


@pytest.mark.requirement("RFC9396-2")
def test_details_of_the_three_types_are_read_and_described_as_they_came() -> None:
    details = parsed(TOOL, CALL, DISCOVERY)

    assert details == (
        AuthorizationDetail("mcp_tool", "crm", ("get_*", "refund"), ("call",)),
        AuthorizationDetail(
            "mcp_tool_call",
            "crm",
            tool="get_account",
            args_sha256=CALL["args_sha256"],
            decision=CALL["decision"],
        ),
        AuthorizationDetail("mcp_discovery", "crm"),
    )
    assert describe_details(details) == [
        {**TOOL, "tools": ("get_*", "refund"), "actions": ("call",)},
        CALL,
        DISCOVERY,
    ]


@pytest.mark.requirement("RFC9396-5")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null",
        "7",
        "[]",
        "[[]]",
        "[null]",
        '["mcp_tool"]',
        json.dumps(TOOL),
        json.dumps([TOOL])[:-1],
        json.dumps([TOOL]) + " x",
        '[{"type":"mcp_discovery","server":"crm","server":"notes"}]',
        '[{"type":"mcp_discovery","server":"crm"}], "x": [1]',
        '[{"type":"mcp_discovery","server":"\ud800"}]',
        "[" * 60 + "]" * 60,
    ],
)
def test_details_that_are_no_json_array_of_objects_are_refused(text: str) -> None:
    refusal = parse_authorization_details(text)

    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.rule) == ("invalid_authorization_details", "details.form")


@pytest.mark.requirement("RFC9396-5")
@pytest.mark.parametrize(
    "detail",
    [
        {**TOOL, "type": "payment"},
        {**TOOL, "type": ""},
        {**TOOL, "type": 7},
        without(TOOL, "type"),
        without(TOOL, "server"),
        {**TOOL, "server": ""},
        {**TOOL, "server": "CRM"},
        {**TOOL, "server": "crm/x"},
        {**TOOL, "server": "crm\n"},
        {**TOOL, "server": "-crm"},
        {**TOOL, "server": "a" * 64},
        {**TOOL, "datatypes": ["x"]},
        {**TOOL, "tools": []},
        without(TOOL, "tools"),
        {**TOOL, "tools": "get_*"},
        {**TOOL, "tools": [""]},
        {**TOOL, "tools": ["get_*", "*x"]},
        {**TOOL, "tools": ["a*b"]},
        {**TOOL, "tools": ["get_**"]},
        {**TOOL, "tools": ["get account"]},
        {**TOOL, "tools": ["get_é"]},
        {**TOOL, "tools": ["get\n"]},
        {**TOOL, "tools": ["x" * 129]},
        {**TOOL, "tools": ["x" * 128 + "*"]},
        {**TOOL, "tools": ["x"] * 129},
        {**TOOL, "actions": []},
        without(TOOL, "actions"),
        {**TOOL, "actions": ["delete"]},
        {**TOOL, "actions": ["call", "delete"]},
        {**TOOL, "actions": ["call", "call"]},
        {**TOOL, "tool": "get_account"},
        {**TOOL, "args_sha256": CALL["args_sha256"]},
        {**TOOL, "decision": CALL["decision"]},
        {**CALL, "tool": ""},
        {**CALL, "tool": "get_*"},
        {**CALL, "tool": "x" * 129},
        without(CALL, "tool"),
        {**CALL, "args_sha256": "short"},
        {**CALL, "args_sha256": "x" * 129},
        {**CALL, "args_sha256": "x" * 20 + " "},
        without(CALL, "args_sha256"),
        {**CALL, "decision": "evt_aaaqeayeaudaocajbifqydiob4"},
        {**CALL, "decision": "dec_" + "x" * 15},
        {**CALL, "decision": "dec_" + "x" * 65},
        without(CALL, "decision"),
        {**CALL, "tools": ["get_*"]},
        {**CALL, "actions": ["call"]},
        {**DISCOVERY, "tools": ["get_*"]},
        {**DISCOVERY, "actions": ["call"]},
        {**DISCOVERY, "tool": "x"},
        {**DISCOVERY, "args_sha256": CALL["args_sha256"]},
        {**DISCOVERY, "decision": CALL["decision"]},
    ],
)
def test_detail_out_of_its_types_range_is_refused(detail: dict[str, Any]) -> None:
    assert isinstance(parsed(detail), Refusal)
    assert isinstance(parsed(DISCOVERY, detail), Refusal)


@pytest.mark.parametrize(
    "detail",
    [
        {**TOOL, "tools": ["*"]},
        {**TOOL, "tools": ["x" * 128]},
        {**TOOL, "tools": ["x" * 127 + "*"]},
        {**TOOL, "tools": ["x"] * 128},
        {**TOOL, "server": "a" * 63},
        {**TOOL, "server": "a"},
        {**CALL, "tool": "Get.a-b/c_9"},
        {**CALL, "tool": "x" * 128},
        {**CALL, "args_sha256": "x" * 16},
        {**CALL, "args_sha256": "x" * 128},
        {**CALL, "decision": "dec_" + "x" * 16},
        {**CALL, "decision": "dec_" + "x" * 64},
        {**CALL, "decision": "dec_01J9ZQ8X7W6V5T4S3R2Q1P0NMK"},
    ],
)
def test_detail_at_the_ends_of_its_range_is_accepted(detail: dict[str, Any]) -> None:
    assert not isinstance(parsed(detail), Refusal)


def test_details_are_at_most_sixty_four() -> None:
    assert not isinstance(parsed(*[DISCOVERY] * 64), Refusal)
    assert isinstance(parsed(*[DISCOVERY] * 65), Refusal)


@pytest.mark.requirement("RFC9396-5", "attack-30")
def test_tools_are_bounded_in_all_details_together() -> None:
    def of(tools: list[str]) -> dict[str, Any]:
        return {**TOOL, "tools": tools}

    assert not isinstance(parsed(*[of(["x"] * 64)] * 2), Refusal)
    assert isinstance(parsed(*[of(["x"] * 64)] * 2, of(["x"])), Refusal)
    assert not isinstance(parsed(*[of(["x" * 128] * 24)] * 2), Refusal)
    assert isinstance(parsed(*[of(["x" * 128] * 24)] * 2, of(["x"])), Refusal)


def test_detail_of_a_token_may_name_what_an_operator_declared_however_much_that_is() -> None:
    many = tuple(f"get_{number}" for number in range(500))
    assert is_well_formed(AuthorizationDetail("mcp_tool", "crm", many, ("call",)))
    assert not is_well_formed(AuthorizationDetail("mcp_tool", "crm", (), ("call",)))
