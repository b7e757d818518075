import base64
import hmac
import json
import secrets
from pathlib import Path
from typing import Any

import msgspec
import pytest
from joserfc.jwk import ECKey

from mcp_gateway.proof_memory import LatestIssue, ProofMemory, open_proof_memory
from registry.blocks import BlockKind, RevocationEvent
from tests.mcp_gateway.rig import (
    BASE_URL,
    ENDPOINT,
    ISSUER,
    NOW,
    Exchange,
    HttpCall,
    Rig,
    agent_entry,
    enforcement_view,
    tool_call,
)
from token_exchange.claims import Actor

pytestmark = pytest.mark.anyio

CALL = tool_call("get_account", {"id": 1})


def revocation(kind: BlockKind, identifier: str, **changes: object) -> RevocationEvent:
    event = RevocationEvent(1, kind, identifier, True, NOW, "test", "admin", NOW * 1000)
    return msgspec.structs.replace(event, **changes)


def refused(rig: Rig, exchange: Exchange, error: str | None) -> None:
    """A 401 with both challenges, nothing sent upstream, and one event."""
    assert exchange.status == 401
    challenges = exchange.header("www-authenticate")
    assert [challenge.split(" ")[0] for challenge in challenges] == ["Bearer", "DPoP"]
    metadata = f'resource_metadata="{BASE_URL}/.well-known/oauth-protected-resource/crm/mcp"'
    assert all(metadata in challenge for challenge in challenges)
    assert all('scope="mcp:tools"' in challenge for challenge in challenges)
    assert ("error=" in challenges[1]) == (error is not None)
    if error is not None:
        assert f'error="{error}"' in challenges[1]
    assert not rig.upstream.requests
    (event,) = rig.events("caller.refused")
    assert event.error_code == (error or "no_token")


@pytest.mark.requirement("trap-challenge-missing")
async def test_no_token_is_challenged_without_an_error(rig: Rig) -> None:
    refused(rig, await rig.post(CALL, headers={"authorization": None, "dpop": None}), None)


async def test_other_scheme_is_challenged_without_an_error(rig: Rig) -> None:
    refused(rig, await rig.post(CALL, headers={"authorization": "Basic YTpi"}), None)


@pytest.mark.parametrize(
    "value", ["DPoP", "DPoP ", "Bearer a b", "DPoP tok\xe9n", "DPoP " + "a" * 20_000]
)
async def test_malformed_authorization_is_400_with_a_challenge(rig: Rig, value: str) -> None:
    exchange = await rig.post(CALL, headers={"authorization": value})
    assert exchange.status == 400
    assert len(exchange.header("www-authenticate")) == 2


async def test_repeated_authorization_is_refused(rig: Rig) -> None:
    request = rig.http(CALL)
    again = next(line for line in request.headers if line[0] == b"authorization")
    assert (await rig.send(request.changed(headers=(*request.headers, again)))).status == 400


def restarted(rig: Rig, path: Path, *, is_first_start: bool = False) -> None:
    memory = open_proof_memory(path, rig.clock(), is_first_start=is_first_start)
    object.__setattr__(rig.parts, "proofs", memory)


HEALTH = HttpCall(headers=(), method="GET", path="/healthz")


@pytest.mark.requirement("attack-15")
async def test_proof_used_before_a_restart_is_refused_and_a_later_one_accepted(
    rig: Rig, tmp_path: Path
) -> None:
    restarted(rig, tmp_path / "proofs", is_first_start=True)
    captured = rig.http(CALL)
    assert (await rig.send(captured)).status == 200
    rig.clock.now = NOW + 1
    restarted(rig, tmp_path / "proofs")
    exchange = await rig.send(captured)
    assert exchange.status == 401
    assert 'error="invalid_dpop_proof"' in exchange.header("www-authenticate")[1]
    assert rig.events("caller.refused")[-1].detail == "before the start"
    assert (await rig.send(HEALTH)).json["status"] == "serving"
    assert (await rig.post(CALL)).status == 200


