"""A remembered decision is the decision; a slice and a cut request decide as the whole would."""

from dataclasses import replace
from typing import Any, Final

import cedarpy
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.decide import Code, CompiledPolicySet
from policies.entities import AgentFacts, CallRequest, RunFacts, UserFacts
from policies.requests import ArgumentNeeds, call_request
from policies.schema import ServerCatalogue, typed_tools
from tests.policies.story import SERVERS, THURSDAY_NOON_MS, compiled, tool

EVERYTHING: Final = ArgumentNeeds(None, None, unmapped=True)

# Conditions over everything a policy can read; each is valid on any tool of the catalogue.
CONDITIONS: Final[tuple[str, ...]] = (
    "true",
    "principal.level > 1",
    'principal in AgentGroup::"support-agents"',
    "context.run has user",
    'context.run has user && context.run.user in Group::"local/support"',
    'context.run has user && context.run.user has acr && context.run.user.acr == "pwd"',
    "context.run.chain_depth > 1",
    'context.run.chain.contains(Agent::"support-bot")',
    'context.run.chain_groups.contains(AgentGroup::"support-agents")',
    'context.run has ticket && context.run.ticket like "T-*"',
    'context.run has session && context.run.session == "ses_1"',
    'context.run.clock.weekday_utc == "thu"',
    'context.run.clock.now > datetime("2025-11-20T18:00:00Z")',
    'context.args.hasTag("/amount")',
    """context.args.hasTag("/amount") && context.args.getTag("/amount") has int &&
    context.args.getTag("/amount").int > 1""",
    """context.args.hasTag("/note/*") && context.args.getTag("/note/*") has set &&
    context.args.getTag("/note/*").set.contains("a")""",
    'context.args.hasTag("/note/0") && context.args.getTag("/note/0") has str',
    "context.args.hasTag(principal.method)",
    "context.args.unmapped.isEmpty()",
    'context.args.unmapped.contains("/note")',
    "context.input has amount",
    "context.input == context.input",
    f"context.run.chain_depth + {2**63 - 1} > 0",
)  # fmt: skip
REFUND_CONDITIONS: Final = (
    "context.input has amount && context.input.amount > 1",
    'context.input has note && context.input.note == "a"',
    "context has input && context.input has note",
)
GUARD_CONDITIONS: Final = (
    'context.run.declared.hasTag("task") && context.run.declared.getTag("task") == "a"',
    "context.run.declared.hasTag(principal.method)",
)
SCOPES: Final = (
    'principal, action in Action::"call_tool", resource',
    'principal, action in Action::"call_write", resource in McpServer::"crm"',
    'principal in AgentGroup::"support-agents", action in Action::"call_tool", resource is Tool',
    'principal == Agent::"support-bot", action == Action::"crm/refund", resource',
)
REFUND_SCOPE: Final = 'principal, action == Action::"crm/refund", resource == Tool::"crm/refund"'
PERMISSIVE: Final = ServerCatalogue("notes", SERVERS[0].person_attributes, SERVERS[1].tools)


@st.composite
def policy_sets(draw: st.DrawFn) -> CompiledPolicySet:
    """Sets of a few grants and guards, the guards with and without remedies."""
    policies = []
    for number in range(draw(st.integers(1, 5))):
        is_grant = draw(st.booleans())
        scope = draw(st.sampled_from((*SCOPES, REFUND_SCOPE)))
        conditions: tuple[str, ...] = CONDITIONS
        conditions += REFUND_CONDITIONS if scope == REFUND_SCOPE else ()
        conditions += () if is_grant else GUARD_CONDITIONS
        clauses = " ".join(
            f"{draw(st.sampled_from(('when', 'unless')))} {{ {draw(st.sampled_from(conditions))} }}"
            for _ in range(draw(st.integers(0, 3)))
        )
        remedy = "" if is_grant or draw(st.booleans()) else '@remedy("approval:x") '
        effect = "permit" if is_grant else "forbid"
        policies.append(f'@id("p{number}") {remedy}{effect} ({scope}) {clauses};')
    return compiled("\n".join(policies), servers=(SERVERS[0], PERMISSIVE))


VALUES: Final = st.sampled_from(
    [0, 1, 2, 1.0, 0.5, True, None, "a", "", ["a"], ["a", 1], [], {"a": 1}, 2**63, "x" * 100]
)
ARGUMENTS: Final = st.dictionaries(st.sampled_from(["amount", "note", "extra"]), VALUES, max_size=3)
NAMES: Final = st.sampled_from(["support-bot", "planner"])
GROUPS: Final = st.lists(st.sampled_from(["support-agents", "planners"]), max_size=2, unique=True)


