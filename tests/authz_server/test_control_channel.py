"""The control channel: every request proves its gateway, and each gateway has only its own."""

from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec
import pytest

from audit_log.event import AuditEvent, EventType, Outcome
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.serving_workers import WORKER_HEADER
from registry.blocks import BlockKind
from registry.publisher import UnpublishableRegistryError
from registry.snapshot import EnforcementView
from registry.tool_catalogue import CHANGES_PER_MINUTE
from tests.authz_server.back_half import (
    CONTROL,
    CRM,
    NOW,
    Authority,
    GatewayProcess,
    error_of,
    tool,
)
from token_exchange.claims import Confirmation
from token_exchange.signed_jws import VerifiedJws, verify_jws
from token_exchange.token_types import SNAPSHOT_TYP

pytestmark = pytest.mark.anyio


async def call(
    gateway: GatewayProcess,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    """One request as this gateway; with a body a POST."""
    method = "GET" if body is None else "POST"
    if headers is None:
        headers = gateway.control_headers(await gateway.control_token(), path, method)
    content = None if body is None else msgspec.json.encode(body)
    sent = dict(headers) if body is None else {"content-type": "application/json", **headers}
    async with gateway.authority.http() as http:
        return await http.request(method, f"/control/v1/{path}", content=content, headers=sent)


@pytest.mark.requirement("control-snapshot")
async def test_control_snapshot_is_the_gateways_own_view_signed(authority: Authority) -> None:
    gateway = await authority.enrolled()
    answer = await call(gateway, "snapshot")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jwt"
    verified = verify_jws(
        answer.text,
        keys=authority.parts.keys.verification_keys(KeyPurpose.CONTROL),
        algorithms=frozenset({"ES256"}),
        typ=SNAPSHOT_TYP,
        maximum_bytes=1 << 24,
    )
    assert isinstance(verified, VerifiedJws)
    view = msgspec.json.decode(verified.payload, type=EnforcementView)
    assert view.gateway.name == "demo"
    assert {server.name for server in view.servers} == {"crm", "notes"}
    assert all(not server.credential.settings for server in view.servers)
    assert view.issued_at == NOW
    assert view.lease_seconds == 3.0
    assert (
        view.token_keys[0]["kid"]
        == authority.parts.keys.active_public_jwk(KeyPurpose.TOKENS)["kid"]
    )


async def test_control_snapshot_known_already_is_304(authority: Authority) -> None:
    gateway = await authority.enrolled()
    etag = (await call(gateway, "snapshot")).headers["etag"]

    async def again() -> int:
        token = await gateway.control_token()
        headers = gateway.control_headers(token, "snapshot") | {"if-none-match": etag}
        return (await call(gateway, "snapshot", headers=headers)).status_code

    assert await again() == 304
    await authority.block(BlockKind.AGENT, "support-bot")
    assert await again() == 200


@pytest.mark.requirement("attack-15")
async def test_control_stolen_token_is_refused(authority: Authority) -> None:
    gateway, thief = await authority.enrolled(), GatewayProcess(authority, "gateway:demo")
    token = await gateway.control_token()
    right = gateway.control_headers(token, "snapshot")
    other = await gateway.control_token()
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": f"Bearer {token}"},
        {"authorization": f"Bearer {token}", "dpop": right["dpop"]},
        {"authorization": f"DPoP {token}"},
        {"authorization": f"DPoP {token}", "dpop": ""},
        thief.control_headers(token, "snapshot"),
        gateway.control_headers(token, "acks"),
        gateway.control_headers(token, "snapshot", "POST"),
        {**right, "authorization": f"DPoP {other}"},
        {**right, "authorization": f"DPoP {token}x"},
        {**right, "authorization": "DPoP "},
    ]
    for headers in wrong:
        answer = await call(gateway, "snapshot", headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"].startswith("DPoP ")
        assert token not in answer.text
    assert len(authority.refusals()) == len(wrong)
    assert (await call(gateway, "snapshot", headers=right)).status_code == 200
    replayed = await call(gateway, "snapshot", headers=right)
    assert error_of(replayed) == "invalid_dpop_proof"


@pytest.mark.requirement("attack-6")
async def test_control_token_of_another_kind_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    own = Confirmation(gateway.thumbprint)
    tokens = [
        authority.blended(cnf=own),
        authority.blended(cnf=own, aud=CONTROL),
        authority.blended(cnf=own, aud=CONTROL, client_id="gateway:demo", sub="gateway:demo"),
        authority.blended(
            cnf=own, aud=CRM, client_id="gateway:demo", sub="gateway:demo", sub_profile="service"
        ),
    ]
    for claims in tokens:
        headers = gateway.control_headers(authority.sign_token(claims), "snapshot")
        assert (await call(gateway, "snapshot", headers=headers)).status_code == 401


@pytest.mark.requirement("attack-28")
async def test_control_of_a_blocked_gateway_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    token = await gateway.control_token()
    await authority.block(BlockKind.CLIENT, "gateway:demo")
    headers = gateway.control_headers(token, "snapshot")
    assert error_of(await call(gateway, "snapshot", headers=headers)) == "invalid_token"
    await authority.restore(BlockKind.CLIENT, "gateway:demo")
    authority.clock.now += 2
    headers = gateway.control_headers(token, "snapshot")
    assert (await call(gateway, "snapshot", headers=headers)).status_code == 401
    assert (await call(gateway, "snapshot")).status_code == 200


async def test_control_with_an_expired_token_or_a_removed_key_is_refused(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    token = await gateway.control_token()
    authority.clock.now += 900
    await authority.parts.live.refresh()
    headers = gateway.control_headers(token, "snapshot")
    assert (await call(gateway, "snapshot", headers=headers)).status_code == 401
    token = await gateway.control_token()
    await authority.remove_key(gateway)
    headers = gateway.control_headers(token, "snapshot")
    assert (await call(gateway, "snapshot", headers=headers)).status_code == 401


async def acknowledge(
    gateway: GatewayProcess, said: dict[str, Any], worker: str = "w1"
) -> httpx2.Response:
    headers = gateway.control_headers(await gateway.control_token(), "acks", "POST")
    return await call(gateway, "acks", said, headers | {WORKER_HEADER: worker})


async def test_control_acknowledgement_is_kept(authority: Authority) -> None:
    gateway = await authority.enrolled()
    await authority.block(BlockKind.AGENT, "support-bot")
    said = {"worker": "w1", "sequence": 1, "version": 1, "applied_at_ms": NOW * 1000}
    assert (await acknowledge(gateway, said)).status_code == 204
    (ack,) = authority.parts.acks.acks_for(1)
    assert (ack.gateway, ack.worker, ack.received_at_ms) == ("demo", "w1", NOW * 1000)


async def test_control_acknowledgement_waits_until_the_registry_can_be_read(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise UnpublishableRegistryError(())

    gateway = await authority.enrolled()
    said = {"worker": "w1", "sequence": 0, "version": 1, "applied_at_ms": NOW * 1000}
    with monkeypatch.context() as broken:
        broken.setattr(authority.parts.live, "refresh", fails)
        answer = await acknowledge(gateway, said)
    assert (answer.status_code, error_of(answer)) == (503, "temporarily_unavailable")
    assert (await acknowledge(gateway, said)).status_code == 204


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 99},
        {"version": 99},
        {"sequence": -1},
        {"worker": ""},
        {"worker": "w" * 200},
        {"applied_at_ms": -1},
        {"sequence": "1"},
        {"sequence": 1.5},
        {"extra": 1},
        {"worker": None},
    ],
)
async def test_control_acknowledgement_out_of_range_is_refused(
    authority: Authority, changes: dict[str, Any]
) -> None:
    gateway = await authority.enrolled()
    said = {"worker": "w1", "sequence": 0, "version": 1, "applied_at_ms": NOW * 1000, **changes}
    worker = said["worker"] or ""
    assert error_of(await acknowledge(gateway, said, worker)) == "invalid_request"
    assert authority.parts.acks.acks_for(0) == ()


