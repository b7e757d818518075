"""Whether two readers of the same arguments could take one member for another. Pure.

Policy judged the exact names. Some servers (Go's encoding/json) match names without case, so an
undeclared `Amount` would replace the judged `amount` there. The `inputSchema` is followed through
`properties` and `items` only; what it leaves open is compared within itself.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

# Names, and objects and lists that are not empty. It is done on the event loop, where a kill waits
# for it: some 10 ms for so many of the dearest, objects of one name. What else a list has is looked
# at and not counted: 50,000 of them, all that `strict_json` lets in, take 3 ms.
MAXIMUM_COUNTED: Final = 15_000
TWINS: Final = "An argument differs from another only in case."
TOO_MANY: Final = f"The arguments have more than {MAXIMUM_COUNTED} objects, lists and names."
_NOTHING: Final[Mapping[str, Any]] = {}
_HAVING_NAMES: Final = (dict, list)


def problem_of_names(arguments: Mapping[str, Any], schema: object) -> str | None:
    """Why a reader that ignores case could take one member for another, at any depth."""
    folded: dict[int, frozenset[str]] = {}  # of each part of the schema: many members share one
    left: list[tuple[Any, object]] = [(arguments, schema)]
    counted = 1  # whatever was found so far, looked at or not; first the arguments themselves
    while left:
        value, described = left.pop()
        before = len(left)
        if isinstance(value, list):
            items = _member(described, "items")
            below = ((item, items) for item in value if item and isinstance(item, _HAVING_NAMES))
            left.extend(islice(below, MAXIMUM_COUNTED + 1 - counted))
        else:
            counted += len(value)
            if counted > MAXIMUM_COUNTED:
                return TOO_MANY
            properties = _member(described, "properties")
            declared = properties if isinstance(properties, dict) else _NOTHING
            undeclared = [name for name in value if name not in declared]
            if undeclared and _has_twins(undeclared, declared, folded):
                return TWINS
            left += [
                (member, declared.get(name))
                for name, member in value.items()
                if member and isinstance(member, _HAVING_NAMES)
            ]
        counted += len(left) - before
        if counted > MAXIMUM_COUNTED:
            return TOO_MANY
    return None


def _has_twins(
    undeclared: Sequence[str], declared: Mapping[str, Any], folded: dict[int, frozenset[str]]
) -> bool:
    """Whether a name is another's without case; `folded` remembers the declared ones so."""
    names = set(map(str.casefold, undeclared))
    if len(names) < len(undeclared):
        return True
    if not declared:
        return False
    if id(declared) not in folded:
        folded[id(declared)] = frozenset(map(str.casefold, declared))
    return not folded[id(declared)].isdisjoint(names)


def _member(schema: object, name: str) -> object:
    return schema.get(name) if isinstance(schema, dict) else None
