"""Explanations: the policies with their lines, what failed, and changes that were tried."""

from dataclasses import replace

import pytest

from policies.entities import CallRequest
from policies.explain import MAXIMUM_NEAR, PolicyNote, explain_call
from tests.policies.story import (
    ALICE,
    BOB,
    BOT,
    CRM,
    RUN,
    TEXT,
    call,
    compiled,
    inputs,
    story,
)

STRANGER = replace(BOT, name="other-bot", groups=())


def changes(request: CallRequest, *cedar: str) -> tuple[str, ...] | None:
    return explain_call(compiled(*cedar) if cedar else story(), request).changes


def grant(condition: str, tool: str = "crm/refund") -> str:
    return (
        f'@id("grant") permit (principal, action == Action::"{tool}", resource)'
        f" when {{ {condition} }};"
    )


def guard(condition: str) -> str:
    return f'@id("guard") forbid (principal, action == Action::"crm/refund", resource) {condition};'


ALWAYS = grant("true")


def test_allowed_call_names_the_grant_with_document_line_and_conditions() -> None:
    found = explain_call(story(), call("refund", {"amount": 100}))

    assert found.decision.allowed
    (note,) = found.decided_by
    assert (note.id, note.document, note.line, note.is_grant) == ("grant-refund", "story", 13, True)
    assert "context.input.amount > 0" in note.conditions
    assert (found.nearest, found.changes) == ((), None)


def test_guard_that_forbids_is_named_with_its_line_and_condition() -> None:
    found = explain_call(story(), call("refund", {"amount": 900}))

    (note,) = found.decided_by
    assert (note.id, note.line, note.is_grant) == ("guard-refund-limit", 23, False)
    assert note.conditions[0].startswith("unless ")
    assert found.changes == ("the argument amount is at most 500",)


def test_missing_group_is_the_smallest_change_for_bob() -> None:
    found = explain_call(story(), call("get_account", {"id": 17}, user=BOB))

    assert found.decided_by == ()
    assert found.nearest == (
        PolicyNote(
            "grant-support-read",
            "story",
            2,
            True,
            ('context.run.user in Group::"local/support"',),
        ),
    )
    assert found.changes == ("the person is in local/support",)


def test_two_things_that_are_wrong_are_two_changes() -> None:
    request = call("refund", {"amount": 900}, user=BOB)
    assert changes(request) == (
        "the argument amount is at most 500",
        "the person is in local/support",
    )


def test_grant_for_other_agents_is_near_and_joining_their_group_a_change() -> None:
    found = explain_call(story(), call("get_account", {"id": 17}, agent=STRANGER))

    (note,) = found.nearest
    assert (note.id, note.scope) == ("grant-support-read", "for AgentGroup support-agents")
    assert note.conditions == ()
    assert found.changes == ("other-bot is in the agent group support-agents",)


def test_what_a_grant_for_this_agent_lacks_is_proposed_before_another_group_of_agents() -> None:
    others = (
        '@id("a") permit (principal in AgentGroup::"others", action == Action::"crm/refund",'
        " resource);"
    )
    ours = grant('context.run has user && context.run.user in Group::"local/vip"')
    assert changes(call("refund"), others, ours) == ("the person is in local/vip",)


def test_grant_for_one_other_agent_is_near_and_no_change_makes_it_ours() -> None:
    found = explain_call(
        compiled(
            '@id("theirs") permit (principal == Agent::"their-bot", '
            'action == Action::"crm/refund", resource);'
        ),
        call("refund"),
    )
    assert [note.scope for note in found.nearest] == ["for Agent their-bot"]
    assert found.changes is None


def test_grant_for_a_type_that_is_not_ours_says_so() -> None:
    found = explain_call(
        compiled(
            '@id("g") permit (principal is Agent in AgentGroup::"x", '
            'action == Action::"crm/refund", resource);'
        ),
        call("refund"),
    )
    assert [note.scope for note in found.nearest] == ["for AgentGroup x"]
    assert found.changes == ("support-bot is in the agent group x",)


def test_tool_nobody_grants_has_nothing_near_and_no_change() -> None:
    found = explain_call(story(), call("delete_account", {"id": 1}))
    assert (found.nearest, found.changes) == ((), None)


def test_nearest_grants_are_few() -> None:
    many = [
        f'@id("g{n}") permit (principal == Agent::"bot{n}", action == Action::"crm/refund",'
        " resource);"
        for n in range(MAXIMUM_NEAR + 3)
    ]
    found = explain_call(compiled(*many), call("refund"))
    assert [note.id for note in found.nearest] == [f"g{n}" for n in range(MAXIMUM_NEAR)]


def test_request_that_cannot_be_judged_has_no_change() -> None:
    assert (
        changes(replace(call("refund"), tool=replace(call("refund").tool, sensitivity=3))) is None
    )


