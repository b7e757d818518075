"""A policy set activates whole or not at all, and what is live always compiles."""

import asyncio

import pytest

from registry.catalogue_tools import ToolState
from registry.policy_activation import PolicyOutcome, PolicyProblem, PolicyRefusedError
from registry.policy_sets import live_set
from registry.snapshot import PolicyDocument, PolicySetEntry, RegistrySnapshot
from tests.registry.samples import Registry, declare, observed_digests, replaced, small_set, tool


def live(registry: Registry) -> PolicySetEntry:
    return registry.database.read(live_set)


def cedar_of(registry: Registry) -> list[str]:
    """The operator's live documents."""
    return [each.cedar for each in live(registry).documents if "/" not in each.name]


def observe_and_approve(registry: Registry, *names: str) -> None:
    async def scenario() -> None:
        await registry.catalogue.observe("crm", [tool(name) for name in names])
        await registry.catalogue.approve(
            "crm", observed_digests(registry.catalogue, *names), "usr_alice"
        )

    asyncio.run(scenario())


def test_registry_without_policies_is_version_zero_without_documents(registry: Registry) -> None:
    registry.apply(*small_set())
    assert live(registry) == PolicySetEntry(0, ())


def test_set_that_compiles_is_live_at_once_and_begins_with_the_shipped_documents(
    registry: Registry,
) -> None:
    registry.apply(*small_set())
    observe_and_approve(registry, "refund")
    applied = registry.apply(declare("Policy", "support", cedar="crm/refund"))
    assert (applied.policies.state, applied.policies.waiting_for) == ("active", ())
    names = [each.name for each in live(registry).documents]
    assert names[-1] == "support"
    assert all(name.startswith("shipped/") for name in names[:-1])


@pytest.mark.requirement("trap-whole-set")
def test_set_that_names_an_unapproved_tool_waits_and_the_set_before_stays_live(
    registry: Registry,
) -> None:
    registry.apply(*small_set())
    observe_and_approve(registry, "refund")
    registry.apply(declare("Policy", "support", cedar="crm/refund"))
    before = live(registry)
    applied = registry.apply(declare("Policy", "support", cedar="crm/refund crm/delete"))
    assert applied.policies.state == "waiting_for"
    assert applied.policies.waiting_for == ("crm/delete",)
    assert live(registry) == before
    assert registry.store.policy_state().waiting_for == ("crm/delete",)


@pytest.mark.requirement("trap-whole-set")
def test_first_set_that_waits_leaves_deny_all_live(registry: Registry) -> None:
    applied = registry.apply(*small_set(), declare("Policy", "support", cedar="crm/refund"))
    assert applied.policies.waiting_for == ("crm/refund",)
    assert live(registry).documents == ()


@pytest.mark.requirement("trap-whole-set")
def test_waiting_set_becomes_live_whole_when_its_last_tool_is_approved(registry: Registry) -> None:
    registry.apply(*small_set(), declare("Policy", "support", cedar="crm/refund crm/delete"))
    asyncio.run(registry.catalogue.observe("crm", [tool("refund"), tool("delete")]))
    digests = observed_digests(registry.catalogue, "refund")
    asyncio.run(registry.catalogue.approve("crm", digests, "usr_alice"))
    assert registry.store.policy_state().waiting_for == ("crm/delete",)
    assert cedar_of(registry) == []
    version = registry.version()
    digests = observed_digests(registry.catalogue, "delete")
    asyncio.run(registry.catalogue.approve("crm", digests, "usr_alice"))
    assert cedar_of(registry) == ["crm/refund crm/delete"]
    assert registry.version() > version


@pytest.mark.requirement("trap-whole-set")
def test_older_waiting_set_never_becomes_live_after_a_newer_one(registry: Registry) -> None:
    registry.apply(*small_set(), declare("Policy", "support", cedar="crm/refund"))
    registry.apply(declare("Policy", "support", cedar="crm/delete"))
    observe_and_approve(registry, "refund")
    assert cedar_of(registry) == []
    observe_and_approve(registry, "refund", "delete")
    assert cedar_of(registry) == ["crm/delete"]