@pytest.mark.requirement("attack-15")
async def test_proof_of_a_clock_that_is_ahead_is_refused_after_a_restart_too(
    rig: Rig, tmp_path: Path
) -> None:
    restarted(rig, tmp_path / "proofs", is_first_start=True)
    token = rig.token()
    ahead = {"authorization": f"DPoP {token}", "dpop": rig.proof(token, iat=NOW + 5)}
    captured = rig.http(CALL, headers=ahead)
    assert (await rig.send(captured)).status == 200
    rig.clock.now = NOW + 5.9
    restarted(rig, tmp_path / "proofs")
    assert (await rig.send(captured)).status == 401
    assert (await rig.post(CALL)).status == 401
    assert (await rig.send(HEALTH)).json == {"status": "starting"}
    rig.clock.now = NOW + 6
    assert (await rig.post(CALL)).status == 200
    assert (await rig.send(captured)).status == 401


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize("left", [None, b"", b"12", b"x" * 20, b"1" * 21])
async def test_restart_without_a_readable_file_refuses_all_that_may_have_been_used(
    rig: Rig, tmp_path: Path, left: bytes | None
) -> None:
    if left is not None:
        (tmp_path / "proofs").write_bytes(left)
    captured = rig.http(CALL)
    rig.clock.now = NOW + 1.5
    restarted(rig, tmp_path / "proofs")
    assert (await rig.send(captured)).status == 401
    rig.clock.now = NOW + 6.9
    assert (await rig.post(CALL)).status == 401
    rig.clock.now = NOW + 7
    assert (await rig.post(CALL)).status == 200
    rig.clock.now = NOW + 12  # a clock that is five seconds behind waits five seconds longer
    token = rig.token()
    behind = {"authorization": f"DPoP {token}", "dpop": rig.proof(token, iat=NOW + 7)}
    assert (await rig.post(CALL, headers=behind)).status == 200


@pytest.mark.requirement("attack-15")
async def test_proof_whose_use_cannot_be_written_down_is_not_accepted(
    rig: Rig, tmp_path: Path
) -> None:
    latest = LatestIssue(tmp_path / "proofs")
    object.__setattr__(rig.parts, "proofs", ProofMemory(latest=latest))
    assert (await rig.post(CALL)).status == 200
    latest.close()
    assert (await rig.post(CALL)).status == 200  # nothing to write in this second
    rig.clock.now += 1
    assert (await rig.post(CALL)).status == 503
    assert len(rig.upstream.requests) == 2


async def test_bound_token_with_its_proof_is_accepted(rig: Rig) -> None:
    assert (await rig.post(CALL)).status == 200


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    "changes",
    [
        {"htm": "GET"},
        {"htu": f"{BASE_URL}/notes/mcp"},
        {"htu": "http://evil.example/crm/mcp"},
        {"ath": "x" * 43},
        {"ath": None},
        {"iat": NOW - 120},
        {"iat": NOW + 120},
        {"jti": ""},
    ],
)
async def test_proof_for_something_else_is_refused(rig: Rig, changes: dict[str, Any]) -> None:
    token = rig.token()
    exchange = await rig.post(CALL, token=token, headers={"dpop": rig.proof(token, **changes)})
    refused(rig, exchange, "invalid_dpop_proof")


@pytest.mark.requirement("attack-15")
async def test_stolen_token_with_another_key_is_refused(rig: Rig) -> None:
    token = rig.token()
    proof = rig.proof(token, key=ECKey.generate_key("P-256"))
    exchange = await rig.post(CALL, token=token, headers={"dpop": proof})
    refused(rig, exchange, "invalid_dpop_proof")


@pytest.mark.requirement("attack-15")
async def test_stolen_token_without_a_proof_is_refused(rig: Rig) -> None:
    refused(rig, await rig.post(CALL, headers={"dpop": None}), "invalid_dpop_proof")


@pytest.mark.requirement("attack-15")
async def test_bound_token_as_plain_bearer_is_refused(rig: Rig) -> None:
    token = rig.token()
    exchange = await rig.post(CALL, headers={"authorization": f"Bearer {token}", "dpop": None})
    refused(rig, exchange, "invalid_token")


@pytest.mark.requirement("attack-15")
async def test_proof_used_twice_is_refused(rig: Rig) -> None:
    token = rig.token()
    proof = rig.proof(token)
    assert (await rig.post(CALL, token=token, headers={"dpop": proof})).status == 200
    again = await rig.post(CALL, token=token, headers={"dpop": proof})
    assert again.status == 401
    assert 'error="invalid_dpop_proof"' in again.header("www-authenticate")[1]
    assert len(rig.upstream.requests) == 1


async def test_two_proofs_in_one_request_are_refused(rig: Rig) -> None:
    request = rig.http(CALL)
    lines = (*request.headers, (b"dpop", rig.proof(rig.token()).encode()))
    refused(rig, await rig.send(request.changed(headers=lines)), "invalid_dpop_proof")


