"""What of a change an operator reads before agreeing to it. Pure text, not yet escaped."""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

SIGNS: Final = {"create": "+", "update": "~", "delete": "-"}
CONTEXT_LINES: Final = 2  # of a text around what changed in it


def change_lines(change: Mapping[str, Any]) -> Iterator[str]:
    """The object, and of an update each field: its values, or what changed in a longer text."""
    yield f"{SIGNS.get(change['action'], ' ')} {change['kind']}/{change['name']}"
    if change["action"] != "update":
        return
    for each in change.get("fields", ()):
        before, after = each.get("before"), each.get("after")
        if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
            yield f"    {each['field']}:"
            yield from (f"      {line}" for line in _difference(before, after))
        else:
            yield f"    {each['field']}: {_said(before)} → {_said(after)}"


def _difference(before: str, after: str) -> Iterator[str]:
    lines = difflib.unified_diff(
        before.split("\n"), after.split("\n"), n=CONTEXT_LINES, lineterm=""
    )
    yield from list(lines)[2:]  # without the names of two files


def _said(value: object) -> str:
    """As YAML would take it: JSON; null is what is not there."""
    return json.dumps(value, ensure_ascii=False)
