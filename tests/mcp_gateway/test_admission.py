import base64

import msgspec
import pytest
from joserfc.jwk import ECKey

from mcp_gateway import pipeline
from mcp_gateway.admission import MAXIMUM_REQUEST_BYTES
from mcp_gateway.asgi import TARGET_ORIGIN, TRAILER_SAFE
from mcp_gateway.eras.legacy import LegacyMessage
from mcp_gateway.eras.recognition import understand
from mcp_gateway.http_message import Headers
from mcp_gateway.inbound import Message, Rejection
from registry.blocks import BlockKind
from tests.mcp_gateway.rig import (
    BASE_URL,
    ISSUER,
    Exchange,
    HttpCall,
    Rig,
    agent_entry,
    message,
    tool_call,
)
from tests.mcp_gateway.test_caller import revocation

pytestmark = pytest.mark.anyio

CALL = tool_call("get_account", {"id": 1})


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "localhost:8701", ""]
)
@pytest.mark.requirement("attack-25")
async def test_foreign_host_is_refused(rig: Rig, host: str) -> None:
    assert (await rig.post(CALL, headers={"host": host})).status == 403


async def test_missing_or_repeated_host_is_refused(rig: Rig) -> None:
    assert (await rig.post(CALL, headers={"host": None})).status == 403
    request = rig.http(CALL)
    lines = (*request.headers, (b"host", b"127.0.0.1:8701"))
    assert (await rig.send(request.changed(headers=lines))).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8701.evil"])
async def test_foreign_origin_is_refused(rig: Rig, origin: str) -> None:
    assert (await rig.post(CALL, headers={"origin": origin})).status == 403


@pytest.mark.parametrize("origin", [BASE_URL, "https://ui.example", None])
async def test_allowed_origin_is_accepted(rig: Rig, origin: str | None) -> None:
    assert (await rig.post(CALL, headers={"origin": origin})).status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://127.0.0.1:8701", 200),
        ("HTTP://127.0.0.1:8701", 200),
        ("http://evil.example", 403),
        ("https://127.0.0.1:8701", 403),
        ("http://a@127.0.0.1:8701", 403),
        ("http://[", 403),
        ("127.0.0.1:8701", 403),
    ],
)
async def test_absolute_form_target_counts_as_host(rig: Rig, target: str, status: int) -> None:
    request = rig.http(CALL).changed(extensions={TARGET_ORIGIN: target})
    assert (await rig.send(request)).status == status


@pytest.mark.parametrize(
    "path", ["/", "/mcp", "/notes/mcp", "/%63rm/mcp", "/crm/mcp/", "//crm/mcp"]
)
async def test_other_path_is_not_found(rig: Rig, path: str) -> None:
    exchange = await rig.send(rig.http(CALL).changed(path=path))
    assert exchange.status == 404
    assert not rig.upstream.requests


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS", "HEAD"])
async def test_other_method_is_405_with_allow(rig: Rig, method: str) -> None:
    exchange = await rig.send(rig.http(CALL).changed(method=method))
    assert exchange.status == 405
    assert exchange.header("allow") == ["POST"]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        None,
    ],
)
async def test_other_content_type_is_415(rig: Rig, content_type: str | None) -> None:
    assert (await rig.post(CALL, headers={"content-type": content_type})).status == 415


async def test_json_in_utf8_is_accepted_and_an_encoded_body_is_not(rig: Rig) -> None:
    headers = {"content-type": "Application/JSON; charset=UTF-8"}
    assert (await rig.post(CALL, headers=headers)).status == 200
    assert (await rig.post(CALL, headers={"content-encoding": "gzip"})).status == 415


@pytest.mark.parametrize("accept", ["application/json", "text/html", "text/event-stream", ""])
async def test_accept_without_both_kinds_of_reply_is_406(rig: Rig, accept: str) -> None:
    assert (await rig.post(CALL, headers={"accept": accept})).status == 406


