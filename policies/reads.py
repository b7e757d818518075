"""Which values a policy reads: from its syntax tree, before it is ever evaluated.

A read is a path from a variable: `("context", "input", "amount")`. Tags read with a literal key
end in that key, `("context", "args", "[/to]")`; with a computed key the whole entity is read.
Membership, `context.run.user in Group::"x"`, reads the pseudo attribute `groups`. Everything the
decision cache, the listing and the lint know of a policy rests on this, so the walk refuses what
it cannot follow (an attribute of something that is not a path) instead of guessing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from cedarpy import pst

Path: TypeAlias = tuple[str, ...]

USER: Final[Path] = ("context", "run", "user")
USER_GROUPS: Final[Path] = (*USER, "groups")
INPUT: Final[Path] = ("context", "input")
ARGS: Final[Path] = ("context", "args")
UNMAPPED: Final[Path] = (*ARGS, "unmapped")
DECLARED: Final[Path] = ("context", "run", "declared")
WEEKDAY: Final[Path] = ("context", "run", "clock", "weekday_utc")

# What of a person a token carries only if the server declares it, by the path that reads it.
PERSON_ATTRIBUTES: Final[dict[Path, str]] = {
    USER_GROUPS: "groups",
    (*USER, "acr"): "acr",
    (*USER, "auth_time"): "auth_time",
    ("context", "run", "purpose"): "purpose",
    ("context", "run", "ticket"): "ticket",
}


@dataclass(frozen=True, slots=True)
class Reads:
    """`paths` that are read, and the expressions whose reads cannot be told (`opaque`)."""

    paths: frozenset[Path]
    opaque: tuple[pst.Expr, ...] = ()


def reads_of(expressions: Iterable[pst.Expr]) -> Reads:
    """All reads of some expressions."""
    walk = _Walk()
    for expression in expressions:
        walk.visit(expression)
    return Reads(frozenset(walk.paths), tuple(walk.opaque))


def reads_arguments(expression: pst.Expr) -> bool:
    """Whether it cannot be evaluated before the arguments of a call are known."""
    return any(
        path == ("context",) or path[:2] in (INPUT, ARGS) for path in reads_of([expression]).paths
    )


def path_of(expression: pst.Expr) -> Path | None:
    """The path an expression is, or None if it is anything else."""
    match expression:
        case pst.Var(name):
            return (name,)
        case pst.GetAttr(base, attribute):
            return _extended(base, attribute)
        case pst.BinaryOp("get_tag", base, pst.StringLit(key)):
            return _extended(base, f"[{key}]")
        case _:
            return None


def _extended(base: pst.Expr, *segments: str) -> Path | None:
    start = path_of(base)
    return None if start is None else (*start, *segments)


class _Walk:
    """Collects the reads of an expression, children before siblings."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()
        self.opaque: list[pst.Expr] = []

    def visit(self, expression: pst.Expr) -> None:
        path = path_of(expression)
        if path is not None:
            self.paths.add(path)
            return
        match expression:
            case pst.GetAttr(base, _):  # of something that is no path
                self.opaque.append(base)
            case pst.HasAttr(base, attributes):
                self._read(base, *attributes)
            case pst.BinaryOp("has_tag" | "get_tag", base, key):
                self._read_tag(base, key)
            case pst.BinaryOp("in", left, right):
                self._read_membership(left)
                self.visit(right)
            case pst.Is(base, _, within):
                if within is None:
                    self._read(base)
                else:
                    self._read_membership(base)
                    self.visit(within)
            case _:
                children = _children(expression)
                if children is None:
                    self.opaque.append(expression)
                for child in children or ():
                    self.visit(child)

    def _read(self, base: pst.Expr, *segments: str) -> None:
        path = _extended(base, *segments)
        if path is None:
            self.opaque.append(base)
        else:
            self.paths.add(path)

    def _read_tag(self, base: pst.Expr, key: pst.Expr) -> None:
        if isinstance(key, pst.StringLit):
            self._read(base, f"[{key.value}]")
        else:
            self._read(base)
            self.visit(key)
            for literal in _texts_in(key):  # the key is one of them, perhaps
                self._read(base, f"[{literal}]")

    def _read_membership(self, base: pst.Expr) -> None:
        path = path_of(base)
        if path is None:
            self.opaque.append(base)
        else:
            self.paths.add(USER_GROUPS if path == USER else path)


def _texts_in(expression: pst.Expr) -> Iterator[str]:
    if isinstance(expression, pst.StringLit):
        yield expression.value
    for child in _children(expression) or ():
        yield from _texts_in(child)


def _children(expression: pst.Expr) -> tuple[pst.Expr, ...] | None:
    """What an expression that is no path, and no access to one, is made of; None if unknown."""
    found: tuple[pst.Expr, ...] | None = None  # a slot, or what a later engine has: never guess
    match expression:
        case pst.UnaryOp(_, argument):
            found = (argument,)
        case pst.BinaryOp(_, left, right):
            found = (left, right)
        case pst.Like(base, _):
            found = (base,)
        case pst.IfThenElse(condition, then, otherwise):
            found = (condition, then, otherwise)
        case pst.Set(elements):
            found = elements
        case pst.Record(fields):
            found = tuple(fields.values())
        case pst.BoolLit() | pst.LongLit() | pst.StringLit() | pst.EntityLit():
            found = ()
    return found