async def test_unbound_token_is_refused_unless_the_server_takes_it(rig: Rig) -> None:
    token = rig.token(rig.claims(cnf=None))
    headers = {"authorization": f"Bearer {token}", "dpop": None}
    refused(rig, await rig.post(CALL, headers=headers), "invalid_token")
    rig.with_server(require_bound=False)
    assert (await rig.post(CALL, headers=headers)).status == 200


async def test_unbound_token_with_the_dpop_scheme_is_refused(rig: Rig) -> None:
    rig.with_server(require_bound=False)
    refused(rig, await rig.post(CALL, token=rig.token(rig.claims(cnf=None))), "invalid_token")


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": f"{BASE_URL}/notes/mcp"},
        {"aud": f"{ENDPOINT}/"},
        {"aud": f"{ISSUER}/control/v1"},
        {"aud": f"{ISSUER}/admin"},
        {"aud": "http://crm.internal.example/mcp"},
        {"iss": "http://127.0.0.1:9999"},
        {"exp": NOW},
        {"iat": NOW + 600},
        {"exp": NOW + 100_000},
    ],
)
async def test_token_for_someone_else_or_another_time_is_refused(
    rig: Rig, changes: dict[str, Any]
) -> None:
    token = rig.token(rig.claims(**changes))
    refused(rig, await rig.post(CALL, token=token), "invalid_token")


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize("typ", ["JWT", "dpop+jwt", "countersign-attestation+jwt", "AT+JWT"])
async def test_token_of_another_type_is_refused(rig: Rig, typ: str) -> None:
    refused(rig, await rig.post(CALL, token=rig.token(typ=typ)), "invalid_token")


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize("algorithm", ["none", "HS256"])
async def test_token_with_another_algorithm_is_refused(rig: Rig, algorithm: str) -> None:
    header = {"alg": algorithm, "typ": "at+jwt", "kid": rig.token_key.thumbprint()}
    payload = msgspec.json.encode(rig.claims())
    signed = ".".join(_base64url(part) for part in (json.dumps(header).encode(), payload))
    signature = b""
    if algorithm == "HS256":
        public_key = rig.token_key.as_pem(private=False)
        signature = hmac.digest(public_key, signed.encode(), "sha256")
    token = f"{signed}.{_base64url(signature)}"
    refused(rig, await rig.post(CALL, token=token), "invalid_token")


async def test_token_signed_by_an_unknown_key_is_refused(rig: Rig) -> None:
    rig.token_key = ECKey.generate_key("P-256")
    refused(rig, await rig.post(CALL), "invalid_token")


@pytest.mark.requirement("attack-27")
async def test_token_of_a_key_that_left_the_snapshot_is_refused_though_cached(rig: Rig) -> None:
    token = rig.token()
    assert (await rig.post(CALL, token=token)).status == 200
    rig.adopt(enforcement_view(ECKey.generate_key("P-256"), version=8))
    assert (await rig.post(CALL, token=token)).status == 401


@pytest.mark.requirement("trap-nested-act")
@pytest.mark.parametrize(
    "changes",
    [
        {"act": None},
        {"sub_profile": "service"},
        {"act": Actor(ISSUER, "unix:x", "ai_agent")},
        {"act": Actor(ISSUER, "unix:x", "ai_agent", "nobody")},
        {
            "act": Actor(
                ISSUER, "unix:x", "ai_agent", "support-bot", Actor("i", "s", "ai_agent", "nobody")
            )
        },
        {"attn": None},
    ],
)
async def test_token_that_names_no_registered_agent_is_refused(
    rig: Rig, changes: dict[str, Any]
) -> None:
    token = rig.token(rig.claims(**changes))
    refused(rig, await rig.post(CALL, token=token), "invalid_token")


async def test_token_of_an_agent_that_was_deleted_is_refused(rig: Rig) -> None:
    token = rig.token()
    assert (await rig.post(CALL, token=token)).status == 200
    rig.adopt(msgspec.structs.replace(rig.view, version=8, agents=(agent_entry("other-bot"),)))
    assert (await rig.post(CALL, token=token)).status == 401


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    ("kind", "identifier"),
    [
        (BlockKind.AGENT, "support-bot"),
        (BlockKind.AGENT_GROUP, "support-agents"),
        (BlockKind.SUBJECT, "usr_alice"),
        (BlockKind.SESSION, "ses_1"),
        (BlockKind.CONSENT, "grt_1"),
        (BlockKind.CLIENT, "support-bot"),
        (BlockKind.INVOCATION, "inv_1"),
        (BlockKind.TOKEN, "tok_1"),
    ],
)
async def test_revoked_subject_refuses_the_next_call_although_cached(
    rig: Rig, kind: BlockKind, identifier: str
) -> None:
    token = rig.token()
    assert (await rig.post(CALL, token=token)).status == 200
    rig.parts.enforcement.apply(revocation(kind, identifier))
    exchange = await rig.post(CALL, token=token)
    assert exchange.status == 401
    assert exchange.json["error"]["data"]["category"] == "revoked"
    (event,) = rig.events("caller.refused")
    assert event.outcome == "revoked"
    assert event.detail == f"{kind}/{identifier} blocked"