@st.composite
def calls(draw: st.DrawFn) -> CallRequest:
    """Calls that differ in everything a condition can read."""
    user = UserFacts(
        draw(st.sampled_from(["usr_a", "usr_b"])),
        draw(st.sampled_from([None, (), ("local/support",)])),
        draw(st.sampled_from([None, "pwd", "mfa"])),
    )
    run = RunFacts(
        session=draw(st.sampled_from([None, "ses_1", "ses_2"])),
        chain=tuple(draw(st.lists(NAMES, max_size=2))),
        chain_groups=tuple(draw(GROUPS)),
        ticket=draw(st.sampled_from([None, "T-1", "x"])),
        declared=draw(st.dictionaries(st.sampled_from(["task", "unix"]), st.sampled_from("ab"))),
    )
    name, server = draw(st.sampled_from([("refund", 0), ("list_hours", 0), ("search", 1)]))
    return CallRequest(
        AgentFacts(draw(NAMES), tuple(draw(GROUPS)), "demo", draw(st.integers(0, 3)), "unix"),
        user if draw(st.booleans()) else None,
        run,
        THURSDAY_NOON_MS + draw(st.integers(0, 2)) * 43_200_000,
        tool(name, SERVERS[server]),
        draw(ARGUMENTS),
    )


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[CallRequest, CallRequest]:
    """A call, and another that differs in a few parts, so that keys are often equal."""
    one, other = draw(calls()), draw(calls())
    parts = draw(st.sets(st.sampled_from(["agent", "user", "run", "now_ms", "arguments"])))
    changed: dict[str, Any] = {part: getattr(other, part) for part in parts}
    if draw(st.booleans()) and "arguments" in changed:
        changed["arguments"] = {**one.arguments, "extra": draw(VALUES)}
    return one, replace(one, **changed)


@settings(max_examples=400, deadline=None)
@given(policy_sets(), neighbours())
def test_cached_decision_equals_the_fresh_one_for_equal_keys(
    policies: CompiledPolicySet, pair: tuple[CallRequest, CallRequest]
) -> None:
    remembered, asked = pair
    key = policies.decision_key(remembered)
    until = policies.decision_valid_until_ms(remembered)
    if key is None or key != policies.decision_key(asked):
        return
    if until is not None and not remembered.now_ms <= asked.now_ms < until:
        return
    assert policies.decide_call(remembered) == policies.decide_call(asked)


@settings(max_examples=300, deadline=None)
@given(policy_sets(), calls())
def test_slice_of_the_set_and_of_the_arguments_decides_as_the_whole_does(
    policies: CompiledPolicySet, asked: CallRequest
) -> None:
    decision = policies.decide_call(asked)
    tools = typed_tools((SERVERS[0], PERMISSIVE))
    whole = cedarpy.PolicySet.from_pst(
        cedarpy.pst.PolicySet(
            templates=cedarpy.pst.FrozenMap(),
            static_policies=cedarpy.pst.FrozenMap(
                {each.id: each.template for each in policies.policies.values()}
            ),
            template_links=(),
        )
    )
    base = policies._parse_call_base(asked.agent, asked.user, asked.tool)
    full = call_request(asked, tools[asked.tool.id], base, EVERYTHING)
    answer = cedarpy.is_authorized(full.request, whole, full.entities, policies._schema)
    if decision.code == Code.REQUEST_INVALID:  # no policy could read what one looked at
        assert answer.allowed
        return
    assert decision.allowed is (answer.allowed and not answer.diagnostics.errors)
    if not answer.diagnostics.errors:
        assert set(decision.policies) == set(answer.diagnostics.reasons)
    else:
        assert decision.code == Code.POLICY_ERROR


@settings(max_examples=300, deadline=None)
@given(policy_sets(), calls())
def test_tool_hidden_from_a_list_is_not_callable(
    policies: CompiledPolicySet, asked: CallRequest
) -> None:
    shown = policies.visible(asked.agent, asked.user, asked.run, asked.now_ms, [asked.tool])
    if policies.decide_call(asked).allowed:
        assert shown == (asked.tool.id,)


@settings(max_examples=200, deadline=None)
@given(policy_sets(), calls())
def test_decision_says_either_allowed_or_a_category(
    policies: CompiledPolicySet, asked: CallRequest
) -> None:
    decision = policies.decide_call(asked)
    assert decision.allowed is (decision.code == "allowed")
    assert decision.allowed is (decision.category is None)
    assert decision.allowed is (decision.reasons == ())
    if decision.allowed:
        assert any(policies.policies[each].is_grant for each in decision.policies)
    if decision.remedies:
        assert all(policies.policies[each].remedy for each in decision.policies)