@pytest.mark.requirement("control-own-only")
async def test_control_acknowledgement_of_another_worker_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    said = {"worker": "w2", "sequence": 0, "version": 1, "applied_at_ms": NOW * 1000}
    assert error_of(await acknowledge(gateway, said, worker="w1")) == "invalid_request"
    assert authority.refusals()[-1].reasons == ("acks.worker",)
    with authority.parts.serving_workers.holding("demo", "w1"):
        refused = error_of(await acknowledge(gateway, said, worker="w2"))
    assert refused == "temporarily_unavailable"
    assert authority.parts.acks.acks_for(0) == ()


async def test_control_catalogue_that_changes_all_the_time_has_to_wait(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()

    async def say(name: str) -> httpx2.Response:
        tool = {"name": name, "inputSchema": {"type": "object"}}
        return await call(gateway, "catalogue", {"server": "crm", "tools": [tool]})

    for number in range(CHANGES_PER_MINUTE):
        assert (await say(f"tool_{number}")).status_code == 200
    assert error_of(await say("one_more")) == "temporarily_unavailable"
    assert authority.refusals()[-1].reasons == ("catalogue.rate",)
    assert (await say(f"tool_{CHANGES_PER_MINUTE - 1}")).status_code == 200  # no change
    authority.clock.now += 60
    await authority.parts.live.refresh()
    assert (await say("one_more")).status_code == 200


def batch(source: str = "gateway.demo.0123456789abcdef", count: int = 2) -> dict[str, Any]:
    events = [
        AuditEvent(
            event_id=f"evt_{source}_{number}",
            timestamp="2027-01-15T08:00:00.000Z",
            type=EventType.CALL_DECIDED,
            outcome=Outcome.ALLOWED,
            source=source,
            sequence=number,
        )
        for number in range(1, count + 1)
    ]
    built: dict[str, Any] = msgspec.to_builtins(
        {"source": source, "high_water": count, "events": events}
    )
    return built


async def test_control_audit_takes_a_batch_once(authority: Authority) -> None:
    gateway = await authority.enrolled()
    for _ in range(2):
        answer = await call(gateway, "audit", batch())
        assert answer.json() == {"acknowledged": 2}, answer.text


@pytest.mark.parametrize(
    "source", ["gateway.other.0123", "authz-server.0123", "gateway.demo", "gateway.demo.x.y", ""]
)
@pytest.mark.requirement("control-own-only")
async def test_control_audit_of_another_source_is_refused(
    authority: Authority, source: str
) -> None:
    gateway = await authority.enrolled()
    assert error_of(await call(gateway, "audit", batch(source))) == "access_denied"
    (event,) = authority.refusals()
    assert event.reasons == ("audit.source",)


async def test_control_audit_malformed_batch_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    good = batch()
    shuffled = {**good, "events": good["events"][::-1]}
    foreign = {**good, "source": "gateway.demo.another"}
    contradicting = batch()
    contradicting["events"][0]["event_id"] = "evt_another"
    assert (await call(gateway, "audit", good)).status_code == 200
    malformed: tuple[object, ...] = (
        shuffled,
        foreign,
        contradicting,
        {},
        [],
        {**good, "events": [{}]},
    )
    for wrong in malformed:
        assert error_of(await call(gateway, "audit", wrong)) == "invalid_request"


@pytest.mark.requirement("audit-gateway-kinds")
async def test_control_audit_of_the_authoritys_kinds_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    forged = batch()
    forged["events"][1]["type"] = EventType.CONSENT_GRANTED.value
    assert error_of(await call(gateway, "audit", forged)) == "invalid_request"
    (event,) = authority.refusals()
    assert event.reasons == ("audit.batch",)
    assert (await call(gateway, "audit", batch())).status_code == 200


async def test_control_audit_oversized_batch_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    huge = {**batch(), "padding": "x" * 3_000_000}
    assert error_of(await call(gateway, "audit", huge)) == "invalid_request"


async def test_control_catalogue_answers_what_is_approved(authority: Authority) -> None:
    gateway = await authority.enrolled()
    tools = [tool("get_account"), tool("refund"), tool("newcomer")]
    answer = await call(gateway, "catalogue", {"server": "crm", "tools": tools})
    assert answer.status_code == 200, answer.text
    assert sorted(answer.json()["approved"]) == ["get_account", "newcomer", "refund"]
    names = {entry.name for entry in authority.parts.live.snapshot.servers["crm"].tools}
    assert "newcomer" in names  # at once
    assert len(authority.spool.of(EventType.CATALOGUE_CHANGED)) == 1
    await call(gateway, "catalogue", {"server": "crm", "tools": tools})
    assert len(authority.spool.of(EventType.CATALOGUE_CHANGED)) == 1


async def test_control_catalogue_is_taken_in_although_nobody_here_can_read_it_yet(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise UnpublishableRegistryError(())

    gateway = await authority.enrolled()
    monkeypatch.setattr(authority.parts.live, "refresh", fails)
    answer = await call(gateway, "catalogue", {"server": "crm", "tools": [tool("newcomer")]})
    assert answer.status_code == 200, answer.text
    assert len(authority.spool.of(EventType.CATALOGUE_CHANGED)) == 1


@pytest.mark.requirement("operator-doctor")
async def test_control_catalogue_takes_why_a_server_shows_no_tools(authority: Authority) -> None:
    gateway = await authority.enrolled()
    before = authority.parts.catalogue.list("crm")
    failed = {"server": "crm", "tools": [], "error": "upstream_\x1b[2Junreachable", "era": "odd"}

    answer = await call(gateway, "catalogue", failed)

    (report,) = authority.parts.server_reports.all()
    assert (answer.status_code, answer.json()) == (200, {"approved": []})
    assert (report.gateway, report.error, report.era) == ("demo", "upstream_?[2Junreachable", "")
    assert authority.parts.catalogue.list("crm") == before  # what it offers is not known: no change
    seen = {"server": "crm", "tools": [tool("get_account")], "era": "legacy"}
    await call(gateway, "catalogue", seen)
    (report,) = authority.parts.server_reports.all()
    assert (report.is_reachable, report.era) == (True, "legacy")


@pytest.mark.parametrize("server", ["ledger", "unknown", ""])
@pytest.mark.requirement("control-own-only")
async def test_control_catalogue_of_anothers_server_is_refused(
    authority: Authority, server: str
) -> None:
    gateway = await authority.enrolled()
    answer = await call(gateway, "catalogue", {"server": server, "tools": [tool("x")]})
    assert error_of(answer) == "access_denied"
    failed = {"server": server, "tools": [], "error": "away"}
    assert error_of(await call(gateway, "catalogue", failed)) == "access_denied"
    assert authority.parts.server_reports.all() == ()


async def test_control_when_the_audit_is_unwritable_changes_nothing(authority: Authority) -> None:
    gateway = await authority.enrolled()
    headers = gateway.control_headers(await gateway.control_token(), "snapshot")
    thief = GatewayProcess(authority, "gateway:demo")
    authority.spool.is_broken = True
    answer = await call(
        gateway, "snapshot", headers={**headers, "dpop": thief.proof(f"{CONTROL}/snapshot")}
    )
    assert answer.status_code == 503


@pytest.mark.requirement("control-intent-first")
async def test_control_catalogue_that_cannot_be_recorded_publishes_nothing(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    token = await gateway.control_token()
    body = {"server": "crm", "tools": [tool("newcomer")]}

    async def report() -> httpx2.Response:
        return await call(
            gateway, "catalogue", body, gateway.control_headers(token, "catalogue", "POST")
        )

    def published() -> set[str]:
        listed = authority.parts.catalogue.list("crm")
        return {each.name for each in listed if each.approved_digest}

    authority.spool.is_broken = True
    assert (await report()).status_code == 503
    assert "newcomer" not in published()
    authority.spool.is_broken = False
    assert (await report()).status_code == 200
    assert "newcomer" in published()
    (intent,) = authority.spool.of(EventType.GATEWAY_ALLOWED)
    assert (intent.object_ref, intent.client_id) == ("McpServer/crm", "gateway:demo")
    assert (await report()).status_code == 200
    assert len(authority.spool.of(EventType.GATEWAY_ALLOWED)) == 1
