import json

import msgspec
import pytest
import structlog

from audit_log.event import Outcome
from audit_log.spool import SpoolUnavailable
from mcp_gateway.http_message import BodyProblem, InboundRequest, Reply
from mcp_gateway.upstream.protocol import (
    UpstreamInvalidError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnreachableError,
)
from registry.blocks import BlockKind
from registry.snapshot import PolicyDocument, PolicySetEntry
from tests.mcp_gateway.rig import (
    GRANTS,
    TARGET_TOKEN,
    FakeReply,
    Rig,
    message,
    meta,
    rpc_reply,
    tool_call,
)
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_ceiling import alone, denied
from token_exchange.claims import UserContext

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("C36")
@pytest.mark.requirement("C40")
async def test_call_allowed_is_forwarded_with_the_targets_credential_only(rig: Rig) -> None:
    token = rig.token()
    exchange = await rig.call("get_account", {"id": 17}, token=token)
    assert exchange.status == 200
    assert exchange.json["result"] == {"resultType": "complete", "content": []}
    (sent,) = rig.upstream.requests
    assert rig.upstream.sent_header("authorization") == f"Bearer {TARGET_TOKEN}"
    everything = repr(sent.headers).encode() + sent.body
    assert token.encode() not in everything
    assert b"dpop" not in everything.lower()
    assert TARGET_TOKEN.encode() not in exchange.body


@pytest.mark.requirement("C60")
async def test_call_allowed_leaves_intent_and_outcome_with_one_decision_id(rig: Rig) -> None:
    await rig.call("get_account", {"id": 17})
    (intent,) = rig.events("call.decided")
    (outcome,) = rig.events("call.finished")
    assert intent.decision_id == outcome.decision_id
    assert (intent.outcome, outcome.outcome) == (Outcome.ALLOWED, Outcome.SUCCEEDED)
    assert intent.policy_matched == ("grant-read",)
    assert intent.principal_kind == "agent_for_person"
    assert (intent.agent, intent.user) == ("support-bot", "usr_alice")
    assert intent.workload_svid == "unix:host/1/x"
    assert intent.actor_chain == ("support-bot",)
    assert (intent.target_service, intent.tool) == ("crm", "get_account")
    assert (intent.session, intent.invocation, intent.consent) == ("ses_1", "inv_1", "grt_1")
    assert intent.presented_token_id == "tok_1"
    assert (intent.snapshot_version, intent.policy_version) == (7, 3)
    assert intent.argument_digest is not None
    assert intent.argument_digest.startswith("sha-256:")
    assert outcome.status == 200
    assert outcome.latency_ms is not None


@pytest.mark.requirement("C37")
async def test_call_denied_says_why_and_sends_nothing(rig: Rig) -> None:
    exchange = await rig.call("refund", {"amount": 900})
    denied(exchange)
    result = exchange.json["result"]
    assert result["content"][0]["text"] == "Agents may not refund more than 500."
    assert result["resultType"] == "complete"
    assert set(result["_meta"]) == {"decision_id", "category", "retryable", "remedies"}
    assert not rig.upstream.requests
    assert not rig.authority.forms
    (intent,) = rig.events("call.decided")
    assert intent.outcome is Outcome.DENIED
    assert intent.decision_id == result["_meta"]["decision_id"]
    assert intent.policy_matched == ("guard-refund-limit",)
    assert not rig.events("call.finished")


async def test_denial_names_no_policy_and_no_input(rig: Rig) -> None:
    exchange = await rig.call("refund", {"amount": 901, "secret": "hunter2hunter2"})
    assert b"guard-refund-limit" not in exchange.body
    assert b"hunter2" not in exchange.body
    assert all(b"hunter2" not in msgspec.json.encode(event) for event in rig.events())


@pytest.mark.requirement("C27")
@pytest.mark.requirement("trap-cross-user")
async def test_two_people_with_one_agent_are_decided_apart(rig: Rig) -> None:
    bob = rig.token(rig.claims(sub="usr_bob", uctx=UserContext(groups=("local/sales",))))
    for _ in range(2):
        assert not (await rig.call("get_account", {"id": 1})).json["result"].get("isError")
        denied(await rig.call("get_account", {"id": 1}, token=bob))


@pytest.mark.requirement("C24")
async def test_agent_alone_is_told_apart_from_agent_for_a_person(rig: Rig) -> None:
    denied(await rig.call("get_account", {"id": 1}, token=alone(rig)))
    (intent,) = rig.events("call.decided")
    assert (intent.principal_kind, intent.user) == ("agent_alone", None)
    assert intent.workload_svid == "agent:support-bot"


async def test_decision_is_cached_and_equals_a_fresh_one(rig: Rig) -> None:
    for amount in (1, 500, 501, 1, 501, 500):
        exchange = await rig.call("refund", {"amount": amount})
        assert bool(exchange.json["result"].get("isError")) == (amount > 500)
    assert len(rig.parts.decisions._cache) > 0


