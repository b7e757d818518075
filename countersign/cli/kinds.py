"""Kinds as people type them: in any case, and of several."""

import typer

from registry.objects import KINDS
from registry.problem_words import suggestion


def kind_named(given: str) -> str:
    """The kind meant: `agents` and `mcpserver` are kinds too.

    Raises:
        typer.BadParameter: There is no such kind; says what would be right.
    """
    wanted = given.lower()
    for kind in KINDS:
        one = kind.lower()
        many = one[:-1] + "ies" if one.endswith("y") else one + "s"
        if wanted in {one, many}:
            return kind
    by_lower = {kind.lower(): kind for kind in KINDS}
    near = suggestion(wanted, by_lower)
    for lower, kind in by_lower.items():
        near = near.replace(lower, kind)
    raise typer.BadParameter(f"there is no kind {given!r}{near}")
