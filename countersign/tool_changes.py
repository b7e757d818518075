"""What of a tool's definition an operator reads before approving it. Pure text, not yet escaped.

Lines of the description begin with a bar, which no line of the JSON after it does: a description
cannot pose as another part of the definition.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Any, Final

LISTED_DESCRIPTION: Final = 160  # characters of a description in a list; approving shows it whole


def description_of(definition: Mapping[str, Any] | None) -> str:
    """The description on one line, shortened."""
    text = " ".join(_description(definition).split())
    return text if len(text) <= LISTED_DESCRIPTION else f"{text[: LISTED_DESCRIPTION - 1]}…"


def definition_lines(definition: Mapping[str, Any] | None) -> list[str]:
    """The whole definition: the description as it would be read, and the rest as JSON."""
    if definition is None:
        return []
    rest = {key: value for key, value in definition.items() if key not in {"name", "description"}}
    described = [f"| {line}" for line in _description(definition).split("\n")]
    return [*described, *_lines(rest)]


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    """A unified diff of two definitions, with all of their lines."""
    old, new = definition_lines(before), definition_lines(after)
    whole = len(old) + len(new)
    lines = difflib.unified_diff(old, new, "approved", "offered", n=whole, lineterm="")
    return list(lines)


def _description(definition: Mapping[str, Any] | None) -> str:
    text = (definition or {}).get("description")
    return text if isinstance(text, str) else ""


def _lines(value: object) -> list[str]:
    """JSON, not YAML: one character reads one way."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).split("\n")
