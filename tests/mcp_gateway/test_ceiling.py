import msgspec
import pytest

from registry.snapshot import PolicySetEntry
from tests.mcp_gateway.rig import (
    ENDPOINT,
    ISSUER,
    Exchange,
    Rig,
    agent_entry,
    message,
    server_entry,
    tool,
)
from token_exchange.claims import AuthorizationDetail, UserContext

pytestmark = pytest.mark.anyio


def alone(rig: Rig, **changes: object) -> str:
    """A token of the agent acting alone."""
    claims = rig.claims(
        sub="agent:support-bot",
        sub_profile="ai_agent",
        agent="support-bot",
        act=None,
        uctx=None,
        sid=None,
        gid=None,
    )
    return rig.token(msgspec.structs.replace(claims, **changes))


def details(*tools: str, server: str = "crm") -> tuple[AuthorizationDetail, ...]:
    return (AuthorizationDetail(type="mcp_tool", server=server, tools=tools, actions=("call",)),)


def denied(exchange: Exchange, category: str = "not_permitted") -> None:
    assert exchange.status == 200
    result = exchange.json["result"]
    assert result["isError"] is True
    assert result["_meta"]["category"] == category
    assert result["_meta"]["decision_id"].startswith("dec_")


async def listed(rig: Rig, token: str | None = None) -> list[str]:
    exchange = await rig.post(message("tools/list"), token=token)
    assert exchange.status == 200
    return [entry["name"] for entry in exchange.json["result"]["tools"]]


@pytest.mark.parametrize("scope", ["", "openid", "mcp:tools2", "mcp:discover"])
async def test_token_without_the_scope_gets_a_scope_challenge(rig: Rig, scope: str) -> None:
    token = rig.token(rig.claims(scope=scope))
    exchange = await rig.call("get_account", {"id": 1}, token=token)
    assert exchange.status == 403
    (challenge,) = exchange.header("www-authenticate")
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="mcp:tools"' in challenge
    assert "resource_metadata=" in challenge
    assert await listed(rig, token) == []


async def test_tool_the_person_did_not_consent_to_gets_a_scope_challenge(rig: Rig) -> None:
    token = rig.token(rig.claims(authorization_details=details("get_*")))
    assert (await rig.call("refund", {"amount": 1}, token=token)).status == 403
    (event,) = rig.events("call.refused")
    assert (event.error_code, event.tool) == ("insufficient_scope", "refund")
    assert (await rig.call("get_account", {"id": 1}, token=token)).status == 200


async def test_agent_alone_beyond_its_details_is_denied_without_a_challenge(rig: Rig) -> None:
    denied(await rig.call("refund", {}, token=alone(rig, authorization_details=details("get_*"))))


@pytest.mark.parametrize("name", ["delete_account", "unheard_of", "absent"])
async def test_tool_beyond_agent_or_catalogue_is_denied_alike(rig: Rig, name: str) -> None:
    token = rig.token(rig.claims(authorization_details=details("*")))
    exchange = await rig.call(name, {}, token=token)
    denied(exchange)
    assert exchange.json["result"]["content"][0]["text"] == "This call is not permitted."
    assert not rig.upstream.requests
    (event,) = rig.events("call.refused")
    assert event.error_code == "beyond_ceiling"


async def test_details_of_another_server_permit_nothing_here(rig: Rig) -> None:
    token = rig.token(rig.claims(authorization_details=details("*", server="notes")))
    assert (await rig.call("get_account", {}, token=token)).status == 403
    assert await listed(rig, token) == []


async def test_star_inside_a_name_is_no_pattern(rig: Rig) -> None:
    exchange = await rig.call("get_*", {})
    denied(exchange)


async def test_tool_with_an_invalid_header_annotation_is_neither_listed_nor_called(
    rig: Rig,
) -> None:
    assert "mislabelled" not in await listed(rig)
    denied(await rig.call("mislabelled", {"x": 1}))


@pytest.mark.requirement("trap-list-and-call-disagree")
async def test_list_shows_exactly_what_can_be_called(rig: Rig) -> None:
    names = await listed(rig)
    assert names == ["get_account", "refund", "regional"]
    bob = rig.token(rig.claims(sub="usr_bob", uctx=UserContext(groups=("local/sales",))))
    assert await listed(rig, bob) == []
    for name in ("get_account", "refund"):
        assert not (await rig.call(name, {"amount": 1})).json["result"].get("isError")
        denied(await rig.call(name, {"amount": 1}, token=bob))


async def test_list_carries_the_approved_definition_unchanged(rig: Rig) -> None:
    exchange = await rig.post(message("tools/list"))
    result = exchange.json["result"]
    approved = {entry.name: entry.definition for entry in rig.view.servers[0].tools}
    assert result["tools"][0] == approved["get_account"]
    assert result["cacheScope"] == "private"
    assert result["ttlMs"] >= 0
    assert result["resultType"] == "complete"
    assert not rig.upstream.requests


async def test_list_is_cut_into_pages_that_join_without_gap(rig: Rig) -> None:
    tools = tuple(tool(f"get_{number:03}", {}, read_only=True) for number in range(250))
    rig.with_server(tools=tools)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(4):
        params = {} if cursor is None else {"cursor": cursor}
        result = (await rig.post(message("tools/list", params))).json["result"]
        seen += [entry["name"] for entry in result["tools"]]
        cursor = result.get("nextCursor")
        if cursor is None:
            break
    assert seen == [entry.name for entry in tools]


@pytest.mark.parametrize("cursor", ["é", "!!", "/w=="])
async def test_cursor_that_is_not_ours_is_refused(rig: Rig, cursor: str) -> None:
    exchange = await rig.post(message("tools/list", {"cursor": cursor}))
    assert exchange.json["error"]["code"] == -32602


async def test_empty_policy_set_lists_and_permits_nothing(rig: Rig) -> None:
    rig.adopt(msgspec.structs.replace(rig.view, version=8, policies=PolicySetEntry(0)))
    assert await listed(rig) == []
    denied(await rig.call("get_account", {"id": 1}))


async def test_agent_whose_tools_shrank_loses_them_at_once(rig: Rig) -> None:
    token = rig.token()
    assert (await rig.call("refund", {"amount": 1}, token=token)).status == 200
    agents = (agent_entry(tools=("crm/get_*",)),)
    rig.adopt(msgspec.structs.replace(rig.view, version=8, agents=agents))
    denied(await rig.call("refund", {"amount": 1}, token=token))


async def test_tool_no_longer_approved_is_denied_at_once(rig: Rig) -> None:
    rig.adopt(
        msgspec.structs.replace(
            rig.view, version=8, servers=(server_entry(tools=rig.view.servers[0].tools[1:]),)
        )
    )
    denied(await rig.call("get_account", {"id": 1}))


def test_endpoint_is_base_url_server_and_mcp() -> None:
    assert ENDPOINT.endswith("/crm/mcp")
    assert ISSUER not in ENDPOINT
