"""Sessions at a legacy server: whose they are, when they end, and what renews them."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from mcp_gateway.credential import Credential
from mcp_gateway.upstream.legacy_session import IDLE_SECONDS
from registry.blocks import BlockKind, Subject
from registry.snapshot import CredentialProviderEntry
from tests.mcp_gateway.legacy_rig import (
    CALL,
    EVENT_STREAM,
    LegacyReply,
    LegacyServer,
    answer,
    behind,
    json_reply,
    legacy_server,
)
from tests.mcp_gateway.rig import TARGET_TOKEN, Rig
from tests.mcp_gateway.test_caller import revocation
from token_exchange.claims import Actor

pytestmark = pytest.mark.anyio
OTHER = Actor("https://as.example", "other", "ai_agent", "other-bot")


@pytest.mark.requirement("legacy-session-per-principal")
@pytest.mark.requirement("trap-cross-user")
@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "usr_bob"},
        {"inv": "inv_2"},
        {"sid": "ses_2"},
        {"gid": "grt_2"},
        {"client_id": "other-client"},
        {"txn": "txn_2"},
        {"act": Actor("https://as.example", "b", "ai_agent", "support-bot", OTHER)},
    ],
)
async def test_nobody_shares_a_session_with_another_principal(
    rig: Rig, changes: dict[str, Any]
) -> None:
    server = LegacyServer()
    behind(rig, server)
    await rig.post(CALL)
    await rig.post(CALL, token=rig.token(rig.claims(jti="tok_2", iat=rig.claims().iat + 5)))
    await rig.post(CALL, token=rig.token(rig.claims(**changes)))
    sessions = [sent.session for sent in server.of("tools/call")]
    assert sessions == ["session-1", "session-1", "session-2"]


@pytest.mark.requirement("legacy-session-per-principal")
async def test_people_do_not_share_a_session_even_with_one_credential(rig: Rig) -> None:
    """The fake authority gives everybody the same token, as a static secret would be."""
    server = legacy_server(rig)
    await rig.post(CALL)
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    first, second = server.of("tools/call")
    assert first.headers["authorization"] == second.headers["authorization"]
    assert first.session != second.session


async def test_provider_that_changed_is_another_identity(rig: Rig) -> None:
    server = legacy_server(rig)
    await rig.post(CALL)
    newer = CredentialProviderEntry("crm-token", "issued_token", "run", 300, 2)
    rig.with_server(protocol="legacy", credential=newer)
    await rig.post(CALL)
    assert [sent.session for sent in server.of("tools/call")] == ["session-1", "session-2"]


@pytest.mark.requirement("trap-request-id-reuse")
async def test_calls_of_one_session_run_side_by_side_under_one_agents_id(rig: Rig) -> None:
    server, both = legacy_server(rig), asyncio.Event()

    async def wait_for_both() -> None:
        if len(server.of("tools/call")) == 2:
            both.set()
        await both.wait()

    server.before["tools/call"] = wait_for_both
    server.on["tools/call"] = lambda sent: json_reply(
        answer(sent.message["id"], json.dumps({"echo": sent.message["params"]["arguments"]}))
    )
    calls = [rig.call("get_account", {"id": number}, request_id=7) for number in (1, 2)]
    exchanges = await asyncio.gather(*calls)
    assert [each.json["id"] for each in exchanges] == [7, 7]
    assert [each.json["result"]["echo"]["id"] for each in exchanges] == [1, 2]
    assert server.methods().count("initialize") == 1
    assert len({sent.message["id"] for sent in server.of("tools/call")}) == 2


@pytest.mark.requirement("legacy-session-renewed-once")
async def test_session_the_server_forgot_is_begun_again_and_the_call_sent_once_more(
    rig: Rig,
) -> None:
    server = legacy_server(rig)
    await rig.post(CALL)
    server.sessions.clear()
    exchange = await rig.post(CALL)
    assert exchange.status == 200
    assert [sent.session for sent in server.of("tools/call")] == [
        "session-1",
        "session-1",
        "session-2",
    ]
    assert server.of("DELETE") == []


@pytest.mark.requirement("legacy-session-renewed-once")
async def test_session_that_is_forgotten_at_once_again_is_an_error(rig: Rig) -> None:
    server = legacy_server(rig)
    server.on["tools/call"] = lambda _: LegacyReply(404, "text/plain")
    assert (await rig.post(CALL)).status == 502
    assert len(server.of("tools/call")) == 2


async def test_session_refused_with_400_is_not_tried_again_but_not_used_again_either(
    rig: Rig,
) -> None:
    server = legacy_server(rig)
    await rig.post(CALL)
    usual = server.on.pop("server/discover")
    server.on["tools/call"] = usual
    refused = await rig.post(CALL)
    assert (refused.status, refused.json["error"]["code"]) == (400, -32000)
    del server.on["tools/call"]
    assert (await rig.post(CALL)).status == 200
    assert [sent.session for sent in server.of("tools/call")] == [
        "session-1",
        "session-1",
        "session-2",
    ]


async def test_error_with_400_that_is_the_tools_own_keeps_the_session(rig: Rig) -> None:
    server = legacy_server(rig)
    error = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32602,"message":""}}'
    server.on["tools/call"] = lambda _: json_reply(error, 400)
    assert (await rig.post(CALL)).status == 400
    await rig.post(CALL)
    assert server.methods().count("initialize") == 1


@pytest.mark.requirement("legacy-session-ends")
async def test_idle_session_is_ended_at_the_server(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    await rig.post(CALL)
    upstream._legacy.sweep()
    rig.monotonic.now += IDLE_SECONDS + 1
    rig.parts.enforcement.heartbeat()
    await rig.post(CALL)
    await server.until(lambda: len(server.of("DELETE")) == 1)
    rig.monotonic.now += IDLE_SECONDS + 1
    upstream._legacy.sweep()
    await server.until(lambda: len(server.of("DELETE")) == 2)
    assert [sent.session for sent in server.of("DELETE")] == ["session-1", "session-2"]
    assert server.of("DELETE")[0].headers["authorization"] == f"Bearer {TARGET_TOKEN}"


@pytest.mark.requirement("legacy-session-ends")
async def test_sessions_are_bounded_and_the_oldest_is_ended(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    upstream._legacy._sessions._capacity = 2
    for person in ("usr_a", "usr_b", "usr_c"):
        await rig.post(CALL, token=rig.token(rig.claims(sub=person)))
    await server.until(lambda: bool(server.of("DELETE")))
    assert [sent.session for sent in server.of("DELETE")] == ["session-1"]
    assert len(upstream._legacy._sessions) == 2


@pytest.mark.requirement("trap-one-starves-all")
async def test_sessions_of_one_principal_make_room_for_their_own_first(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    upstream._legacy._sessions._share = 2
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    for run in ("inv_1", "inv_2", "inv_3"):
        await rig.post(CALL, token=rig.token(rig.claims(sub="usr_mallory", inv=run)))
    await server.until(lambda: bool(server.of("DELETE")))
    assert [sent.session for sent in server.of("DELETE")] == ["session-2"]
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    assert server.of("tools/call")[-1].session == "session-1"


@pytest.mark.requirement("trap-one-starves-all")
async def test_sessions_at_work_are_taken_from_nobody_and_more_are_refused(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    upstream._legacy._sessions._share = 1
    seen: list[int | None] = []

    async def another() -> None:
        server.before.clear()
        mallory = rig.token(rig.claims(sub="usr_mallory", inv="inv_2"))
        answer = await rig.post(CALL, token=mallory)
        seen.append(answer.status)
        assert "Too many sessions" in answer.json["error"]["message"]
        assert rig.events()[-1].error_code == "too_many_sessions"
        seen.append((await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))).status)

    server.before["tools/call"] = another
    mine = await rig.post(CALL, token=rig.token(rig.claims(sub="usr_mallory", inv="inv_1")))
    assert [mine.status, *seen] == [200, 503, 200]
    assert not server.of("DELETE")


@pytest.mark.requirement("legacy-session-ends")
async def test_revocation_ends_the_persons_session_and_no_other(rig: Rig) -> None:
    server = legacy_server(rig)
    await rig.post(CALL)
    await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    rig.parts.upstream.forget(revocation(BlockKind.SUBJECT, "usr_bob"))
    await server.until(lambda: bool(server.of("DELETE")))
    assert [sent.session for sent in server.of("DELETE")] == ["session-2"]
    await rig.post(CALL)
    assert server.of("tools/call")[-1].session == "session-1"


async def test_revocation_while_a_session_begins_keeps_nothing(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")

    async def revoke() -> None:
        upstream.forget(revocation(BlockKind.SUBJECT, "usr_somebody"))

    server.before["initialize"] = revoke
    assert (await rig.post(CALL)).status == 200
    await server.until(lambda: bool(server.of("DELETE")))
    assert len(upstream._legacy._sessions) == 0


async def test_shutdown_ends_every_session(rig: Rig) -> None:
    server = LegacyServer()
    upstream = behind(rig, server, protocol="legacy")
    for person in ("usr_a", "usr_b"):
        await rig.post(CALL, token=rig.token(rig.claims(sub=person)))
    await upstream.aclose()
    assert {sent.session for sent in server.of("DELETE")} == {"session-1", "session-2"}


async def test_refused_credential_gets_one_fresh_one_also_for_initialize(rig: Rig) -> None:
    server = legacy_server(rig)
    answers = [LegacyReply(401, "application/json")]
    server.on["initialize"] = lambda sent: answers.pop() if answers else server.initialized(sent)
    assert (await rig.post(CALL)).status == 200
    assert len(rig.authority.forms) == 2
    server.on["initialize"] = lambda _: LegacyReply(401, "application/json")
    refused = await rig.post(CALL, token=rig.token(rig.claims(sub="usr_bob")))
    assert refused.status == 502
    assert refused.header("www-authenticate") == []


async def test_credential_refused_at_the_call_is_renewed_within_the_session(rig: Rig) -> None:
    server = legacy_server(rig)
    answers = [LegacyReply(401, "application/json")]
    server.on["tools/call"] = lambda sent: (
        answers.pop() if answers else json_reply(answer(sent.message["id"]))
    )
    assert (await rig.post(CALL)).status == 200
    assert len(rig.authority.forms) == 2
    assert [sent.session for sent in server.of("tools/call")] == ["session-1", "session-1"]
    assert server.of("notifications/cancelled") == []


def test_static_secret_that_was_replaced_is_another_identity() -> None:
    first = Credential("x-api-key", "first-secret", None, (), is_secret=True)
    second = replace(first, value="second-secret")
    token = replace(first, is_secret=False)
    subjects = frozenset[Subject]()
    sessions = [each.for_sessions_of("alice", subjects).session for each in (first, second)]
    assert sessions[0] != sessions[1]
    assert token.for_sessions_of("alice", subjects) != first.for_sessions_of("alice", subjects)
    renewed = replace(token, value="renewed-token").for_sessions_of("alice", subjects)
    assert renewed.session == token.for_sessions_of("alice", subjects).session


async def test_renewed_credential_goes_on_in_the_same_session(rig: Rig) -> None:
    server = legacy_server(rig)
    await rig.post(CALL)
    rig.authority.answer["access_token"] = TARGET_TOKEN[:-6] + "uvwxyz"
    rig.clock.now += 290
    await rig.post(CALL)
    first, second = server.of("tools/call")
    assert first.headers["authorization"] != second.headers["authorization"]
    assert first.session == second.session


@pytest.mark.parametrize(
    "reply",
    [
        LegacyReply(500, "text/html"),
        LegacyReply(200, "text/html", (b"<html>",)),
        LegacyReply(200, "application/json", (b"{}",)),
        LegacyReply(200, EVENT_STREAM, (b": nothing\n\n",)),
        LegacyReply(200, "application/json", (b" " * 1_048_577,)),
        LegacyReply(200, EVENT_STREAM, (b"data: " + b"x" * 1_048_577,)),
    ],
)
async def test_initialize_that_is_not_answered_properly_is_the_end(
    rig: Rig, reply: LegacyReply
) -> None:
    server = legacy_server(rig)
    server.on["initialize"] = lambda _: reply
    assert (await rig.post(CALL)).status == 502
    assert server.of("tools/call") == []