async def test_upstream_agent_of_the_chain_can_be_revoked(rig: Rig) -> None:
    inner = Actor(ISSUER, "unix:y", "ai_agent", "other-bot")
    act = Actor(ISSUER, "unix:x", "ai_agent", "support-bot", inner)
    token = rig.token(rig.claims(act=act))
    assert (await rig.post(CALL, token=token)).status == 200
    rig.parts.enforcement.apply(revocation(BlockKind.AGENT, "other-bot"))
    assert (await rig.post(CALL, token=token)).status == 401


async def test_restore_revives_no_token_from_before_and_serves_a_new_one(rig: Rig) -> None:
    enforcement = rig.parts.enforcement
    enforcement.apply(revocation(BlockKind.AGENT, "support-bot"))
    enforcement.apply(revocation(BlockKind.AGENT, "support-bot", sequence=2, blocked=False))
    assert (await rig.post(CALL)).status == 401
    rig.clock.now = NOW + 5
    assert (await rig.post(CALL, token=rig.token(rig.claims(iat=NOW + 2)))).status == 200


async def test_changed_attributes_of_a_person_ask_for_a_fresh_token(rig: Rig) -> None:
    rig.parts.enforcement.apply(revocation(BlockKind.CLAIMS, "usr_alice", blocked=False))
    exchange = await rig.post(CALL)
    assert exchange.status == 401
    assert exchange.json["error"]["data"]["retryable"] is True


async def test_token_that_expires_while_cached_is_refused(rig: Rig) -> None:
    token = rig.token()
    assert (await rig.post(CALL, token=token)).status == 200
    rig.clock.now = NOW + 600
    rig.parts.enforcement.heartbeat()
    assert (await rig.post(CALL, token=token)).status == 401


async def test_attestation_below_what_the_agent_needs_now_is_refused(rig: Rig) -> None:
    agents = (agent_entry(minimum_level=2),)
    rig.adopt(msgspec.structs.replace(rig.view, version=8, agents=agents))
    refused(rig, await rig.post(CALL), "invalid_token")


async def test_token_cached_at_one_endpoint_is_no_key_to_another(rig: Rig) -> None:
    notes = msgspec.structs.replace(rig.view.servers[0], name="notes")
    gateway = msgspec.structs.replace(rig.view.gateway, servers=("crm", "notes"))
    servers = (rig.view.servers[0], notes)
    rig.adopt(msgspec.structs.replace(rig.view, version=8, servers=servers, gateway=gateway))
    token = rig.token()
    assert (await rig.post(CALL, token=token)).status == 200
    proof = rig.proof(token, htu=f"{BASE_URL}/notes/mcp")
    request = rig.http(CALL, token=token, headers={"dpop": proof}).changed(path="/notes/mcp")
    assert (await rig.send(request)).status == 401


async def test_token_refused_is_never_cached(rig: Rig) -> None:
    for _ in range(3):
        await rig.post(CALL, token=rig.token(rig.claims(aud=secrets.token_hex(8))))
    assert len(rig.parts.callers._callers) == 0


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.requirement("trap-secret-repointed")
async def test_token_from_before_the_server_moved_is_refused_and_a_new_one_accepted(
    rig: Rig,
) -> None:
    token = rig.token()
    assert (await rig.post(CALL, token=token)).status == 200
    rig.with_server(url="http://127.0.0.1:9999/mcp", url_since=rig.claims().iat)
    sent = len(rig.upstream.requests)
    assert (await rig.post(CALL, token=token)).status == 401
    assert len(rig.upstream.requests) == sent
    assert rig.events("caller.refused")[-1].detail == "from before the move"
    rig.clock.now += 1
    later = rig.token(rig.claims(iat=rig.claims().iat + 1))
    assert (await rig.post(CALL, token=later)).status == 200
