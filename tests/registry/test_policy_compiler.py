"""The registry with the real policy compiler and the shipped documents."""

import asyncio
from typing import Any, Final

import pytest

from database.engine import Database
from registry.policy_activation import PolicyRefusedError
from registry.policy_sets import live_set
from registry.shipped_policies import SHIPPED_PREFIX, shipped_policies
from registry.store import RegistryStore
from registry.tool_catalogue import ToolCatalogue
from tests.registry.samples import (
    ISSUER,
    SETTINGS_MODELS,
    FakeClock,
    Registry,
    declare,
    observed_digests,
    replaced,
    small_set,
)

REFUND: Final[dict[str, Any]] = {
    "name": "refund",
    "inputSchema": {"type": "object", "properties": {"amount": {"type": "integer"}}},
}
GRANT = """
@id("grant-refund")
permit (principal == Agent::"support-bot", action == Action::"crm/refund", resource)
when { context.input has amount && context.input.amount <= 500 };
"""


@pytest.fixture
def registry(database: Database, clock: FakeClock, registry: Registry) -> Registry:
    """The registry of the other tests, with the real compiler."""
    registry.store = RegistryStore(
        database, issuer=ISSUER, settings_models=SETTINGS_MODELS, clock=clock
    )
    registry.catalogue = ToolCatalogue(
        database, issuer=ISSUER, settings_models=SETTINGS_MODELS, clock=clock
    )
    return registry


def approve_refund(registry: Registry, definition: dict[str, Any] = REFUND) -> None:
    asyncio.run(registry.catalogue.observe("crm", [definition]))
    digests = observed_digests(registry.catalogue, "refund")
    asyncio.run(registry.catalogue.approve("crm", digests, "usr_alice"))


def test_shipped_documents_cannot_have_the_name_of_a_declared_one() -> None:
    shipped = shipped_policies()
    assert shipped
    assert all(each.name.startswith(SHIPPED_PREFIX) and each.cedar for each in shipped)


@pytest.mark.requirement("trap-whole-set")
def test_policy_waits_for_its_tool_and_becomes_live_with_the_approval(registry: Registry) -> None:
    applied = registry.apply(*small_set(), declare("Policy", "support", cedar=GRANT))
    assert applied.policies.waiting_for == ("crm/refund",)
    approve_refund(registry)
    assert registry.store.policy_state().state == "active"
    documents = registry.database.read(live_set).documents
    assert documents == (*shipped_policies(), *documents[-1:])
    assert documents[-1].cedar == GRANT


@pytest.mark.parametrize(
    ("cedar", "message"),
    [
        ("permit (principal", ""),
        (GRANT.replace("support-bot", "suport-bot"), "did you mean 'support-bot'?"),
        (GRANT.replace("crm/refund", "cmr/refund"), "unknown server 'cmr'"),
        (GRANT.replace("amount <= 500", 'amount == "500"'), ""),
    ],
)
def test_wrong_policy_is_refused_at_plan_naming_its_document(
    registry: Registry, cedar: str, message: str
) -> None:
    registry.apply(*small_set())
    approve_refund(registry)
    problems = registry.plan(declare("Policy", "support", cedar=cedar)).problems
    assert problems
    assert (problems[0].kind, problems[0].name) == ("Policy", "support")
    assert problems[0].field.startswith("spec.cedar")
    assert any(message in each.message for each in problems)


def test_misspelt_tool_is_hinted_at_while_the_set_waits(registry: Registry) -> None:
    registry.apply(*small_set())
    approve_refund(registry)
    misspelt = declare("Policy", "support", cedar=GRANT.replace("crm/refund", "crm/refnd"))
    plan = registry.plan(misspelt)
    assert plan.waiting_for == ("crm/refnd",)
    assert "crm/refund" in plan.hints[0].message


def test_agent_the_live_set_names_cannot_be_deleted_alone(registry: Registry) -> None:
    registry.apply(*small_set(), declare("Policy", "support", cedar=GRANT))
    approve_refund(registry)
    plan = registry.plan(delete=(("Agent", "support-bot"),))
    assert "support-bot" in plan.problems[0].message
    with_it = registry.plan(delete=(("Agent", "support-bot"), ("Policy", "support")))
    assert with_it.problems == ()


@pytest.mark.requirement("trap-live-set-compiles")
def test_changed_schema_that_breaks_the_live_set_is_not_approved(registry: Registry) -> None:
    registry.apply(*small_set(), declare("Policy", "support", cedar=GRANT))
    approve_refund(registry)
    text = {"type": "object", "properties": {"amount": {"type": "string"}}}
    with pytest.raises(PolicyRefusedError):
        approve_refund(registry, {"name": "refund", "inputSchema": text})
    assert registry.store.policy_state().state == "active"


def test_policy_that_reads_an_undeclared_attribute_of_the_person_is_refused(
    registry: Registry,
) -> None:
    reads = GRANT.replace(
        "context.input has amount", 'context.run has ticket && context.run.ticket == "x"'
    )
    reads = reads.replace(" && context.input.amount <= 500", "")
    registry.apply(*small_set())
    approve_refund(registry)
    refused = registry.plan(declare("Policy", "support", cedar=reads))
    assert "person_attributes" in refused.problems[0].message
    declared = replaced(small_set(), "McpServer", "crm", person_attributes=["ticket"])
    assert registry.plan(*declared, declare("Policy", "support", cedar=reads)).problems == ()
