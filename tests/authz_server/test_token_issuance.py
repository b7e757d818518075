"""What no grant can forget: revocation, the holder of a token, the audit, the cost."""

import logging
from typing import Any

import msgspec
import pytest

from audit_log.event import EventType
from authz_server import token_phases
from authz_server.grants.catalog import GRANTS
from authz_server.parts import Parts
from authz_server.token_request import IssuancePlan, RefusedForPerson, TokenRequest
from database.engine import Database
from registry.blocks import BlockKind
from tests.authz_server.back_half import (
    ADMIN,
    API_KEY,
    CONTROL,
    CRM_AUDIENCE,
    NOTES,
    NOTES_URL,
    NOW,
    OTHER_CRM,
    Authority,
    Keyholder,
    error_of,
)
from token_exchange.claims import (
    Actor,
    AuthorizationDetail,
    Confirmation,
    JwkThumbprint,
    Refusal,
)
from token_exchange.token_types import GRANT_CLIENT_CREDENTIALS, TOKEN_TYPE_STATIC_SECRET

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    ("kind", "subject_id"),
    [
        (BlockKind.AGENT, "batch-bot"),
        (BlockKind.AGENT_GROUP, "support-agents"),
        (BlockKind.CLIENT, "batch-bot"),
        (BlockKind.SUBJECT, "agent:batch-bot"),
    ],
)
async def test_token_for_a_blocked_agent_is_refused_until_restored(
    authority: Authority, kind: BlockKind, subject_id: str
) -> None:
    workload = authority.workload(1002)
    await authority.block(kind, subject_id)
    assert error_of(await workload.ask()) == "invalid_grant"
    assert authority.refusals()[0].reasons == ("token.revoked",)
    await authority.restore(kind, subject_id)
    authority.clock.now += 2
    assert (await workload.ask()).status_code == 200


@pytest.mark.requirement("attack-28")
async def test_token_is_issued_only_after_the_epoch(authority: Authority) -> None:
    authority.clock.now = NOW + 0.4
    await authority.block(BlockKind.AGENT, "batch-bot")
    await authority.restore(BlockKind.AGENT, "batch-bot")
    for moment, status in ((NOW + 0.5, 400), (NOW + 1, 400), (NOW + 1.9, 400), (NOW + 2, 200)):
        authority.clock.now = moment
        assert (await authority.workload(1002).ask()).status_code == status, moment


@pytest.mark.requirement("attack-28")
async def test_token_of_a_block_in_another_process_is_refused_after_its_news(
    authority: Authority,
) -> None:
    second = await authority.another_process()
    await authority.block(BlockKind.AGENT, "batch-bot")
    await second.parts.live.refresh()
    workload = authority.workload(1002)
    answer = await second.post(workload.form(), {"dpop": workload.proof()})
    assert error_of(answer) == "invalid_grant"
    second.database.close()


async def test_token_of_a_block_while_the_grant_ran_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = GRANTS[GRANT_CLIENT_CREDENTIALS]

    async def slow_grant(
        request: TokenRequest, parts: Parts
    ) -> IssuancePlan | Refusal | RefusedForPerson:
        plan = await row.grant(request, parts)
        await authority.block(BlockKind.AGENT, "batch-bot")
        return plan

    slow = row_with(row, grant=slow_grant)
    monkeypatch.setattr(token_phases, "GRANTS", {**GRANTS, GRANT_CLIENT_CREDENTIALS: slow})
    assert error_of(await authority.workload(1002).ask()) == "invalid_grant"