async def test_new_policies_decide_the_next_call(rig: Rig) -> None:
    assert not (await rig.call("refund", {"amount": 400})).json["result"].get("isError")
    stricter = GRANTS.replace("<= 500", "<= 300")
    policies = PolicySetEntry(4, (PolicyDocument("support", stricter),))
    rig.adopt(msgspec.structs.replace(rig.view, version=8, policies=policies))
    denied(await rig.call("refund", {"amount": 400}))


async def test_policies_that_do_not_compile_here_deny_everything(rig: Rig) -> None:
    policies = PolicySetEntry(4, (PolicyDocument("support", "permit nonsense"),))
    rig.adopt(msgspec.structs.replace(rig.view, version=8, policies=policies))
    denied(await rig.call("get_account", {"id": 1}), "temporarily_blocked")
    listed = await rig.post(message("tools/list"))
    assert listed.json["result"]["tools"] == []


@pytest.mark.requirement("audit-unwritable-refuses")
async def test_call_that_cannot_be_recorded_is_not_made(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_event: object) -> None:
        raise SpoolUnavailable

    monkeypatch.setattr(rig.spool, "append", refuse)
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == 503
    assert exchange.json["error"]["code"] == -32005
    assert not rig.upstream.requests
    assert not rig.authority.forms


@pytest.mark.requirement("intent-before-anything-leaves")
async def test_intent_is_in_the_spool_before_the_authority_or_the_server_is_asked(
    rig: Rig,
) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(len(rig.events("call.decided")))

    rig.authority.before = look
    rig.upstream.before = look
    await rig.call("get_account", {"id": 1})
    assert seen == [1, 1]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UpstreamUnreachableError(), 502, "upstream_unreachable"),
        (UpstreamTimeoutError(), 504, "upstream_timeout"),
        (UpstreamTooLargeError(), 502, "upstream_reply_too_large"),
        (UpstreamInvalidError("x"), 502, "upstream_reply_invalid"),
    ],
)
async def test_server_that_fails_is_an_error_with_an_outcome(
    rig: Rig, error: Exception, status: int, code: str
) -> None:
    for failing in (error, FakeReply(body=(b'{"json', error))):
        rig.upstream.will(failing)
        exchange = await rig.call("get_account", {"id": 1})
        assert exchange.status == status
        assert exchange.json["id"] == 1
        outcome = rig.events("call.finished")[-1]
        assert (outcome.outcome, outcome.error_code) == (Outcome.FAILED, code)


