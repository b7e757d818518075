
import pytest

from audit_log.event import Outcome
from tests.mcp_gateway.legacy_rig import LegacyServer, behind
from tests.mcp_gateway.rig import TARGET_TOKEN, Rig, tool_call

pytestmark = pytest.mark.anyio

CALL = tool_call("get_account", {"id": 1})


async def test_modern_call_reaches_a_legacy_server_and_its_answer_comes_back_modern(
    rig: Rig,
) -> None:
    server = LegacyServer()
    behind(rig, server)
    exchange = await rig.post(CALL)
    assert exchange.status == 200
    assert exchange.json == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"resultType": "complete", "content": []},
    }
    assert server.methods() == [
        "server/discover",
        "initialize",
        "notifications/initialized",
        "tools/call",
    ]
    (call,) = server.of("tools/call")
    assert call.session == "session-1"
    assert call.headers["mcp-protocol-version"] == "2025-11-25"
    assert call.headers["authorization"] == f"Bearer {TARGET_TOKEN}"
    assert not {"mcp-method", "mcp-name"} & call.headers.keys()
    assert call.message["params"] == {"name": "get_account", "arguments": {"id": 1}}
    assert rig.events("call.finished")[-1].outcome is Outcome.SUCCEEDED