def row_with(row: Any, **changes: Any) -> Any:
    fields = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return type(row)(**(fields | changes))


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": CRM_AUDIENCE},
        {"aud": CONTROL},
        {"aud": ADMIN},
        {"aud": "https://nowhere.example"},
        {"cnf": None},
        {"cnf": Confirmation(JwkThumbprint("another-key"))},
        {"client_id": "support-bot"},
        {"agent": "support-bot"},
        {"agent": None},
        {"sub_profile": "user"},
        {"act": Actor("i", "s", "ai_agent", "batch-bot")},
    ],
)
@pytest.mark.requirement("issue-holder")
async def test_token_planned_wrongly_by_a_grant_is_not_issued(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    row = GRANTS[GRANT_CLIENT_CREDENTIALS]

    async def wrong_grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal:
        plan = await row.grant(request, parts)
        assert isinstance(plan, IssuancePlan)
        claims = msgspec.structs.replace(plan.claims, **changes)
        return IssuancePlan(claims=claims, client=plan.client)

    wrong = row_with(row, grant=wrong_grant)
    monkeypatch.setattr(token_phases, "GRANTS", {**GRANTS, GRANT_CLIENT_CREDENTIALS: wrong})
    assert error_of(await authority.workload(1002).ask()) == "invalid_target"
    assert authority.refusals()[0].reasons == ("token.holder",)
    assert not authority.spool.of(EventType.TOKEN_ISSUED)


@pytest.mark.requirement("issue-recorded-first")
async def test_token_is_not_issued_when_the_audit_is_unwritable(authority: Authority) -> None:
    workload = authority.workload(1002)
    authority.spool.is_broken = True
    answer = await workload.ask()
    assert answer.status_code == 503
    assert error_of(answer) == "temporarily_unavailable"
    authority.spool.is_broken = False
    assert (await workload.ask()).status_code == 200


async def test_token_is_not_issued_when_the_database_is_gone(authority: Authority) -> None:
    workload = authority.workload(1002)
    form, proof = workload.form(), workload.proof()
    authority.database.close()
    answer = await authority.post(form, {"dpop": proof})
    assert error_of(answer) == "temporarily_unavailable"


async def test_token_fault_is_a_server_error_without_details(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = GRANTS[GRANT_CLIENT_CREDENTIALS]
    secret = "a-value-that-must-not-appear"

    async def broken(_request: TokenRequest, _parts: Parts) -> IssuancePlan | Refusal:
        raise RuntimeError(secret)

    rows = {**GRANTS, GRANT_CLIENT_CREDENTIALS: row_with(row, grant=broken)}
    monkeypatch.setattr(token_phases, "GRANTS", rows)
    answer = await authority.workload(1002).ask()
    assert answer.status_code == 500
    assert answer.json()["error"] == "server_error"
    assert secret not in answer.text


@pytest.mark.requirement("attack-26")
async def test_token_and_secrets_reach_no_log_and_no_audit_event(
    authority: Authority, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    workload, gateway = authority.workload(1002), await authority.enrolled()
    attestation, proof = workload.attestation(), workload.proof()
    answers = [
        await authority.post(workload.form(client_assertion=attestation), {"dpop": proof}),
        await authority.post(workload.form(client_assertion=attestation), {"dpop": proof}),
        await workload.ask(resource="https://nowhere.example"),
    ]
    detail = AuthorizationDetail("mcp_tool", "notes", ("search",), ("call",))
    blended = authority.sign_token(authority.blended(aud=NOTES, authorization_details=(detail,)))
    answers.append(
        await gateway.exchange(
            blended,
            resource=NOTES_URL,
            requested_token_type=TOKEN_TYPE_STATIC_SECRET,
            detail={"server": "notes", "tool": "search"},
        )
    )
    answers.append(await gateway.exchange(blended + "x"))
    assert [answer.status_code for answer in answers] == [200, 401, 400, 200, 400]
    secrets = [attestation, proof, blended, API_KEY]
    secrets += [answer.json()["access_token"] for answer in answers if answer.status_code == 200]
    written = caplog.text + "".join(capfd.readouterr())
    written += msgspec.json.encode(authority.spool.events).decode()
    for secret in secrets:
        assert secret not in written
        assert secret.rpartition(".")[2] not in written  # not the signature alone either


class Counter:
    """Counts what a database is asked."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = self.writes = 0
        read, write = database.read, database.write

        def counted_read(work: Any) -> Any:
            self.reads += 1
            return read(work)

        async def counted_write(work: Any) -> Any:
            self.writes += 1
            return await write(work)

        monkeypatch.setattr(database, "read", counted_read)
        monkeypatch.setattr(database, "write", counted_write)


@pytest.mark.requirement("issue-database-cost")
async def test_token_costs_one_write_for_single_use_proofs_and_no_read(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, gateway = authority.workload(1002), await authority.enrolled()
    assert (await workload.ask()).status_code == 200
    counter = Counter(authority.database, monkeypatch)
    assert (await workload.ask()).status_code == 200
    assert (counter.reads, counter.writes) == (0, 1)
    assert (await gateway.exchange(authority.sign_token(authority.blended()))).status_code == 200
    assert (counter.reads, counter.writes) == (0, 2)
    assert (await gateway.ask_control()).status_code == 200
    assert (counter.reads, counter.writes) == (0, 3)


@pytest.mark.requirement("attack-18")
async def test_token_grant_the_client_may_not_use_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    form = gateway.control_form(grant_type="authorization_code", code="x")
    answer = await authority.post(form, {"dpop": gateway.proof()})
    assert error_of(answer) == "unauthorized_client"
    form = {"grant_type": "client_credentials", "client_id": "countersign-cli"}
    answer = await authority.post(form, {"dpop": Keyholder(authority).proof()})
    assert error_of(answer) == "unauthorized_client"


@pytest.mark.requirement("C61")
async def test_token_refusal_names_who_asked_and_for_what(authority: Authority) -> None:
    await authority.workload(1001).ask(resource=OTHER_CRM + "x")
    (event,) = authority.refusals()
    assert (event.client_id, event.agent) == ("night-watch", "night-watch")
    assert event.workload_svid == "unix:host/1001/-"
    assert event.target_service == OTHER_CRM + "x"
    assert event.request_path == "/oauth/token"
    assert event.snapshot_version == authority.parts.live.snapshot.version