@pytest.mark.parametrize(
    "accept", ["*/*", "application/*, text/*;q=0.5", "text/event-stream,application/json", None]
)
async def test_accept_of_both_kinds_of_reply_is_served(rig: Rig, accept: str | None) -> None:
    assert (await rig.post(CALL, headers={"accept": accept})).status == 200


async def test_body_over_the_limit_is_413_whether_announced_or_not(rig: Rig) -> None:
    announced = {"content-length": str(MAXIMUM_REQUEST_BYTES + 1)}
    assert (await rig.post(CALL, headers=announced)).status == 413
    assert (await rig.post(CALL, headers={"content-length": "-1"})).status == 413
    request = rig.http(CALL, headers={"content-length": None})
    half = b" " * (MAXIMUM_REQUEST_BYTES // 2 + 1)
    assert (await rig.send(request.changed(body=(half, half)))).status == 413


async def test_large_body_is_judged_as_a_small_one_is(rig: Rig) -> None:
    text = "x" * 300_000
    assert (await rig.call("get_account", {"id": 1, "note": text})).status == 200
    assert rig.upstream.sent()["params"]["arguments"]["note"] == text
    exchange = await rig.call("get_account", {"id": 1, "n": [1.5] * 50_001})
    assert (exchange.status, exchange.json["error"]["code"]) == (400, -32602)


async def test_token_revoked_while_a_large_body_is_decoded_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def revoked_meanwhile(headers: Headers, body: bytes) -> Message | LegacyMessage | Rejection:
        rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
        return understand(headers, body)

    monkeypatch.setattr(pipeline, "understand", revoked_meanwhile)
    assert (await rig.call("get_account", {"id": 1, "note": "x" * 300_000})).status == 401
    assert not rig.upstream.requests


async def test_body_that_stalls_is_408(rig: Rig) -> None:
    rig.app._mcp._body_seconds = 0.01
    request = rig.http(CALL).changed(body=(), stalls=True)
    assert (await rig.send(request)).status == 408
    (refused,) = rig.events("call.refused")
    assert refused.status == 408


async def test_agent_that_leaves_during_its_body_is_let_go(rig: Rig) -> None:
    exchange = Exchange()
    exchange.gone.set()
    request = rig.http(CALL).changed(body=())
    await rig.start(exchange, request)
    assert exchange.status is None


async def test_chunked_body_needs_a_server_that_drops_trailers(rig: Rig) -> None:
    request = rig.http(CALL, headers={"content-length": None, "transfer-encoding": "chunked"})
    assert (await rig.send(request)).status == 411
    safe = rig.http(CALL, headers={"content-length": None, "transfer-encoding": "chunked"})
    assert (await rig.send(safe.changed(extensions={TRAILER_SAFE: {}}))).status == 200


async def test_metadata_of_an_endpoint_is_published_and_the_root_is_not(rig: Rig) -> None:
    path = "/.well-known/oauth-protected-resource/crm/mcp"
    exchange = await rig.send(HttpCall(headers=(), method="GET", path=path))
    assert exchange.status == 200
    assert exchange.json["resource"] == f"{BASE_URL}/crm/mcp"
    assert exchange.json["authorization_servers"] == [ISSUER]
    assert exchange.json["scopes_supported"] == ["mcp:tools"]
    assert exchange.json["dpop_bound_access_tokens_required"] is True
    for other in ("/.well-known/oauth-protected-resource", f"{path}/x", "/.well-known/x"):
        assert (await rig.send(HttpCall(headers=(), method="GET", path=other))).status == 404


async def test_health_says_whether_calls_are_served(rig: Rig) -> None:
    request = HttpCall(headers=(), method="GET", path="/healthz")
    assert (await rig.send(request)).json["status"] == "serving"
    rig.monotonic.now += 4
    exchange = await rig.send(request)
    assert (exchange.status, exchange.json["status"]) == (503, "stale")


async def test_token_in_query_or_body_does_not_authenticate(rig: Rig) -> None:
    body = {**message("tools/list"), "access_token": rig.token()}
    request = rig.http(body, headers={"authorization": None})
    exchange = await rig.send(request.changed(query=f"access_token={rig.token()}".encode()))
    assert exchange.status == 401


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
async def test_refusals_of_strangers_are_written_up_to_a_rate_and_then_counted(rig: Rig) -> None:
    for _ in range(40):
        await rig.post(CALL, headers={"authorization": None})
        await rig.post(CALL, headers={"host": "evil.example"})
    assert len(rig.events("caller.refused")) + len(rig.events("call.refused")) == 50
    rig.clock.now += 1
    await rig.post(CALL, headers={"host": "evil.example"})
    last = rig.events("call.refused")[-1]
    assert last.detail == "The Host is not this gateway. (and 30 refusals before it)"
    assert (last.principal_kind, last.status) == ("none", 403)


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
async def test_refusals_of_a_stolen_token_are_written_whatever_strangers_do(rig: Rig) -> None:
    token, other_key = rig.token(), ECKey.generate_key("P-256")
    replayed = rig.credentials(token)
    assert (await rig.post(CALL, headers=replayed)).status == 200
    for _ in range(60):
        await rig.post(CALL, headers={"authorization": None})
    assert len(rig.events("caller.refused")) == 50
    for proof in (replayed["dpop"], rig.proof(token, key=other_key), None):
        await rig.post(CALL, token=token, headers={"dpop": proof})
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    await rig.post(CALL, token=token)
    stolen = [event for event in rig.events("caller.refused") if event.presented_token_id]
    assert [event.agent for event in stolen] == ["support-bot"] * 4


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
async def test_refusals_of_a_token_without_its_key_are_bounded_and_not_its_owners(
    rig: Rig,
) -> None:
    token = rig.token()
    for _ in range(110):
        await rig.post(CALL, token=token, headers={"dpop": None})
    assert len(rig.events("caller.refused")) == 100
    await rig.call("delete_account", {"id": 1}, token=token)
    assert len(rig.events("call.refused")) == 1
    assert (await rig.post(CALL)).status == 200


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
async def test_refusals_of_one_agent_do_not_hide_anothers_for_the_same_person(rig: Rig) -> None:
    ours = rig.token()
    for _ in range(110):
        await rig.call("delete_account", {"id": 1}, token=ours)
    rig.adopt(
        msgspec.structs.replace(rig.view, agents=(*rig.view.agents, agent_entry("other-bot")))
    )
    acting = rig.claims().act
    assert acting is not None
    theirs = rig.token(rig.claims(act=msgspec.structs.replace(acting, agent="other-bot")))
    await rig.call("delete_account", {"id": 1}, token=theirs)
    assert rig.events("call.refused")[-1].agent == "other-bot"


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
async def test_refusals_of_one_subject_are_written_up_to_a_rate_and_others_beside_it(
    rig: Rig,
) -> None:
    token = rig.token()
    for _ in range(110):
        await rig.call("delete_account", {"id": 1}, token=token)
    assert len(rig.events("call.refused")) == 100
    other = rig.token(rig.claims(sub="usr_bob"))
    await rig.call("delete_account", {"id": 1}, token=other)
    assert len(rig.events("call.refused")) == 101
    rig.clock.now += 1
    await rig.call("delete_account", {"id": 1}, token=token)
    last = rig.events("call.refused")[-1].detail or ""
    assert last.endswith("(and 10 refusals before it)")


@pytest.mark.parametrize(
    ("name", "recorded"),
    [("no_such.tool/x-1", "no_such.tool/x-1"), ("\x1b[2Jrefund", "(not a tool name)")],
)
async def test_only_a_tools_name_is_recorded_as_one(rig: Rig, name: str, recorded: str) -> None:
    encoded = f"=?base64?{base64.b64encode(name.encode()).decode()}?="
    await rig.post(tool_call(name, {}), headers={"mcp-name": encoded})
    (refused,) = rig.events("call.refused")
    assert refused.tool == recorded


async def test_path_of_a_stranger_is_recorded_without_control_characters(rig: Rig) -> None:
    await rig.send(rig.http(CALL).changed(path="/\x9b2J"))
    assert rig.events("call.refused")[-1].request_path == "/\xc2?2J"
