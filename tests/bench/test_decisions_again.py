"""A recorded decision that policy would not make voids the row."""

from pathlib import Path

import msgspec
import pytest

from audit_log.event import AuditEvent, EventType, Outcome
from bench import declared
from bench.evidence import decision_problems
from bench.requests import call_arguments
from mcp_gateway.audit_trail import argument_digest
from mcp_gateway.compiled_view import CompiledView, compile_view
from registry.snapshot import (
    AgentEntry,
    CredentialProviderEntry,
    EnforcementView,
    GatewayEntry,
    PolicyDocument,
    PolicySetEntry,
    ServerEntry,
    ToolEntry,
)

SHIPPED = Path(declared.__file__).parents[1] / "policies" / "shipped"
PROPERTIES = {"amount": {"type": "integer"}, "query": {"type": "string"}}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["amount", "query"]}


@pytest.fixture(scope="module")
def view() -> CompiledView:
    names = [declared.TOOL, *(f"other_{n:02d}" for n in range(declared.OTHER_TOOLS))]
    tools = tuple(
        ToolEntry(name, "sha-256:x", {"name": name, "inputSchema": SCHEMA}, name == declared.TOOL)
        for name in names
    )
    issued = CredentialProviderEntry("issued", "issued_token", "run", 300, 1)
    url = "http://127.0.0.1:1/mcp"
    server = ServerEntry(
        declared.SERVER, url, url, False, ("groups",), issued, tools, 30.0, 1_000_000
    )
    agent = AgentEntry(
        declared.AGENT, ("bench-agents",), (f"{declared.SERVER}/*",), "production", 1
    )
    documents = [PolicyDocument(path.stem, path.read_text()) for path in SHIPPED.glob("*.cedar")]
    documents += [
        PolicyDocument(each["name"], each["spec"]["cedar"]) for each in declared.policy_objects()
    ]
    gateway = GatewayEntry(declared.GATEWAY, "http://127.0.0.1:2", "g", (declared.SERVER,))
    return compile_view(
        EnforcementView(
            version=1,
            issued_at=0,
            issuer="http://127.0.0.1:3",
            gateway=gateway,
            token_keys=(),
            servers=(server,),
            agents=(agent,),
            policies=PolicySetEntry(1, tuple(documents)),
            sequence=0,
            blocks=(),
            lease_seconds=3.0,
        ),
        0,
    )


def recorded(amount: int, outcome: Outcome, *policies: str) -> AuditEvent:
    arguments = next(each for each in call_arguments() if each["amount"] == amount)
    return AuditEvent(
        event_id="evt_1",
        timestamp="2026-11-01T00:00:00.000Z",
        type=EventType.CALL_DECIDED,
        outcome=outcome,
        decision_id="dec_1",
        agent=declared.AGENT,
        user="usr_1",
        tool=declared.TOOL,
        argument_digest=argument_digest(arguments),
        policy_matched=policies,
    )


def test_decision_as_policy_makes_it_speaks_against_nothing(view: CompiledView) -> None:
    events = [
        recorded(1, Outcome.ALLOWED, "grant-lookup"),
        recorded(1000, Outcome.DENIED, "guard-amount"),
    ]

    assert decision_problems(events, view) == []


def test_decision_that_policy_would_not_make_is_named(view: CompiledView) -> None:
    events = [recorded(1000, Outcome.ALLOWED, "grant-lookup")]

    assert ["dec_1" in each for each in decision_problems(events, view)] == [True]


def test_decision_by_another_policy_is_named(view: CompiledView) -> None:
    events = [recorded(1, Outcome.ALLOWED, "elsewhere-1")]

    assert ["dec_1" in each for each in decision_problems(events, view)] == [True]


def test_decision_on_arguments_never_sent_is_named(view: CompiledView) -> None:
    events = [msgspec.structs.replace(recorded(1, Outcome.ALLOWED), argument_digest="sha-256:x")]

    assert ["never sent" in each for each in decision_problems(events, view)] == [True]
