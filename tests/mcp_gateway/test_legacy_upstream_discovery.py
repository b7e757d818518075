"""The tools of a legacy server are listed as those of any other."""

import json

import msgspec
import pytest

from mcp_gateway.discovery import DiscoveryError, observed_tools
from mcp_gateway.upstream.protocol import UpstreamRequest
from tests.mcp_gateway.legacy_rig import (
    CALL,
    LegacyReply,
    LegacyServer,
    answer,
    behind,
    json_reply,
    unknown_method,
)
from tests.mcp_gateway.rig import Rig, meta, server_entry

pytestmark = pytest.mark.anyio


def listing(*names: str, cursor: str | None = None) -> str:
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
    return json.dumps({"tools": tools} | ({"nextCursor": cursor} if cursor else {}))


@pytest.mark.requirement("legacy-upstream")
async def test_tools_of_a_legacy_server_are_seen_with_the_discovery_credential(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server)
    pages = [listing("a", "b", cursor="2"), listing("c")]
    server.on["tools/list"] = lambda sent: json_reply(answer(sent.message["id"], pages.pop(0)))
    tools = await observed_tools(server_entry(), "own", rig.parts.exchange, upstream)
    assert [tool["name"] for tool in tools] == ["a", "b", "c"]
    first, second = server.of("tools/list")
    assert first.message.get("params") == {}
    assert second.message["params"] == {"cursor": "2"}
    assert first.session == second.session == "session-1"
    await rig.post(CALL)
    assert server.of("tools/call")[0].session == "session-2"


async def test_list_says_how_long_and_for_whom_it_is_good(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    listed = '{"tools":[],"ttlMs":99999,"cacheScope":"public"}'
    server.on["tools/list"] = lambda sent: json_reply(answer(sent.message["id"], listed))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta()}}
    request = UpstreamRequest(
        "http://old.example/mcp", (), msgspec.json.encode(body), 5.0, 1_000_000, "legacy"
    )
    async with upstream.post(request) as reply:
        seen = [chunk async for chunk in reply.chunks()]
    assert json.loads(b"".join(seen))["result"] == {
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "tools": [],
    }


async def test_discovery_credential_that_is_refused_is_said(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server)
    server.on["initialize"] = lambda _: LegacyReply(401, "application/json")
    with pytest.raises(DiscoveryError, match="401"):
        await observed_tools(server_entry(), "own", rig.parts.exchange, upstream)


async def test_unknown_method_is_a_legacy_servers_answer_too(rig: Rig) -> None:
    server = LegacyServer(has_sessions=False)
    behind(rig, server)
    server.on["server/discover"] = unknown_method
    assert (await rig.post(CALL)).status == 200
