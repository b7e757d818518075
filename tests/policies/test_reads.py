from typing import get_args

import cedarpy
import pytest
from cedarpy import pst

from policies.reads import reads_arguments, reads_of


def expression(condition: str) -> pst.Expr:
    text = f"permit (principal, action, resource) when {{ {condition} }};"
    (policy,) = cedarpy.policies_to_pst(text).static_policies.values()
    return policy.clauses[0].expr


def paths(condition: str) -> set[str]:
    found = reads_of([expression(condition)])
    assert found.opaque == ()
    return {".".join(path) for path in found.paths}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("true", set()),
        ('1 == 2 && "a" like "b*"', set()),
        ("principal == resource", {"principal", "resource"}),
        ("principal.level > 1", {"principal.level"}),
        ("context.input.amount < 5", {"context.input.amount"}),
        ('context["input"]["odd name"] == 1', {"context.input.odd name"}),
        ("context.input has amount", {"context.input.amount"}),
        ("context.input has a.b", {"context.input.a", "context.input.a.b"}),
        ("context has input", {"context.input"}),
        ("context.run has user", {"context.run.user"}),
        ('context.run.user == User::"u"', {"context.run.user"}),
        ('context.run.user in Group::"g"', {"context.run.user.groups"}),
        ('context.run.user is User in Group::"g"', {"context.run.user.groups"}),
        ("context.run.user is User", {"context.run.user"}),
        ('principal in AgentGroup::"g"', {"principal"}),
        ("principal in context.run.chain_groups", {"principal", "context.run.chain_groups"}),
        ("principal is Agent in context.run.chain", {"principal", "context.run.chain"}),
        ('context.run.user in [Group::"a", principal]', {"context.run.user.groups", "principal"}),
        ('context.args.hasTag("/to")', {"context.args.[/to]"}),
        ('context.args.getTag("/to").str == "x"', {"context.args.[/to].str"}),
        ('context.args.getTag("/to") has str', {"context.args.[/to].str"}),
        (
            "context.args.hasTag(context.input.key)",
            {"context.args", "context.input.key"},
        ),
        (
            'context.args.getTag(context.input.key) == "x"',
            {"context.args", "context.input.key"},
        ),
        ("context.run.clock.now.toTime() > duration(principal.method)",
            {"context.run.clock.now", "principal.method"}),
        ('context.input.to like "*@example.com"', {"context.input.to"}),
        ("[context.input.a, 1].contains(context.input.b)", {"context.input.a", "context.input.b"}),
        ("{x: context.input.a} == {x: 1}", {"context.input.a"}),
        (
            "if context.input.a then context.input.b else context.input.c",
            {"context.input.a", "context.input.b", "context.input.c"},
        ),
        ("!(context.input.a || context.input.b)", {"context.input.a", "context.input.b"}),
        ("-context.input.a == 1", {"context.input.a"}),
        ("context == context", {"context"}),
    ],
)  # fmt: skip
def test_every_read_is_found(condition: str, expected: set[str]) -> None:
    assert paths(condition) == expected


@pytest.mark.parametrize(
    "condition",
    [
        "{x: 1}.x == 1",
        "{x: principal} has x",
        '(if true then principal else principal) in AgentGroup::"g"',
        '(if true then context.run.user else context.run.user) is User in Group::"g"',
        "(if true then principal else principal).level == 1",
        "(if true then principal else principal) is Agent",
        'User::"u" in Group::"g"',
        'Agent::"a".level == 1',
        '(if true then context.args else context.args).hasTag("/x")',
        '(if true then context.args else context.args).getTag("/x").str == ""',
        "(if true then context.args else context.args).hasTag(principal.method)",
        '[context.run.user] in Group::"g"',
        '(if true then context.args else context.args).getTag("/x") == 1',
    ],
)
def test_read_that_cannot_be_followed_is_opaque(condition: str) -> None:
    opaque = reads_of([expression(condition)]).opaque
    assert opaque
    assert None not in opaque


def test_node_the_walk_does_not_know_is_opaque() -> None:
    assert reads_of([pst.Slot("principal")]).opaque == (pst.Slot("principal"),)


def test_every_kind_of_expression_of_this_engine_is_known() -> None:
    inner = pst.BoolLit(value=True)
    samples: dict[type, pst.Expr] = {
        pst.Var: pst.Var("principal"),
        pst.BoolLit: inner,
        pst.LongLit: pst.LongLit(1),
        pst.StringLit: pst.StringLit(""),
        pst.EntityLit: pst.EntityLit(pst.EntityUid(pst.EntityType("A"), "a")),
        pst.UnaryOp: pst.UnaryOp("not", inner),
        pst.BinaryOp: pst.BinaryOp("and", inner, inner),
        pst.GetAttr: pst.GetAttr(pst.Var("context"), "a"),
        pst.HasAttr: pst.HasAttr(pst.Var("context"), ("a",)),
        pst.Like: pst.Like(inner, ()),
        pst.Is: pst.Is(pst.Var("principal"), pst.EntityType("A"), None),
        pst.IfThenElse: pst.IfThenElse(inner, inner, inner),
        pst.Set: pst.Set((inner,)),
        pst.Record: pst.Record(pst.FrozenMap({"a": inner})),
    }
    assert set(get_args(pst.Expr)) == {*samples, pst.Slot}
    assert reads_of(samples.values()).opaque == ()


@pytest.mark.parametrize(
    ("condition", "blind"),
    [
        ("context.input has a", True),
        ('context.args.hasTag("/x")', True),
        ("context.args.unmapped.isEmpty()", True),
        ("context == context", True),
        ("principal.level == 1 || context.input.a == 1", True),
        ("context.run has user", False),
        ("context has grant && context.grant.ttl > 1", False),
        ("principal.level == 1", False),
    ],
)
def test_condition_on_arguments_is_known_before_the_call(condition: str, *, blind: bool) -> None:
    assert reads_arguments(expression(condition)) is blind
