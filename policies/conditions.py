"""The conditions of a policy one by one, and how people read them in the audit."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import cedarpy
from cedarpy import pst

# A string, kept as it is; or parentheses around a plain path that is no call's argument list.
_STRING_OR_PATH: Final = re.compile(r'"(?:[^"\\]|\\.)*"|(?<!\w)\(([\w.]+)\)', re.DOTALL)


def engine_set(policies: Iterable[pst.Template]) -> cedarpy.PolicySet:
    """Policies as the engine's set, under their own ids."""
    return cedarpy.PolicySet.from_pst(
        pst.PolicySet(
            templates=pst.FrozenMap(),
            static_policies=pst.FrozenMap({each.id: each for each in policies}),
            template_links=(),
        )
    )


def conjuncts(policy: pst.Template) -> tuple[pst.Clause, ...]:
    """The conditions of a policy one by one, in the order the engine evaluates them."""
    found: list[pst.Clause] = []
    for clause in policy.clauses:
        if isinstance(clause, pst.Unless):
            found.append(clause)
        else:
            found.extend(pst.When(each) for each in _conjoined(clause.expr))
    return tuple(found)


def _conjoined(expression: pst.Expr) -> Iterator[pst.Expr]:
    if isinstance(expression, pst.BinaryOp) and expression.op == "and":
        yield from _conjoined(expression.left)
        yield from _conjoined(expression.right)
    else:
        yield expression


def condition_text(clause: pst.Clause) -> str:
    """The Cedar text of one condition; one of an `unless` starts with that word."""
    policy = pst.Template(
        id="condition",
        effect="permit",
        principal=pst.ScopeAny(),
        action=pst.ScopeAny(),
        resource=pst.ScopeAny(),
        clauses=(clause,),
        annotations=pst.FrozenMap(),
    )
    written = str(engine_set([policy]))
    condition = written.partition("{ ")[2].rpartition(" }")[0]
    shorter = _without_parentheses(condition)
    while shorter != condition:
        condition, shorter = shorter, _without_parentheses(shorter)
    return f"unless {condition}" if isinstance(clause, pst.Unless) else condition


def _without_parentheses(condition: str) -> str:
    return _STRING_OR_PATH.sub(lambda found: found.group(1) or found.group(), condition)
