"""What a decision may be remembered by, and until when.

The key holds every value the applicable policies read. Values of arguments enter as they came,
told apart by type (`1`, `1.0` and `true` are equal in Python and are not in Cedar); the typed form
is a function of that and of the tool, which is in the key too.
"""

import hashlib
from collections.abc import Hashable, Mapping
from typing import Final

import msgspec

from policies.arguments import Place, reached
from policies.entities import CallRequest, RunFacts
from policies.requests import weekday_utc
from policies.slices import CachePlan

DAY_MS: Final = 86_400_000
_INLINE_CHARACTERS: Final = 64  # longer values enter the key as their digest, so keys stay small


def cached_values(call: CallRequest, plan: CachePlan) -> tuple[Hashable, ...]:
    """The values of everything a plan names, in the plan's order.

    Raises:
        ValueError, TypeError: an argument is no JSON value; such a call is not remembered.
    """
    if plan.all_arguments:
        arguments: tuple[Hashable, ...] = (_canonical(call.arguments),)
    else:
        arguments = (
            *(_value_at(call.arguments, path) for path in plan.input_paths),
            *(_place(reached(call.arguments, pointer)) for pointer in plan.pointers),
        )
    return (
        arguments,
        *(getattr(call.run, name) for name in plan.run),
        _declared(call.run, plan.declared),
        weekday_utc(call.now_ms) if plan.weekday else None,
    )


def end_of_day_ms(now_ms: int) -> int:
    """The next midnight in UTC, in Unix milliseconds."""
    return (now_ms // DAY_MS + 1) * DAY_MS


def _declared(run: RunFacts, keys: tuple[str, ...] | None) -> Hashable:
    if keys is None:
        return tuple(sorted(run.declared.items()))
    return tuple(run.declared.get(key) for key in keys)


def _value_at(arguments: Mapping[str, object], path: tuple[str, ...]) -> Hashable:
    """Of what is no record the whole: whether a path leads into it decides, too."""
    found: object = arguments
    for depth, name in enumerate(path):
        if not isinstance(found, Mapping):
            return (depth, _canonical(found))
        if name not in found:
            return "absent"
        found = found[name]
    return _canonical(found)


def _place(place: Place) -> Hashable:
    return (place.pointer, _canonical(place.value))


def _canonical(value: object) -> Hashable:
    """A hashable that is equal exactly for equal JSON values of equal types."""
    if isinstance(value, str) and len(value) <= _INLINE_CHARACTERS:
        return (str, value)
    if isinstance(value, bool | int | float | None):
        return (type(value), value)
    encoded = msgspec.json.encode(value, order="deterministic")
    if len(encoded) <= _INLINE_CHARACTERS:
        return encoded
    return ("sha256", hashlib.sha256(encoded).digest())
