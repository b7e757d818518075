"""What the conditions of a policy see of a call."""

from dataclasses import replace

import pytest

from policies.decide import Code
from policies.entities import RunFacts, UserFacts
from tests.policies.story import (
    NOTES,
    RUN,
    call,
    compiled,
)

ALLOW = '@id("allow") permit (principal, action, resource);'
REFUND = 'principal, action == Action::"crm/refund", resource'


def decided_when(condition: str, **changes: object) -> bool:
    """Whether a call of crm/refund is allowed by one grant with this condition."""
    policies = compiled(f'@id("a") permit ({REFUND}) when {{ {condition} }};')
    asked = replace(call("refund", {"amount": 5, "note": "n"}), **changes)  # type: ignore[arg-type]
    decision = policies.decide_call(asked)
    assert decision.code in (Code.ALLOWED, Code.NO_PERMIT)
    return decision.allowed


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('principal == Agent::"support-bot"', True),
        ('principal in AgentGroup::"support-agents"', True),
        ('principal in AgentGroup::"others"', False),
        ('principal.environment == "demo"', True),
        ("principal.level == 1", True),
        ('principal.method == "unix_process"', True),
        ('resource == Tool::"crm/refund" && resource in McpServer::"crm"', True),
        ('resource.name == "refund" && !resource.read_only && resource.sensitivity == 2', True),
        ('context.run has user && context.run.user == User::"usr_alice"', True),
        ('context.run has user && context.run.user in Group::"local/staff"', True),
        ('context.run has user && context.run.user in Group::"local/other"', False),
        ('context.run has user && context.run.user has acr && context.run.user.acr == "pwd"', True),
        (
            """context.run has user && context.run.user has auth_time &&
            context.run.user.auth_time == datetime("2023-11-14T22:13:20Z")""",
            True,
        ),
        ('context.run has session && context.run.session == "ses_1"', True),
        ('context.run has invocation && context.run.invocation == "inv_1"', True),
        ('context.run has transaction && context.run.transaction == "txn_1"', True),
        ("context.run has purpose", False),
        ("context.run has ticket", False),
        ("context.run.chain_depth == 0 && context.run.chain.isEmpty()", True),
        ('context.run.clock.now == datetime("2025-11-20T12:00:00.000Z")', True),
        ('context.run.clock.now.toTime() >= duration("12h")', True),
        ('context.run.clock.weekday_utc == "thu"', True),
        ('context.input has note && context.input.note == "n"', True),
        ("context.input has nothing", False),
        (
            """context.args.hasTag("/amount") && context.args.getTag("/amount") has int &&
            context.args.getTag("/amount").int == 5""",
            True,
        ),
        ('context.args.hasTag("/other")', False),
        ("context.args.unmapped.isEmpty()", True),
    ],
)
def test_condition_sees_the_request(condition: str, *, holds: bool) -> None:
    assert decided_when(condition) is holds


def test_condition_sees_the_whole_run() -> None:
    run = RunFacts(
        chain=("planner", "router"),
        chain_groups=("planners",),
        purpose="case-handling",
        ticket="T-4711",
    )
    condition = """context.run.chain_depth == 2 && context.run.chain.contains(Agent::"router") &&
        context.run.chain_groups.contains(AgentGroup::"planners") && !(context.run has session) &&
        !(context.run has invocation) && !(context.run has transaction) &&
        context.run has purpose && context.run.purpose == "case-handling" &&
        context.run has ticket && context.run.ticket == "T-4711" """
    assert decided_when(condition, run=run)
    assert not decided_when(condition)


def test_attributes_the_token_does_not_carry_are_absent() -> None:
    bare = UserFacts("usr_alice")
    user = "context.run has user && "
    assert decided_when(user + "!(context.run.user has acr)", user=bare)
    assert decided_when(user + "!(context.run.user has auth_time)", user=bare)
    assert not decided_when(user + 'context.run.user in Group::"local/staff"', user=bare)
    epoch = replace(bare, auth_time=0)
    assert decided_when(user + "context.run.user has auth_time", user=epoch)


def test_guard_may_read_what_the_agent_declares() -> None:
    policies = compiled(
        ALLOW,
        """@id("guard") forbid (principal, action, resource) unless {
            context.run.declared.hasTag("task") && context.run.declared.getTag("task") == "support"
        };""",
    )
    declared = replace(RUN, declared={"task": "support"})
    assert policies.decide_call(call("refund", run=declared)).allowed
    assert not policies.decide_call(
        call("refund", run=replace(RUN, declared={"task": "x"}))
    ).allowed
    assert not policies.decide_call(call("refund")).allowed


def test_guard_may_deny_what_could_not_be_typed() -> None:
    policies = compiled(
        ALLOW,
        '@id("guard") forbid (principal, action in Action::"call_tool", resource)'
        " unless { context.args.unmapped.isEmpty() };",
    )
    assert policies.decide_call(call("refund", {"amount": 5, "note": None})).allowed
    assert not policies.decide_call(call("refund", {"amount": 5, "extra": 1})).allowed
    assert not policies.decide_call(call("refund", {"amount": 5.5})).allowed


def test_guard_may_name_an_unmapped_pointer() -> None:
    policies = compiled(
        ALLOW,
        '@id("guard") forbid (principal, action in Action::"call_tool", resource)'
        ' when { context.args.unmapped.contains("/extra") };',
    )
    assert policies.decide_call(call("refund", {"other": 1})).allowed
    assert not policies.decide_call(call("refund", {"extra": 1})).allowed


def test_rule_over_many_tools_reads_arguments_by_pointer() -> None:
    policies = compiled(
        ALLOW,
        '@id("guard") forbid (principal, action in Action::"call_tool", resource)'
        ' when { context.args.hasTag("/to/*") && context.args.getTag("/to/*") has set &&'
        ' context.args.getTag("/to/*").set.contains("evil") };',
    )
    assert policies.decide_call(call("refund", {"to": ["good"]})).allowed
    assert not policies.decide_call(call("search", {"to": ["good", "evil"]}, server=NOTES)).allowed


def test_tag_with_a_computed_pointer_is_found() -> None:
    policies = compiled(
        ALLOW,
        f'@id("guard") forbid ({REFUND}) when {{'
        " context.input has note && context.args.hasTag(context.input.note) };",
    )
    assert policies.decide_call(call("refund", {"note": "/x"})).allowed
    assert not policies.decide_call(call("refund", {"note": "/x", "x": 1})).allowed


def test_policy_that_reads_the_whole_input_gets_all_of_it() -> None:
    policies = compiled(f'@id("a") permit ({REFUND}) when {{ context == context }};')
    assert policies.decide_call(call("refund", {"amount": 5, "note": "n"})).allowed
    everything = compiled(
        f"""@id("a") permit ({REFUND}) when {{ context.input == context.input }};
        @id("g") forbid ({REFUND}) unless {{ context.input has note }};"""
    )
    assert everything.decide_call(call("refund", {"amount": 5, "note": "n"})).allowed
    assert not everything.decide_call(call("refund", {"amount": 5})).allowed


def test_more_arguments_than_can_be_judged_are_refused_only_where_all_are_read() -> None:
    many: dict[str, object] = {str(n): n for n in range(10_001)}
    reads_all = (
        '@id("g") forbid (principal, action in Action::"call_tool", resource) when {{ {} }};'
    )
    computed = reads_all.format("context.args.hasTag(principal.method)")
    assert compiled(ALLOW).decide_call(call("refund", many)).allowed
    assert compiled(ALLOW, computed).decide_call(call("refund", many)).code == "request_invalid"