def test_set_with_a_real_problem_is_refused_at_plan_with_document_and_line(
    registry: Registry,
) -> None:
    plan = registry.plan(*small_set(), declare("Policy", "support", cedar="crm/refund error"))
    (problem,) = plan.problems
    assert (problem.kind, problem.name, problem.field) == ("Policy", "support", "spec.cedar:2")
    assert problem.message == "p1: wrong"


def test_plan_says_what_the_set_would_wait_for(registry: Registry) -> None:
    plan = registry.plan(*small_set(), declare("Policy", "support", cedar="crm/refund"))
    assert plan.problems == ()
    assert plan.waiting_for == ("crm/refund",)


@pytest.mark.requirement("trap-live-set-compiles")
def test_deleting_a_server_the_live_set_names_is_refused(registry: Registry) -> None:
    registry.apply(*small_set())
    observe_and_approve(registry, "refund")
    registry.apply(declare("Policy", "support", cedar="crm/refund"))
    gone = (("McpServer", "crm"), ("Gateway", "demo"), ("Agent", "support-bot"))
    plan = registry.plan(delete=gone)
    assert "crm/refund" in plan.problems[0].message
    together = registry.plan(delete=(*gone, ("Policy", "support")))
    assert together.problems == ()


def test_last_policy_deleted_denies_all(registry: Registry) -> None:
    registry.apply(*small_set())
    observe_and_approve(registry, "refund")
    registry.apply(declare("Policy", "support", cedar="crm/refund"))
    registry.apply(delete=(("Policy", "support"),))
    assert live(registry).documents == ()
    assert live(registry).version == 2


def test_changing_something_else_keeps_the_policy_version(registry: Registry) -> None:
    registry.apply(*small_set(), declare("Policy", "support", cedar=" "))
    registry.apply(*replaced(small_set(), "Agent", "support-bot", environment="staging"))
    assert live(registry).version == 1


def test_waiting_set_withdrawn_to_what_is_live_no_longer_waits(registry: Registry) -> None:
    registry.apply(*small_set(), declare("Policy", "support", cedar=" "))
    registry.apply(declare("Policy", "support", cedar="crm/refund"))
    applied = registry.apply(declare("Policy", "support", cedar=" "))
    assert applied.policies.state == "active"
    assert cedar_of(registry) == [" "]


@pytest.mark.requirement("trap-live-set-compiles")
def test_approval_that_breaks_the_live_set_is_refused_and_undone(registry: Registry) -> None:
    registry.apply(*small_set())
    observe_and_approve(registry, "refund")
    registry.apply(declare("Policy", "support", cedar="crm/refund"))

    def refuses(_policies: PolicySetEntry, _snapshot: RegistrySnapshot) -> PolicyOutcome:
        return PolicyOutcome((PolicyProblem("support", "p", 1, "types differ"),))

    registry.catalogue._compiler = refuses
    asyncio.run(registry.catalogue.observe("crm", [tool("refund", "changed")]))
    digests = observed_digests(registry.catalogue, "refund")
    with pytest.raises(PolicyRefusedError, match="types differ"):
        asyncio.run(registry.catalogue.approve("crm", digests, "usr_alice"))
    (listed,) = registry.catalogue.list("crm")
    assert listed.state is ToolState.CHANGED


def test_empty_plan_takes_in_what_a_new_release_ships(registry: Registry) -> None:
    registry.apply(*small_set(), declare("Policy", "support", cedar=" "))
    assert registry.apply().version == 1
    registry.store._shipped = (PolicyDocument("shipped/base", "newer"),)
    assert registry.apply().version == 2
    assert live(registry).version == 2
    assert live(registry).documents[0].cedar == "newer"
    assert registry.apply().version == 2
