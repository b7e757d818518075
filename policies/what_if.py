"""What could be different about a request so that one condition of a policy came out otherwise.

Each answer is one `Change`: the request with one thing changed, and that thing in words. Only what
somebody can do something about: the person's groups and login, the agent's groups, level and
environment, and the arguments. INVARIANT: nothing here says that a change helps; whoever proposes
one decides the changed request first (`policies.explain`). What cannot be solved for (patterns,
arithmetic, sets of arguments) yields nothing.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, TypeAlias

from cedarpy import pst

from policies.entities import CallRequest, UserFacts
from policies.reads import INPUT, USER, Path, path_of

Scalar: TypeAlias = str | int | bool | Decimal

DECIMAL_STEP: Final = Decimal("0.0001")  # Cedar's decimals have four places

# operator → in words, what the value must be beside the bound, and whether a value is right
_WANTED: Final[dict[str, tuple[str, int, Callable[[Any, Any], bool]]]] = {
    "eq": ("is", 0, operator.eq),
    "less_eq": ("is at most", 0, operator.le),
    "greater_eq": ("is at least", 0, operator.ge),
    "less": ("is less than", -1, operator.lt),
    "greater": ("is more than", 1, operator.gt),
}
_OPPOSITE: Final = {
    "not_eq": "eq",
    "less": "greater_eq",
    "less_eq": "greater",
    "greater": "less_eq",
    "greater_eq": "less",
}
_MIRRORED: Final = {
    "less": "greater",
    "less_eq": "greater_eq",
    "greater": "less",
    "greater_eq": "less_eq",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is different: in words, and the request with it."""

    text: str
    request: CallRequest


def changes_for(expression: pst.Expr, request: CallRequest, *, wanted: bool) -> Iterator[Change]:
    """Changes after each of which the expression may be `wanted`."""
    match expression:
        case pst.BinaryOp("and" | "or", left, right):
            # Not to fulfil `has x && x > 1`: rather another x than none.
            for each in (left, right) if wanted else (right, left):
                yield from changes_for(each, request, wanted=wanted)
        case pst.UnaryOp("not", inner):
            yield from changes_for(inner, request, wanted=not wanted)
        case pst.BinaryOp("in", base, target):
            yield from _membership(path_of(base), target, request, wanted=wanted)
        case pst.BinaryOp("contains", pst.Set(elements), base) if wanted:
            for element in elements:
                yield from _comparison("eq", path_of(base), _literal(element), request)
        case pst.BinaryOp(name, left, right):
            yield from _compared(name, left, right, request, wanted=wanted)
        case pst.HasAttr(base, (name,)) if not wanted and path_of(base) == INPUT:
            others = {each: value for each, value in request.arguments.items() if each != name}
            yield from _changed(f"the argument {name} is not given", request, arguments=others)


def in_agent_group(group: str, request: CallRequest) -> Iterator[Change]:
    """The agent in one more group."""
    agent = replace(request.agent, groups=_with(request.agent.groups, group))
    yield from _changed(f"{agent.name} is in the agent group {group}", request, agent=agent)


def _membership(
    path: Path | None, target: pst.Expr, request: CallRequest, *, wanted: bool
) -> Iterator[Change]:
    listed = target.elements if isinstance(target, pst.Set) else (target,)
    for each in listed:
        if not isinstance(each, pst.EntityLit):
            continue
        kind, name = str(each.value.type), each.value.id
        if path == USER and kind == "Group" and request.user is not None:
            yield from _person_group(request.user, name, request, wanted=wanted)
        elif path == ("principal",) and kind == "AgentGroup" and wanted:
            yield from in_agent_group(name, request)


def _person_group(
    user: UserFacts, group: str, request: CallRequest, *, wanted: bool
) -> Iterator[Change]:
    groups = user.groups or ()
    if wanted:
        text, after = f"the person is in {group}", _with(groups, group)
    else:
        text = f"the person is not in {group}"
        after = tuple(each for each in groups if each != group)
    if after != groups:
        yield from _changed(text, request, user=replace(user, groups=after))


def _compared(
    name: str, left: pst.Expr, right: pst.Expr, request: CallRequest, *, wanted: bool
) -> Iterator[Change]:
    name = name.removeprefix("decimal_").removesuffix("_than")
    path, bound = path_of(left), _literal(right)
    if path is None:
        path, bound = path_of(right), _literal(left)
        name = _MIRRORED.get(name, name)
    if not wanted:
        name = _OPPOSITE.get(name, "")
    yield from _comparison(name, path, bound, request)


def _comparison(
    name: str, path: Path | None, bound: Scalar | None, request: CallRequest
) -> Iterator[Change]:
    if name not in _WANTED or path is None or bound is None:
        return
    words, direction, is_right = _WANTED[name]
    current = _current(path, bound, request)
    if type(current) is type(bound) and is_right(current, bound):
        return
    value = _beside(bound, direction)
    shown = f"{bound.normalize():f}" if isinstance(bound, Decimal) else str(bound)
    yield from _set(path, value, f"{words} {shown}", request)


def _current(path: Path, bound: Scalar, request: CallRequest) -> object:
    """The argument that is there now, as the engine compares it with the bound."""
    given = request.arguments.get(path[-1]) if path[:2] == INPUT else None
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return Decimal(str(given)) if is_number and isinstance(bound, Decimal) else given


def _set(path: Path, value: Scalar, words: str, request: CallRequest) -> Iterator[Change]:
    if path[:2] == INPUT and len(path) == len(INPUT) + 1:
        given = float(value) if isinstance(value, Decimal) else value
        arguments = {**request.arguments, path[-1]: given}
        yield from _changed(f"the argument {path[-1]} {words}", request, arguments=arguments)
    elif path in _OF_AGENT:
        field, label = _OF_AGENT[path]
        fact: dict[str, Any] = {field: value}
        agent = replace(request.agent, **fact)
        yield from _changed(f"{label} {words}", request, agent=agent)
    elif path in _OF_RUN:
        field = _OF_RUN[path]
        fact = {field: value}
        run = replace(request.run, **fact)
        yield from _changed(f"the run's {field} {words}", request, run=run)
    elif path == (*USER, "acr") and request.user is not None:
        user = replace(request.user, acr=str(value))
        yield from _changed(f"the person's login (acr) {words}", request, user=user)


_OF_AGENT: Final[dict[Path, tuple[str, str]]] = {
    ("principal", "level"): ("level", "the level of the agent's attestation"),
    ("principal", "environment"): ("environment", "the agent's environment"),
}
_OF_RUN: Final[dict[Path, str]] = {
    ("context", "run", "purpose"): "purpose",
    ("context", "run", "ticket"): "ticket",
}


def _beside(bound: Scalar, direction: int) -> Scalar:
    """The nearest value on that side of a bound; the bound itself where there are no sides."""
    if isinstance(bound, Decimal):
        return bound + direction * DECIMAL_STEP
    return bound + direction if type(bound) is int else bound


def _literal(expression: pst.Expr) -> Scalar | None:
    match expression:
        case pst.LongLit(value) | pst.StringLit(value) | pst.BoolLit(value):
            return value
        case pst.UnaryOp("decimal", pst.StringLit(text)):
            return Decimal(text)
        case _:
            return None


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if name in names else (*names, name)


def _changed(text: str, request: CallRequest, **fields: Any) -> Iterator[Change]:  # noqa: ANN401 - fields of CallRequest
    """The change, unless it changes nothing."""
    after = replace(request, **fields)
    if after != request:
        yield Change(text, after)
