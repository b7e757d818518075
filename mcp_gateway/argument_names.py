"""Whether two readers of the same arguments could take one member for another. Pure.

Policy judged the exact names. Some servers (Go's encoding/json) match names without case, so an
undeclared `Amount` would replace the judged `amount` there. The `inputSchema` is followed through
`properties` and `items` only; what it leaves open is compared within itself.
"""

from collections.abc import Mapping
from typing import Any


def is_ambiguous(arguments: Mapping[str, Any], schema: object) -> bool:
    """Whether a reader that ignores case could take one member for another, at any depth."""
    left: list[tuple[object, object]] = [(arguments, schema)]
    while left:
        value, described = left.pop()
        if isinstance(value, list):
            items = _member(described, "items")
            left.extend((item, items) for item in value if isinstance(item, dict | list))
        elif isinstance(value, dict):
            properties = _member(described, "properties")
            declared = properties if isinstance(properties, dict) else {}
            if _has_twins(value, declared):
                return True
            left.extend(
                (member, declared.get(name))
                for name, member in value.items()
                if isinstance(member, dict | list)
            )
    return False


def _has_twins(value: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    if len(value) < 2 and not declared:  # noqa: PLR2004 - one alone has no twin
        return False
    folded = {name.casefold() for name in declared}
    for name in value.keys() - declared.keys():
        if name.casefold() in folded:
            return True
        folded.add(name.casefold())
    return False


def _member(schema: object, name: str) -> object:
    return schema.get(name) if isinstance(schema, dict) else None
