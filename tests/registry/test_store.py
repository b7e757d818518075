"""Planning and applying declared objects."""

import asyncio

import pytest

from database.errors import DatabaseError
from registry.difference import FieldDifference
from registry.history import ChangeAction
from registry.references import CLI_CLIENT_ID
from registry.store import PlanOutdatedError, PlanRefusedError
from tests.registry.samples import Registry, declare, replaced, small_set


def test_apply_valid_objects_stores_each_and_bumps_the_version_once(registry: Registry) -> None:
    applied = registry.apply(*small_set())
    assert applied.version == 1
    assert len(applied.changes) == len(small_set())
    stored = registry.store.get("Agent", "support-bot")
    assert stored is not None
    assert (stored.author, stored.version) == ("local:0", 1)
    assert stored.spec["tools"] == ["crm/get_*", "crm/refund"]


def test_apply_same_objects_again_changes_nothing(registry: Registry) -> None:
    registry.apply(*small_set())
    again = registry.apply(*small_set())
    assert again.version == 1
    assert again.changes == ()
    assert len(registry.store.history("Agent", "support-bot")) == 1


def test_plan_writes_nothing(registry: Registry) -> None:
    plan = registry.plan(*small_set())
    assert plan.problems == ()
    assert registry.version() == 0
    assert registry.store.list() == ()


def test_plan_of_a_changed_object_names_each_changed_field(registry: Registry) -> None:
    registry.apply(*small_set())
    changed = replaced(
        small_set(),
        "McpServer",
        "crm",
        timeout_seconds=5.0,
        tools={"refund": {"sensitivity": 2}},
        credential={"provider": "crm-token"},
    )
    plan = registry.plan(*changed)
    assert [(each.kind, each.name, each.action) for each in plan.effective] == [
        ("McpServer", "crm", ChangeAction.UPDATE)
    ]
    assert plan.effective[0].differences == (
        FieldDifference("spec.timeout_seconds", None, 5.0),
        FieldDifference("spec.tools", None, {"refund": {"sensitivity": 2}}),
    )


def test_history_keeps_every_version_with_author_and_time_newest_first(registry: Registry) -> None:
    registry.apply(*small_set())
    registry.clock.advance(60)
    changed = replaced(small_set(), "Agent", "support-bot", environment="staging")
    registry.carry_out(registry.plan(*changed), "usr_alice")
    registry.clock.advance(60)
    registry.apply(delete=(("Agent", "support-bot"),))
    history = registry.store.history("Agent", "support-bot")
    assert [(each.version, each.action, each.author) for each in history] == [
        (3, ChangeAction.DELETE, "local:0"),
        (2, ChangeAction.UPDATE, "usr_alice"),
        (1, ChangeAction.CREATE, "local:0"),
    ]
    assert history[0].spec is None
    assert history[1].spec is not None
    assert history[1].spec["environment"] == "staging"
    assert [each.at_ms - history[2].at_ms for each in history] == [120_000, 60_000, 0]


def test_object_deleted_and_declared_again_keeps_its_whole_history(registry: Registry) -> None:
    registry.apply(*small_set())
    registry.apply(delete=(("Agent", "support-bot"),))
    registry.apply(*small_set())
    actions = [each.action for each in registry.store.history("Agent", "support-bot")]
    assert actions == [ChangeAction.CREATE, ChangeAction.DELETE, ChangeAction.CREATE]


def test_delete_of_an_object_still_referred_to_is_refused_at_the_referrer(
    registry: Registry,
) -> None:
    registry.apply(*small_set())
    plan = registry.plan(delete=(("CredentialProvider", "crm-token"),))
    (problem,) = plan.problems
    assert (problem.kind, problem.name, problem.field) == (
        "McpServer",
        "crm",
        "spec.credential.provider",
    )
    with pytest.raises(PlanRefusedError):
        registry.carry_out(plan)
    assert registry.store.get("CredentialProvider", "crm-token") is not None


def test_delete_of_an_object_together_with_its_referrers_is_accepted(registry: Registry) -> None:
    registry.apply(*small_set())
    registry.apply(
        delete=(
            ("CredentialProvider", "crm-token"),
            ("McpServer", "crm"),
            ("Gateway", "demo"),
            ("Agent", "support-bot"),
        )
    )
    assert {each.kind for each in registry.store.list()} == {"TrustProvider", "IdentityProvider"}


