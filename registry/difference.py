"""What a change alters, field by field. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field before and after; None stands for a field that is not there."""

    field: str
    before: Any
    after: Any


def differences(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[FieldDifference, ...]:
    """Every field that differs, descending into mappings; lists are compared whole."""
    return tuple(_walk("spec", before or {}, after or {}))


def _walk(
    path: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[FieldDifference]:
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        field = f"{path}.{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _walk(field, old, new)
        elif not _same(old, new):
            yield FieldDifference(field, old, new)


def _same(old: object, new: object) -> bool:
    # In Python True == 1; in YAML they are different values.
    return old == new and repr(old) == repr(new)