@pytest.mark.parametrize(
    ("condition", "arguments", "expected"),
    [
        ("context.input has amount && context.input.amount < 10", {"amount": 50},
         "the argument amount is less than 10"),
        ("context.input has amount && context.input.amount >= 10", {"amount": 5},
         "the argument amount is at least 10"),
        ("context.input has amount && context.input.amount > 10", {"amount": 5},
         "the argument amount is more than 10"),
        ("context.input has amount && 10 > context.input.amount", {"amount": 50},
         "the argument amount is less than 10"),
        ("context.input has amount && 10 <= context.input.amount", {},
         "the argument amount is at least 10"),
        ("context.input has amount && !(context.input.amount > 10)", {"amount": 50},
         "the argument amount is at most 10"),
        ('context.input has note && context.input.note == "x"', {"note": "y"},
         "the argument note is x"),
        ('context.input has note && !(context.input.note != "x")', {"note": 7},
         "the argument note is x"),
        ('context.input has note && ["a", "b"].contains(context.input.note)', {"note": "y"},
         "the argument note is a"),
        ("!(context.input has note)", {"note": "y"}, "the argument note is not given"),
        ('context.run has user && context.run.user in [Group::"local/x", Group::"local/y"]',
         {}, "the person is in local/x"),
        ('context.run has user && !(context.run.user in Group::"local/staff")', {},
         "the person is not in local/staff"),
        ('principal in AgentGroup::"other"', {}, "support-bot is in the agent group other"),
        ("principal.level >= 2", {}, "the level of the agent's attestation is at least 2"),
        ('principal.environment == "prod"', {}, "the agent's environment is prod"),
        ('context.run has purpose && context.run.purpose == "case"', {},
         "the run's purpose is case"),
        ('context.run has user && context.run.user has acr && context.run.user.acr == "phr"', {},
         "the person's login (acr) is phr"),
        ("(context.input has amount && context.input.amount > 10) || principal.level >= 3", {},
         "the argument amount is more than 10"),
    ],
)  # fmt: skip
def test_condition_of_a_grant_is_solved_by_one_change(
    condition: str, arguments: dict[str, object], expected: str
) -> None:
    assert changes(call("refund", arguments), grant(condition)) == (expected,)


@pytest.mark.parametrize(
    ("condition", "arguments", "expected"),
    [
        ("when { context.input has amount && context.input.amount > 500 }", {"amount": 900},
         "the argument amount is at most 500"),
        ("when { context.input has note }", {"note": "x"}, "the argument note is not given"),
        ('unless { context.run has ticket && context.run.ticket == "T" }', {},
         "the run's ticket is T"),
        ('when { context.run has user && context.run.user in Group::"local/staff" }', {},
         "the person is not in local/staff"),
        ("when { principal.level < 2 }", {}, "the level of the agent's attestation is at least 2"),
    ],
)  # fmt: skip
def test_guard_is_satisfied_by_one_change(
    condition: str, arguments: dict[str, object], expected: str
) -> None:
    assert changes(call("refund", arguments), ALWAYS, guard(condition)) == (expected,)


def test_decimal_bounds_are_met_exactly() -> None:
    server = replace(CRM, tools=(("pay", inputs(sum={"type": "number"}, note=TEXT), False, 0),))
    condition = 'context.input has sum && context.input.sum.lessThan(decimal("10.5"))'
    policies = compiled(grant(condition, "crm/pay"), servers=(server,))
    request = call("pay", {"sum": 20.0}, server=server)

    assert explain_call(policies, request).changes == ("the argument sum is less than 10.5",)
    held = replace(request, arguments={"sum": 10.25})
    assert explain_call(policies, held).decision.allowed


@pytest.mark.parametrize(
    "condition",
    [
        'context.input has note && context.input.note like "a*"',
        'context.run.clock.weekday_utc == "sun"',
        "context.input has amount && context.input.amount != 5",
        'context.run.chain.contains(Agent::"x")',
        "if principal.level > 5 then true else false",
        "context.run.chain_depth > 3",
        'principal in [AgentGroup::"a"] && !(principal in AgentGroup::"a")',
        'context.input has note && !(context.input.note == "y")',
        "principal in context.run.chain_groups",
        (
            'context.input has note && ["a"].contains(context.input.note) && '
            "context.run.chain_depth > 3"
        ),
        "context.input has amount && context.input.amount >= 1 && context.run.chain_depth > 3",
        (
            'context.run has user && context.run.user in Group::"local/staff" && '
            "context.run.chain_depth > 3"
        ),
        "context.input has amount && context.input.amount + 1 < context.input.amount",
        "context.input has amount && !([1, 2].contains(context.input.amount)) && false",
    ],
)
def test_condition_nobody_can_solve_yields_no_change(condition: str) -> None:
    arguments = {"amount": 5, "note": "y"}
    assert changes(call("refund", arguments), grant(condition)) is None


def test_agent_alone_gets_no_change_that_needs_a_person() -> None:
    request = call("get_account", {"id": 1}, user=None)
    assert changes(request) is None
    acr = grant('context.run has user && context.run.user has acr && context.run.user.acr == "x"')
    assert changes(call("refund", user=None), acr) is None


def test_argument_that_is_right_already_is_not_proposed() -> None:
    request = call("refund", {"amount": 900}, user=replace(ALICE, groups=None), run=RUN)
    found = changes(request)
    assert found == ("the argument amount is at most 500", "the person is in local/support")


def test_change_that_two_grants_ask_for_is_tried_once() -> None:
    half = 'context.run has ticket && context.run.ticket == "T" && principal.level >= 3'
    twice = [
        f'@id("{name}") permit (principal, action == Action::"crm/refund", resource)'
        f" when {{ {half} }};"
        for name in ("one", "two")
    ]
    assert changes(call("refund"), *twice) == (
        "the run's ticket is T",
        "the level of the agent's attestation is at least 3",
    )


def test_search_ends_at_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.explain.MAXIMUM_DECISIONS", 1)
    assert changes(call("refund", {"amount": 900}, user=BOB)) is None
    monkeypatch.setattr("policies.explain.MAXIMUM_DECISIONS", 400)
    monkeypatch.setattr("policies.explain.MAXIMUM_CHANGES", 1)
    assert changes(call("refund", {"amount": 900}, user=BOB)) is None
