"""What a decision may be remembered by."""

from dataclasses import replace
from typing import Any

import pytest

from policies.entities import CallRequest, ToolFacts
from policies.remember import DAY_MS
from policies.schema import ServerCatalogue
from tests.policies.story import (
    ALICE,
    BOB,
    BOT,
    RUN,
    THURSDAY_NOON_MS,
    call,
    compiled,
    inputs,
    story,
)

WRITE = 'principal, action in Action::"call_write", resource'
REFUND = 'principal, action == Action::"crm/refund", resource'


def keys(condition: str, *calls: CallRequest, scope: str = REFUND) -> list[Any]:
    """The keys of calls under one guard with this condition."""
    policies = compiled(f'@id("a") forbid ({scope}) when {{ {condition} }};')
    return [policies.decision_key(each) for each in calls]


AMOUNT = "context.input has amount && context.input.amount < 5"


@pytest.mark.requirement("trap-decision-key")
def test_argument_that_is_read_is_in_the_key_and_another_is_not() -> None:
    one, same, other = keys(
        AMOUNT,
        call("refund", {"amount": 1, "note": "a"}),
        call("refund", {"amount": 1, "note": "b"}),
        call("refund", {"amount": 2, "note": "a"}),
    )
    assert one == same
    assert one != other


@pytest.mark.requirement("trap-decision-key")
@pytest.mark.parametrize(
    "values",
    [
        [1, 1.0, True, "1", [1], {"a": 1}, None, "absent"],
        [0, 0.0, False, "", [], {}, None],
        ["x" * 64, "x" * 65, "x" * 66, ["x" * 64], '["x"]', ["x"]],
        [["a", "b"], ["b", "a"], ["ab"], [["a", "b"]]],
        [{"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2.0}, {"a": True, "b": 2}],
    ],
)
def test_values_of_different_types_are_told_apart(values: list[object]) -> None:
    found = keys(AMOUNT, call("refund"), *(call("refund", {"amount": each}) for each in values))
    assert len(set(found)) == len(values) + 1
    assert None not in found


def test_order_of_members_does_not_matter() -> None:
    one, other = keys(
        AMOUNT,
        call("refund", {"amount": {"a": 1, "b": 2}}),
        call("refund", {"amount": {"b": 2, "a": 1}}),
    )
    assert one == other


def test_long_values_enter_as_digests() -> None:
    (long,) = keys(AMOUNT, call("refund", {"amount": "x" * 100_000}))
    assert len(repr(long)) < 1_000


def test_value_that_cannot_be_written_down_is_not_remembered() -> None:
    assert keys(AMOUNT, call("refund", {"amount": "\ud800" * 65})) == [None]


@pytest.mark.parametrize(
    ("condition", "same", "different"),
    [
        (
            'context.args.hasTag("/to")',
            [{"to": "a", "x": 1}, {"to": "a"}],
            [{"to": "b"}, {"to": 1}, {}],
        ),
        (
            'context.args.hasTag("/to/0")',
            [{"to": ["a", "b"]}, {"to": ["a", "c"]}],
            [{"to": ["b"]}, {"to": []}],
        ),
        ("context.args.unmapped.isEmpty()", [{"x": 1}, {"x": 1}], [{"x": 2}, {"y": 1}, {}]),
        ("context.args.hasTag(principal.method)", [{"x": 1}, {"x": 1}], [{"x": 2}, {}]),
    ],
)
def test_pointers_that_are_read_are_in_the_key(
    condition: str, same: list[dict[str, object]], different: list[dict[str, object]]
) -> None:
    calls = [call("refund", each) for each in [*same, *different]]
    found = keys(condition, *calls, scope=WRITE)
    assert found[0] == found[1]
    assert len(set(found)) == 1 + len(different)


def test_whole_input_that_is_read_is_in_the_key() -> None:
    one, other, again = keys(
        "context.input == context.input",
        call("refund", {"amount": 5}),
        call("refund", {"amount": 5, "note": "a"}),
        call("refund", {"amount": 5}),
    )
    assert one != other
    assert one == again


def test_nested_argument_is_followed_to_what_is_read() -> None:
    target = inputs(env={"type": "string"}, region={"type": "string"})
    server = ServerCatalogue("deploy", (), (("rollout", inputs(target=target), False, 0),))
    policies = compiled(
        '@id("a") permit (principal, action == Action::"deploy/rollout", resource)'
        ' when { context.input has target.env && context.input.target.env == "staging" };',
        servers=(server,),
    )
    found = [
        policies.decision_key(call("rollout", {"target": each}, server=server))
        for each in (
            {"env": "staging", "region": "eu"},
            {"env": "staging", "region": "us"},
            {"env": "production"},
            {},
            "staging",
        )
    ]
    assert len(set(found)) == 5  # `has target.env` also reads target as a whole


@pytest.mark.parametrize(
    ("condition", "changes"),
    [
        ("context.run has session", {"session": "ses_2"}),
        ("context.run has invocation", {"invocation": "inv_2"}),
        ("context.run has transaction", {"transaction": "txn_2"}),
        ("context.run has purpose", {"purpose": "x"}),
        ("context.run has ticket", {"ticket": "x"}),
        ("context.run.chain_depth == 1", {"chain": ("x",)}),
        ("context.run.chain.isEmpty()", {"chain": ("x",)}),
        ("context.run.chain_groups.isEmpty()", {"chain_groups": ("x",)}),
        ('context.run.declared.hasTag("task")', {"declared": {"task": "x"}}),
        ("context.run.declared.hasTag(principal.method)", {"declared": {"other": "x"}}),
    ],
)
def test_part_of_the_run_is_in_the_key_exactly_when_it_is_read(
    condition: str, changes: dict[str, Any]
) -> None:
    policies = compiled(f'@id("a") forbid ({WRITE} in McpServer::"crm") when {{ {condition} }};')
    changed = call("refund", run=replace(RUN, **changes))
    assert policies.decision_key(call("refund")) != policies.decision_key(changed)
    assert compiled().decision_key(call("refund")) == compiled().decision_key(changed)


def test_declared_key_that_is_not_read_is_not_in_the_key() -> None:
    one, other = keys(
        'context.run.declared.hasTag("task") && context.run.declared.getTag("task") == "x"',
        call("refund", run=replace(RUN, declared={"task": "x", "step": "1"})),
        call("refund", run=replace(RUN, declared={"task": "x", "step": "2"})),
        scope=WRITE,
    )
    assert one == other is not None


@pytest.mark.parametrize(
    "changed",
    [
        call("list_hours"),
        call("refund", user=BOB),
        call("refund", user=None),
        call("refund", user=replace(ALICE, acr="mfa")),
        call("refund", agent=replace(BOT, level=2)),
        call("refund", agent=replace(BOT, groups=())),
    ],
)
def test_agent_user_and_tool_are_always_in_the_key(changed: CallRequest) -> None:
    assert compiled().decision_key(call("refund")) != compiled().decision_key(changed)


def test_version_of_the_set_is_in_the_key() -> None:
    key = compiled().decision_key(call("refund"))
    assert isinstance(key, tuple)
    assert key[0] == 7


@pytest.mark.requirement("trap-decision-key")
@pytest.mark.parametrize(
    "condition",
    [
        'context.run.clock.now.toTime() > duration("9h")',
        "context.run.clock == context.run.clock",
        "context.run == context.run",
        "context == context",
    ],
)
def test_slice_that_reads_the_raw_clock_is_not_remembered(condition: str) -> None:
    assert keys(condition, call("refund"), scope=WRITE) == [None]
    policies = compiled(f'@id("a") forbid ({WRITE}) when {{ {condition} }};')
    assert policies.decision_valid_until_ms(call("refund")) is None


def test_policy_that_does_not_apply_does_not_keep_from_remembering() -> None:
    text = '@id("a") forbid (principal, action == Action::"crm/list_hours", resource)'
    policies = compiled(text + ' when { context.run.clock.now > datetime("2024-01-01") };')
    assert policies.decision_key(call("refund")) is not None
    assert policies.decision_key(call("list_hours")) is None


def test_weekday_is_remembered_until_its_midnight() -> None:
    policies = compiled(
        f'@id("a") forbid ({WRITE}) when {{ context.run.clock.weekday_utc == "fri" }};'
    )
    now, later = call("refund"), call("refund", now_ms=THURSDAY_NOON_MS + 60_000)
    midnight = THURSDAY_NOON_MS + DAY_MS // 2
    friday = call("refund", now_ms=midnight)
    assert policies.decision_key(now) == policies.decision_key(later)
    assert policies.decision_key(now) != policies.decision_key(friday)
    assert policies.decision_valid_until_ms(now) == midnight
    assert policies.decision_valid_until_ms(replace(now, now_ms=midnight - 1)) == midnight
    assert policies.decision_valid_until_ms(friday) == midnight + DAY_MS


def test_weekday_that_is_not_read_is_not_in_the_key() -> None:
    tomorrow = call("refund", now_ms=THURSDAY_NOON_MS + DAY_MS)
    assert compiled().decision_key(call("refund")) == compiled().decision_key(tomorrow)


def test_decision_that_time_plays_no_part_in_does_not_end_by_itself() -> None:
    assert story().decision_valid_until_ms(call("refund")) is None
    assert story().decision_key(call("refund")) is not None


def test_decision_on_an_unknown_tool_is_not_remembered() -> None:
    unknown = replace(call("refund"), tool=ToolFacts("crm", "nothing"))
    assert story().decision_key(unknown) is None
    assert story().decision_valid_until_ms(unknown) is None
