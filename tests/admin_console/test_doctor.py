"""`GET /doctor`: each finding says what is wrong and how to mend it; no check holds up another."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from admin_console.checks.control import (
    DAY_MS,
    audit_findings,
    database_findings,
    key_findings,
    policy_findings,
    provider_finding,
)
from admin_console.checks.enforcement import gateway_findings, server_findings
from admin_console.checks.finding import Finding, Level, lasted
from admin_console.facts import DatabaseFacts, KeyFacts, ProviderFacts
from audit_log import completeness
from audit_log.completeness import Completeness, Gap
from audit_log.event import EventType, iso_timestamp
from audit_log.store import SourceStatus
from registry.acks import Ack
from registry.catalogue_tools import CatalogueTool, ToolState
from registry.live import LiveState
from registry.policy_activation import PolicyState
from registry.server_reports import ServerReport
from registry.snapshot import (
    PolicyDocument,
    PolicySetEntry,
    ProviderRecord,
    RegistrySnapshot,
)
from tests.admin_console.stack import AdminStack, FakeSystem, role
from tests.audit_log.samples import intent
from tests.registry.samples import declare, tool
from tests.token_exchange.signing import NOW

NOW_MS = NOW * 1000
WORKER = "gateway.demo.0001"
SQLITE = DatabaseFacts("sqlite", "3.45.0", "wal", "9", "9", 0.5)


def levels(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.subject, each.level.value) for each in findings]


def asked(stack: AdminStack, who: str = "usr_vera") -> list[Finding]:
    answer = stack.call("GET", "/doctor", who=who)
    assert answer.status == 200, answer.json
    return [Finding.model_validate(each) for each in answer.json["findings"]]


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [each for each in findings if each.check == check]


def state_of(stack: AdminStack) -> LiveState:
    stack.run(stack.parts.live.refresh())
    return stack.parts.live.state


def ack(stack: AdminStack, **changes: int) -> Ack:
    state = state_of(stack)
    now = Ack("demo", WORKER, state.blocks.sequence, state.snapshot.version, NOW_MS, NOW_MS)
    return replace(now, **changes)  # type: ignore[arg-type]  # numbers of it


@pytest.mark.requirement("operator-doctor")
def test_doctor_looks_at_everything_for_a_viewer_and_every_trouble_has_a_remedy(
    stack: AdminStack,
) -> None:
    findings = asked(stack)

    checks = {each.check for each in findings}
    assert checks == {
        "database", "keys", "admins", "gateway", "server", "audit", "policies", "identity provider",
    }  # fmt: skip
    assert all(bool(each.remedy) == (each.level is not Level.OK) for each in findings)
    assert not of(findings, "admins")[0].remedy


@pytest.mark.requirement("operator-doctor")
def test_doctor_is_refused_to_a_person_without_a_role_and_audited(stack: AdminStack) -> None:
    answer = stack.call("GET", "/doctor", who="usr_nobody")

    assert (answer.status, answer.json["error"]) == (403, "insufficient_role")
    (event,) = stack.events(EventType.ADMIN_REFUSED)
    assert event.request_path == "/admin/v1/doctor"


@pytest.mark.requirement("operator-doctor")
def test_doctor_repeats_what_it_found_a_moment_ago(stack: AdminStack) -> None:
    system = stack.parts.system
    assert isinstance(system, FakeSystem)
    asked(stack)
    asked(stack, "usr_olga")
    assert system.asked == 1
    stack.clock.advance(3)
    asked(stack)
    assert system.asked == 2


@pytest.mark.requirement("operator-doctor")
def test_doctor_shows_a_check_that_breaks_beside_the_others(stack: AdminStack) -> None:
    system = stack.parts.system
    assert isinstance(system, FakeSystem)
    system.fails = RuntimeError("sk-secret")

    findings = asked(stack)

    (broken,) = of(findings, "database")
    assert (broken.level, broken.found) == (Level.PROBLEM, "could not be checked: RuntimeError")
    assert "sk-secret" not in str(findings)
    assert of(findings, "keys")[0].level is Level.OK


@pytest.mark.requirement("operator-doctor")
def test_doctor_gives_up_a_check_that_hangs(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(_snapshot: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("admin_console.checks.doctor.CHECK_SECONDS", 0.05)
    monkeypatch.setattr(stack.parts.system, "policies", hangs)

    (found,) = of(asked(stack), "policies")

    assert found.level is Level.PROBLEM
    assert "within" in found.found


def test_doctor_of_nothing_says_what_to_begin_with(empty: AdminStack) -> None:
    findings = [
        Finding.model_validate(each) for each in empty.call("GET", "/doctor").json["findings"]
    ]
    assert [each.level for each in of(findings, "gateway")] == [Level.WARNING]
    assert [each.level for each in of(findings, "server")] == [Level.WARNING]
    assert "countersign setup" in of(findings, "admins")[0].remedy


def test_gateway_nobody_joined_and_one_that_is_away_are_told_apart(stack: AdminStack) -> None:
    state = state_of(stack)
    joined = replace(state, snapshot=_with_keys(state))

    (never,) = gateway_findings(state, (), {}, NOW_MS)
    (away,) = gateway_findings(joined, (), {}, NOW_MS)

    assert (never.level, away.level) == (Level.PROBLEM, Level.PROBLEM)
    assert "gateway join demo" in never.remedy
    assert "start its `countersign mcp-gateway` again" in away.remedy


def _with_keys(state: LiveState) -> RegistrySnapshot:
    gateway = msgspec.structs.replace(state.snapshot.gateways["demo"], jwks=({"kty": "EC"},))
    return msgspec.structs.replace(state.snapshot, gateways={"demo": gateway})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["ok", "ok"]),
        ({"version": 0}, ["warning", "ok"]),
        ({"applied_at_ms": NOW_MS - 2_500}, ["ok", "warning"]),
        ({"applied_at_ms": NOW_MS + 40_000}, ["ok", "problem"]),
    ],
)
def test_worker_is_judged_by_what_it_applies_and_by_its_clock(
    stack: AdminStack, changes: dict[str, int], expected: list[str]
) -> None:
    sources = {WORKER: SourceStatus(WORKER, 3, False, NOW_MS)}
    found = list(gateway_findings(state_of(stack), [ack(stack, **changes)], sources, NOW_MS))
    assert [each.level.value for each in found] == expected


def report(**changes: object) -> ServerReport:
    made = ServerReport(
        gateway="demo", server="crm", error="", era="legacy", reported_at_ms=NOW_MS, since_ms=NOW_MS
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields of it


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(
    ("reports", "level", "says"),
    [
        ([report()], "ok", "answers demo, legacy protocol"),
        ([], "warning", "demo has not looked at it yet"),
        ([report(gateway="other")], "warning", "demo has not looked at it yet"),
        ([report(reported_at_ms=NOW_MS - 200_000)], "warning", "last looked at it 3 min ago"),
        ([report(error="upstream_unreachable")], "problem", "for 0 s: upstream_unreachable"),
        ([report(error="tools/list: HTTP 401")], "problem", "HTTP 401"),
        ([report(error="something new")], "problem", "something new"),
    ],
)
def test_server_is_judged_by_what_its_gateways_saw(
    stack: AdminStack, reports: list[ServerReport], level: str, says: str
) -> None:
    (found,) = server_findings(state_of(stack), reports, {}, (), NOW_MS)
    assert (found.subject, found.level.value) == ("crm", level)
    assert says in found.found
    assert bool(found.remedy) == (level != "ok")


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (-5, "0 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_199_999, "119 min"),
        (7_200_000, "2 h"),
        (172_800_000, "2 d"),
    ],
)
def test_time_is_told_in_the_largest_unit_of_which_it_has_two(milliseconds: int, said: str) -> None:
    assert lasted(milliseconds) == said


def offered(name: str, state: ToolState) -> CatalogueTool:
    return CatalogueTool("crm", name, state, "d", tool(name), None, None, None, None, False, 0)


@pytest.mark.requirement("operator-doctor")
def test_tools_that_wait_changed_or_went_are_counted_with_the_command_that_reviews_them(
    stack: AdminStack,
) -> None:
    tools = [offered(f"t{n}", ToolState.OBSERVED) for n in range(7)]
    tools += [offered("changed", ToolState.CHANGED), offered("gone", ToolState.GONE)]
    found = list(server_findings(state_of(stack), [report()], {"crm": tools}, (), NOW_MS))
    assert [each.level.value for each in found] == ["ok", "warning", "warning", "warning"]
    assert found[1].found == "7 tools wait for review: t0, t1, t2, t3, t4, …"
    assert found[1].remedy == "`countersign tools approve crm`"


@pytest.mark.requirement("operator-doctor")
def test_secret_nobody_stored_and_server_nobody_serves_are_found(stack: AdminStack) -> None:
    objects = [
        declare("CredentialProvider", "key", type="static_secret", secret="notes-api-key"),
        declare("McpServer", "notes", url="http://127.0.0.1:1/mcp", credential={"provider": "key"}),
        declare("McpServer", "alone", url="http://127.0.0.1:2/mcp", credential={"provider": "key"}),
        declare("Gateway", "demo", base_url="http://127.0.0.1:8701", servers=["crm", "notes"]),
    ]
    body = {"objects": [each.model_dump() for each in objects]}
    assert stack.call("POST", "/objects", body=body).status == 200

    findings = of(asked(stack), "server")

    missing = [each for each in findings if each.level is Level.PROBLEM]
    assert [each.remedy for each in missing] == ["`countersign secret set notes-api-key`"]
    assert any(each.found == "no Gateway serves it" for each in findings)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["ok"]),
        ({"schema": "8"}, ["problem", "ok"]),
        ({"journal": "delete"}, ["problem", "ok"]),
        ({"read_ms": 900.0}, ["warning"]),
        ({"kind": "postgresql", "journal": ""}, ["ok"]),
    ],
)
def test_database_is_judged_by_schema_journal_and_speed(
    changes: dict[str, object], expected: list[str]
) -> None:
    facts = replace(SQLITE, **changes)  # type: ignore[arg-type]  # fields of it
    assert [each.level.value for each in database_findings(facts)] == expected


def test_keys_are_judged_by_state_and_age() -> None:
    keys = [
        KeyFacts("control", "retired", "k0", NOW_MS),
        KeyFacts("tokens", "active", "k1", NOW_MS - 3 * DAY_MS),
        KeyFacts("tokens", "next", "k2", NOW_MS),
        KeyFacts("vault", "active", "k3", NOW_MS - 800 * DAY_MS),
    ]
    found = list(key_findings(keys, NOW_MS))
    assert levels(found) == [("control", "problem"), ("tokens", "ok"), ("vault", "warning")]
    assert found[1].found == "active 3 d, next 0 d"


@pytest.mark.parametrize(
    "code", ["unreachable", "timeout", "tls", "issuer", "status", "secret_missing", "new_code"]
)
def test_identity_provider_that_cannot_be_used_is_a_problem_with_a_remedy(code: str) -> None:
    record = ProviderRecord("keycloak", "keycloak", {})
    bad = provider_finding(record, ProviderFacts(code, "metadata"))
    good = provider_finding(record, ProviderFacts("", "here"))
    assert (bad.level, bool(bad.remedy), good.level) == (Level.PROBLEM, True, Level.OK)


@pytest.mark.requirement("operator-doctor")
def test_policies_that_wait_name_the_command_and_none_at_all_is_said(stack: AdminStack) -> None:
    snapshot = state_of(stack).snapshot
    active = PolicyState("active", 0, ())
    waiting = PolicyState("waiting_for", 0, ("crm/refund",))
    (none,) = policy_findings(active, snapshot, compiles=True)
    (waits,) = policy_findings(waiting, snapshot, compiles=True)
    (broken,) = policy_findings(active, snapshot, compiles=False)
    assert "every tool call is denied" in none.found
    assert "countersign tools approve crm" in waits.remedy
    assert broken.level is Level.PROBLEM


def test_active_policies_are_fine(stack: AdminStack) -> None:
    snapshot = msgspec.structs.replace(
        state_of(stack).snapshot, policies=PolicySetEntry(4, (PolicyDocument("p", "x"),))
    )
    (found,) = policy_findings(PolicyState("active", 4, ()), snapshot, compiles=True)
    assert (found.level, found.subject) == (Level.OK, "set 4")


def test_audit_gaps_silence_and_backlog_are_found() -> None:
    whole = Completeness(True, (), (), NOW_MS)
    holed = Completeness(False, (Gap("g.1", 3, 4),), ("g.2",), NOW_MS)
    assert [each.level.value for each in audit_findings(0, whole)] == ["ok", "ok"]
    found = list(audit_findings(64 * 1024 * 1024, holed))
    assert levels(found) == [("spool", "warning"), ("g.2", "warning"), ("g.1", "problem")]
    assert "audit close-source g.2" in found[1].remedy
    large = Completeness(False, (), (), NOW_MS, counted_since_ms=NOW_MS - 1)
    assert levels(list(audit_findings(0, large)))[1] == ("store", "ok")
    changed = replace(large, unknown=("gone",))
    assert levels(list(audit_findings(0, changed)))[1:] == [("gone", "problem")]


OBJECTS = "authz-server.database", "warning"  # those of the stack are recorded as well


@pytest.mark.requirement("audit-counted")
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("authz-server.0009", [("authz-server.0009", "warning"), OBJECTS, ("store", "ok")]),
        (WORKER, [OBJECTS, ("store", "ok")]),
    ],
)
def test_doctor_warns_where_the_authoritys_own_events_are_too_many_to_count(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch, source: str, expected: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(completeness, "MAXIMUM_COUNTED_OF_SOURCE", 1)
    batch = [
        msgspec.structs.replace(
            intent(f"dec_{number}"), event_id=f"evt_{number}", source=source, sequence=number
        )
        for number in (1, 2)
    ]
    batch = [msgspec.structs.replace(each, timestamp=iso_timestamp(NOW)) for each in batch]
    stack.run(stack.parts.audit_store.ingest(source, 2, batch))

    (_spool, *found) = of(asked(stack), "audit")

    assert levels(found) == expected
    assert found[-1].found.startswith("complete as far as it was counted")


def test_accounts_that_cannot_log_in_are_found(stack: AdminStack) -> None:
    (before,) = of(asked(stack), "identity provider")
    account = {
        "identity_provider": "local",
        "username": "zoe",
        "password": "wander-copper-lantern-52",
        "groups": [],
    }
    assert stack.call("POST", "/accounts", body=account).status == 200
    stack.clock.advance(3)
    (after,) = of(asked(stack), "identity provider")
    assert (before.level, after.level) == (Level.WARNING, Level.OK)


def test_stale_picture_of_the_registry_is_a_problem(stack: AdminStack) -> None:
    stack.clock.advance(10)
    assert any(each.subject == "registry" for each in of(asked_again(stack), "database"))


def asked_again(stack: AdminStack) -> list[Finding]:
    return [Finding.model_validate(each) for each in stack.call("GET", "/doctor").json["findings"]]


def test_roles_below_admin_do_not_count(stack: AdminStack) -> None:
    assert "1 with the role admin" in of(asked(stack), "admins")[0].found
    stack.call("POST", "/objects", body={"objects": [role("zoe", "acc_z", "viewer")]})
    stack.clock.advance(3)
    assert "1 with the role admin" in of(asked_again(stack), "admins")[0].found