@pytest.mark.parametrize(
    "reply",
    [
        FakeReply(status=302, body=(b"{}",)),
        FakeReply(status=403, body=(b'{"jsonrpc":"2.0","id":1,"error":{"code":1}}',)),
        FakeReply(status=500, body=(b"{}",)),
        FakeReply(status=202, body=()),
        FakeReply(media_type="text/html", body=(b"<html>",)),
        FakeReply(content_encoding="gzip", body=(b"\x1f\x8b",)),
        FakeReply(body=(b"not json",)),
        FakeReply(body=(b"[]",)),
        FakeReply(body=(b'{"jsonrpc":"2.0","id":2,"result":{}}',)),
        FakeReply(body=(b'{"jsonrpc":"2.0","id":"1","result":{}}',)),
        FakeReply(body=(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}',)),
        FakeReply(status=400, body=(b'{"jsonrpc":"2.0","id":1,"result":{}}',)),
    ],
)
async def test_reply_no_mcp_server_may_send_is_withheld(rig: Rig, reply: FakeReply) -> None:
    rig.upstream.will(reply)
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == 502
    assert exchange.json["error"]["code"] == -32004
    assert exchange.header("www-authenticate") == []
    assert rig.events("call.finished")[-1].error_code == "upstream_reply_invalid"


async def test_json_rpc_error_of_the_server_keeps_its_code_and_status(rig: Rig) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such account"}}'
    for status in (200, 400, 404):
        rig.upstream.will(FakeReply(status=status, body=(body,)))
        exchange = await rig.call("get_account", {"id": 1})
        assert (exchange.status, exchange.body) == (status, body)
        assert rig.events("call.finished")[-1].error_code == "-32602"


@pytest.mark.requirement("trap-reply-rewritten")
async def test_result_is_returned_byte_for_byte_in_an_envelope_of_ours(rig: Rig) -> None:
    result = (
        b'{"content":[{"type":"text","text":"\\u00e9"}], '
        b'"n":123456789012345678901234.50,"_meta":{"x":1}}'
    )
    body = b'{ "id" :1,"result": ' + result + b',"jsonrpc":"2.0"}\n'
    rig.upstream.will(FakeReply(body=(body[:7], body[7:])))
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.body == b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"
    assert exchange.header("content-type") == ["application/json"]
    assert exchange.header("content-length") == [str(len(exchange.body))]


async def test_tool_error_is_an_outcome_that_failed(rig: Rig) -> None:
    rig.upstream.will(rpc_reply(1, {"content": [], "isError": True}))
    await rig.call("get_account", {"id": 1})
    outcome = rig.events("call.finished")[-1]
    assert (outcome.outcome, outcome.error_code) == (Outcome.FAILED, "tool_error")


async def test_meta_is_forwarded_but_for_what_is_ours_or_cannot_be_relayed(rig: Rig) -> None:
    given = meta(
        **{
            "progressToken": "p1",
            "traceparent": "00-1-2-01",
            "io.modelcontextprotocol/clientInfo": {"name": "agent", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "tasks": {}},
            "baggage": 7,
            "tenant": "other",
            "countersign/run": {"task": "analysis"},
        }
    )
    params = {"name": "get_account", "arguments": {"id": 1}, "_meta": given}
    await rig.post(message("tools/call", params))
    sent = rig.upstream.sent()["params"]["_meta"]
    assert sent == meta(
        **{
            "progressToken": "p1",
            "traceparent": "00-1-2-01",
            "io.modelcontextprotocol/clientInfo": {"name": "agent", "version": "1"},
        }
    )
    await rig.post(message("tools/call", {**params, "_meta": meta(progressToken=7)}))
    assert rig.upstream.sent()["params"]["_meta"] == meta(progressToken=7)


@pytest.mark.parametrize(
    "state", [{"requestState": "opaque"}, {"inputResponses": {"a": {"action": "accept"}}}]
)
async def test_round_trip_state_that_nobody_judged_is_refused(
    rig: Rig, state: dict[str, object]
) -> None:
    params = {"name": "get_account", "arguments": {"id": 1}, **state}
    exchange = await rig.post(message("tools/call", params))
    assert (exchange.status, exchange.json["error"]["code"]) == (400, -32602)
    text = "Multi round trip requests are not supported yet."
    assert exchange.json["error"]["message"] == text
    assert not rig.upstream.requests


async def test_only_the_headers_we_make_are_sent(rig: Rig) -> None:
    headers = {"cookie": "a=b", "proxy-authorization": "Basic x", "x-api-key": "k", "te": "gzip"}
    await rig.post(tool_call("get_account", {"id": 1}), headers=headers)
    assert {name.lower() for name, _ in rig.upstream.requests[0].headers} == {
        "content-type",
        "accept",
        "accept-encoding",
        "user-agent",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "authorization",
    }


@pytest.mark.parametrize("away", ["starting", "stale", "draining"])
async def test_gateway_without_a_lease_serves_nothing(rig: Rig, away: str) -> None:
    if away == "starting":
        rig.parts.enforcement._view = None
    elif away == "stale":
        rig.monotonic.now += 3.1
    else:
        rig.parts.enforcement.drain()
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == 503
    assert exchange.json["error"]["code"] == -32003
    assert exchange.json["error"]["data"]["retryable"] is True
    assert not rig.upstream.requests


async def test_lease_is_renewed_by_a_heartbeat(rig: Rig) -> None:
    rig.monotonic.now += 3.1
    rig.parts.enforcement.heartbeat()
    assert (await rig.call("get_account", {"id": 1})).status == 200


async def test_revocation_while_the_body_arrives_refuses_the_call(rig: Rig) -> None:
    request = rig.http(tool_call("get_account", {"id": 1}))
    original = rig.app._mcp._handler

    async def handler(inbound: InboundRequest, reply: Reply) -> None:
        read = inbound.read_body

        async def read_late() -> bytes | BodyProblem:
            body = await read()
            rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
            return body

        object.__setattr__(inbound, "read_body", read_late)
        await original(inbound, reply)

    rig.app._mcp._handler = handler
    assert (await rig.send(request)).status == 401
    assert not rig.upstream.requests


async def test_fault_inside_is_one_error_and_one_outcome(rig: Rig) -> None:
    rig.upstream.will(ZeroDivisionError())
    with structlog.testing.capture_logs() as logs:
        exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == 500
    assert exchange.json["error"]["code"] == -32603
    assert rig.events("call.finished")[-1].error_code == "internal_error"
    assert [entry["event"] for entry in logs] == ["request_failed"]


async def test_no_token_or_credential_is_ever_in_the_audit(rig: Rig) -> None:
    token = rig.token()
    await rig.call("get_account", {"id": 1}, token=token)
    await rig.call("refund", {"amount": 900}, token=token)
    await rig.post(message("tools/list"), token=token[:-4] + "AAAA")
    written = json.dumps([msgspec.to_builtins(event) for event in rig.events()])
    assert token.rpartition(".")[2] not in written
    assert TARGET_TOKEN not in written
