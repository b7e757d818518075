"""Whether two readers of the same arguments could take one member for another. Pure.

Policy judged the exact names. Some servers (Go's encoding/json) match names without case, so an
undeclared `Amount` would replace the judged `amount` there. The `inputSchema` is followed through
`properties` and `items` only; what it leaves open is compared within itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

# It is done on the event loop, where a kill waits for it: 10 ms and more for so many.
MAXIMUM_PARTS: Final = 20_000
TWINS: Final = "An argument differs from another only in case."
TOO_MANY: Final = f"The arguments have more than {MAXIMUM_PARTS} objects and lists."
_NOTHING: Final[Mapping[str, Any]] = {}


def problem_of_names(arguments: Mapping[str, Any], schema: object) -> str | None:
    """Why a reader that ignores case could take one member for another, at any depth."""
    folded: dict[int, frozenset[str]] = {}  # of each part of the schema: many members share one
    left: list[tuple[object, object]] = [(arguments, schema)]
    parts = 0
    while left:
        value, described = left.pop()
        parts += 1
        if parts + len(left) > MAXIMUM_PARTS:
            return TOO_MANY
        if isinstance(value, list):
            items = _member(described, "items")
            left.extend((item, items) for item in value if isinstance(item, dict | list))
        elif isinstance(value, dict):
            properties = _member(described, "properties")
            declared = properties if isinstance(properties, dict) else _NOTHING
            undeclared = [name for name in value if name not in declared]
            if undeclared:
                if id(declared) not in folded:
                    folded[id(declared)] = frozenset(map(str.casefold, declared))
                if _has_twins(undeclared, folded[id(declared)]):
                    return TWINS
            left.extend(
                (member, declared.get(name))
                for name, member in value.items()
                if isinstance(member, dict | list)
            )
    return None


def _has_twins(undeclared: Sequence[str], declared: frozenset[str]) -> bool:
    folded = set(map(str.casefold, undeclared))
    return len(folded) < len(undeclared) or not declared.isdisjoint(folded)


def _member(schema: object, name: str) -> object:
    return schema.get(name) if isinstance(schema, dict) else None
