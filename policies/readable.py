"""Could the policies read what they look at, in the arguments of this call?

Cedar has no form for some JSON: an integer of more than 64 bits, a fifth decimal, a value of
another type than the tool's schema says. `policies.arguments` leaves such a value out, and to a
policy it looks as if it were not there: `forbid … when { context.input has amount && … }` would
not fire, and neither would a grant's `unless`. So a call that has one where an applicable policy
looks is not allowed. What is absent, or null, is for the policies to judge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from policies.arguments import (
    MAXIMUM_LEAVES,
    Place,
    escaped_segment,
    leaves,
    reached,
    tag_of,
    typed_value,
)
from policies.input_types import CedarType, RecordType
from policies.reads import ARGS, INPUT, UNMAPPED, Path

_EVERYTHING: Final[Path] = ("context",)


@dataclass(frozen=True, slots=True)
class ArgumentReads:
    """Where a few policies look.

    `fields`: paths below `context.input`, () for all of it, each with whether it is read as a
    whole and not only to get at a part of it. `pointers`: the tags of `context.args` that are
    named; `is_any_tag`: and others, which ones is not known before.
    """

    fields: tuple[tuple[Path, bool], ...]
    pointers: frozenset[str]
    is_any_tag: bool = False


def argument_reads(paths: Iterable[Path]) -> ArgumentReads:
    """Where policies with these reads look; anything not understood looks everywhere."""
    paths = frozenset(paths)
    fields: set[Path] = {path[2:] for path in paths if path[:2] == INPUT}
    tags = {path for path in paths if path[:2] == ARGS and path != UNMAPPED}
    named = {path for path in tags if path != ARGS and path[2].startswith("[")}
    if _EVERYTHING in paths:
        fields = fields | {()}
    return ArgumentReads(
        fields=tuple((each, not _has_below(each, fields)) for each in sorted(fields)),
        pointers=frozenset(path[2][1:-1] for path in named),
        is_any_tag=_EVERYTHING in paths or tags != named,
    )


def _has_below(path: Path, paths: Iterable[Path]) -> bool:
    return any(len(each) > len(path) and each[: len(path)] == path for each in paths)


def unreadable_argument(
    arguments: Mapping[str, object], of: RecordType, reads: ArgumentReads
) -> str | None:
    """The pointer of something that is looked at and has no form in Cedar; None: there is none.

    Asked of a call that was judged: its arguments are JSON, and no deeper than can be.
    """
    for path, is_whole in reads.fields:
        if not _is_readable(arguments, of, path, is_whole=is_whole):
            return "".join(f"/{escaped_segment(name)}" for name in path)
    found = _unreadable_tag(arguments, reads.pointers)
    return _unreadable_leaf(arguments) if found is None and reads.is_any_tag else found


def _is_readable(value: object, of: CedarType | None, path: Path, *, is_whole: bool) -> bool:
    if value is None:
        return True
    if not isinstance(of, RecordType):
        return of is not None and typed_value(value, of) is not None
    if not isinstance(value, Mapping):
        return False
    if path:
        name, *rest = path
        return _is_readable(value.get(name), of.fields.get(name), tuple(rest), is_whole=is_whole)
    return not is_whole or all(
        _is_readable(value.get(name), each, (), is_whole=True) for name, each in of.fields.items()
    )


def _unreadable_tag(arguments: Mapping[str, object], pointers: frozenset[str]) -> str | None:
    places = {pointer: reached(arguments, pointer) for pointer in sorted(pointers)}
    return next((each for each, place in places.items() if not _is_seen(each, place, places)), None)


def _is_seen(pointer: str, place: Place, places: Mapping[str, Place]) -> bool:
    """Whether what is there is a tag, or is looked at by another pointer, or nothing is there."""
    if place.value is None:
        return True
    if place.pointer != pointer:  # the way there ends early, at a text for instance
        return place.pointer in places
    return tag_of(place) is not None or any(
        other.startswith(f"{pointer}/") and below.pointer == other and below.value is not None
        for other, below in places.items()
    )


def _unreadable_leaf(arguments: Mapping[str, object]) -> str | None:
    """With more leaves than that the call was refused when its tags were made."""
    for place in islice(leaves(arguments), MAXIMUM_LEAVES):
        if place.value is not None and tag_of(place) is None and _holds_text(place):
            return place.pointer
    return None


def _holds_text(place: Place) -> bool:
    """Whether a set could be looked at for one of these; what is no set is looked at itself."""
    if not (place.is_set and isinstance(place.value, list)):
        return True
    return any(isinstance(each, str) for each in place.value)