def test_delete_of_what_does_not_exist_is_a_problem(registry: Registry) -> None:
    (problem,) = registry.plan(delete=(("Agent", "nobody"),)).problems
    assert problem.message == "does not exist"


def test_object_declared_twice_or_declared_and_deleted_is_a_problem(registry: Registry) -> None:
    registry.apply(*small_set())
    provider = declare("TrustProvider", "unix", type="unix_process")
    assert registry.plan(provider, provider).problems[0].message.startswith("declared twice")
    both = registry.plan(provider, delete=(("TrustProvider", "unix"),))
    assert both.problems[0].message == "both declared and deleted"


def test_plan_reports_all_problems_of_all_objects_at_once(registry: Registry) -> None:
    objects = replaced(small_set(), "Agent", "support-bot", invocation_seconds=1, toolz=["x"])
    objects = replaced(objects, "McpServer", "crm", url="ftp://crm")
    found = {(each.kind, each.field) for each in registry.plan(*objects).problems}
    assert found == {
        ("Agent", "spec.invocation_seconds"),
        ("Agent", "spec.toolz"),
        ("McpServer", "spec.url"),
    }


def test_apply_of_a_plan_with_problems_stores_nothing(registry: Registry) -> None:
    plan = registry.plan(*small_set()[1:])  # without its TrustProvider
    assert [each.field for each in plan.problems] == ["spec.attestation.providers[0]"]
    with pytest.raises(PlanRefusedError, match="TrustProvider 'unix' does not exist"):
        registry.carry_out(plan)
    assert registry.store.list() == ()


@pytest.mark.requirement("trap-lost-update")
def test_apply_after_somebody_changed_the_object_asks_to_look_again(registry: Registry) -> None:
    registry.apply(*small_set())
    changed = replaced(small_set(), "Agent", "support-bot", environment="staging")
    stale = registry.plan(*changed)
    registry.apply(*replaced(small_set(), "Agent", "support-bot", environment="test"))
    with pytest.raises(PlanOutdatedError):
        registry.carry_out(stale)
    stored = registry.store.get("Agent", "support-bot")
    assert stored is not None
    assert stored.spec["environment"] == "test"


@pytest.mark.requirement("trap-lost-update")
def test_apply_after_somebody_changed_another_object_is_accepted(registry: Registry) -> None:
    registry.apply(*small_set())
    plan = registry.plan(*replaced(small_set(), "Agent", "support-bot", environment="staging")[-1:])
    registry.apply(declare("IdentityProvider", "other", type="local_accounts"))
    assert registry.carry_out(plan).version == 3


def test_apply_checks_again_what_the_plan_found_good(registry: Registry) -> None:
    registry.apply(*small_set())
    agent = small_set()[-1].model_copy(update={"name": "second-bot"})
    plan = registry.plan(agent)
    registry.apply(delete=(("Agent", "support-bot"), ("TrustProvider", "unix")))
    with pytest.raises(PlanRefusedError, match="TrustProvider 'unix' does not exist"):
        registry.carry_out(plan)


def test_apply_in_the_event_loop_commits_before_it_returns(registry: Registry) -> None:
    applied = asyncio.run(registry.store.apply(registry.plan(*small_set()), "local:0"))
    assert registry.version() == applied.version


def test_list_by_kind_returns_only_that_kind(registry: Registry) -> None:
    registry.apply(*small_set())
    assert [each.name for each in registry.store.list("Gateway")] == ["demo"]
    assert registry.store.get("Gateway", CLI_CLIENT_ID) is None


@pytest.mark.requirement("trap-inherited-name")
def test_gateway_declared_again_does_not_inherit_enrolled_keys(registry: Registry) -> None:
    registry.apply(*small_set())
    code = asyncio.run(registry.enrolment.create_code("demo", "local:0", int(registry.clock())))
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }
    assert asyncio.run(registry.enrolment.consume_code(code, jwk, int(registry.clock()))) == "demo"
    registry.apply(delete=(("Gateway", "demo"),))
    registry.apply(*small_set())
    assert registry.enrolment.enrolled() == ()


def test_apply_without_a_writable_database_stores_nothing(registry: Registry) -> None:
    plan = registry.plan(*small_set())
    registry.database._writer.close()
    with pytest.raises(DatabaseError):
        registry.carry_out(plan)
    assert registry.store.list() == ()
