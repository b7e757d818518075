"""The arguments of one call as Cedar reads them: typed fields, and tags by JSON pointer.

A value is either carried exactly or not at all: an integer outside 64 bits, a number with more
than four decimals, a list with one element that does not fit are left out whole, never rounded or
cut. Null is absence. That a policy looks at something left out is noticed in `policies.readable`.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from policies.input_types import CedarType, RecordType, SetType

MAXIMUM_LEAVES: Final = 10_000  # of one call, when a policy reads all of them
MAXIMUM_ARGUMENT_DEPTH: Final = 64  # the gateway's own limit; deeper is unmapped
_LONG: Final = 2**63
_DECIMAL_PLACES: Final = Decimal("0.0001")
_DECIMAL_LIMIT: Final = Decimal(_LONG) / 10_000


class TooManyArgumentsError(ValueError):
    """The call has more leaves than policies can be asked to judge."""


def typed_record(
    value: Mapping[str, object], of: RecordType, pointer: str, unmapped: set[str]
) -> dict[str, object]:
    """The fields of a record as Cedar JSON; pointers of what does not fit go to `unmapped`."""
    fields: dict[str, object] = {}
    for name, member in value.items():
        if member is None:
            continue
        below = f"{pointer}/{escaped_segment(name)}"
        wanted = of.fields.get(name)
        typed = None if wanted is None else _typed(member, wanted, below, unmapped)
        if typed is None:
            unmapped.add(below)
        else:
            fields[name] = typed
    return fields


def _typed(value: object, of: CedarType, pointer: str, unmapped: set[str]) -> object | None:
    if isinstance(of, RecordType):
        return typed_record(value, of, pointer, unmapped) if isinstance(value, Mapping) else None
    return typed_value(value, of)


def typed_value(value: object, of: SetType | str) -> object | None:
    """A value as Cedar JSON; None when it does not fit."""
    if isinstance(of, SetType):
        if not isinstance(value, list):
            return None
        elements = [_scalar(element, of.element) for element in value]
        return None if None in elements else elements
    return _scalar(value, of)


def _scalar(value: object, of: str) -> object | None:
    match value:
        case bool():
            return value if of == "Bool" else None
        case str():
            return value if of == "String" else None
        case int() if of == "Long":
            return value if -_LONG <= value < _LONG else None
        case int() | float() if of == "decimal":
            return _decimal(value)
        case _:
            return None


def _decimal(value: float) -> dict[str, object] | None:
    """A number as a Cedar decimal, if it is one exactly."""
    number = Decimal(str(value))
    if not number.is_finite() or not -_DECIMAL_LIMIT <= number < _DECIMAL_LIMIT:
        return None
    exact = number.quantize(_DECIMAL_PLACES)
    if exact != number:
        return None
    return {"__extn": {"fn": "decimal", "arg": f"{abs(exact) if exact == 0 else exact:f}"}}


class Place(NamedTuple):
    """A pointer into arguments, and what is there. `is_set`: the elements of a list, `/list/*`."""

    pointer: str
    value: object
    is_set: bool = False


def tags(arguments: Mapping[str, object]) -> dict[str, object]:
    """Every leaf of the arguments by JSON pointer (RFC 6901), as an `ArgValue` record.

    Raises:
        TooManyArgumentsError: beyond `MAXIMUM_LEAVES`.
    """
    found: dict[str, object] = {}
    for count, place in enumerate(leaves(arguments)):
        if count >= MAXIMUM_LEAVES:
            raise TooManyArgumentsError
        tag = tag_of(place)
        if tag is not None:
            found[place.pointer] = tag
    return found


def tag_at(arguments: Mapping[str, object], pointer: str) -> dict[str, object] | None:
    """The tag at one pointer: what `tags` has there, without visiting the rest."""
    place = reached(arguments, pointer)
    return tag_of(place) if place.pointer == pointer else None


def reached(arguments: Mapping[str, object], pointer: str) -> Place:
    """How far a pointer leads: to its value, or to the text, number or list where it ends early.

    The value is None where nothing is, or null.
    """
    found: object = arguments
    start, *segments = pointer.split("/")
    if start or not segments or len(segments) > MAXIMUM_ARGUMENT_DEPTH:
        return Place(pointer, None)
    for position, segment in enumerate(segments):
        if isinstance(found, Mapping):
            found = found.get(segment.replace("~1", "/").replace("~0", "~"))
        elif isinstance(found, list) and segment == "*" and position == len(segments) - 1:
            return Place(pointer, found, is_set=True)
        elif isinstance(found, list) and _is_index(segment):
            found = found[int(segment)] if int(segment) < len(found) else None
        else:
            return Place("/".join(("", *segments[:position])), found)
    return Place(pointer, found)


def _is_index(segment: str) -> bool:
    """RFC 6901 §4: digits without a leading zero, and few enough to be one."""
    return segment.isascii() and segment.isdecimal() and str(int(segment[:9])) == segment


def escaped_segment(name: str) -> str:
    """A name as one segment of a JSON pointer (RFC 6901 §3)."""
    return name.replace("~", "~0").replace("/", "~1")


def leaves(value: object, pointer: str = "", depth: int = 0) -> Iterator[Place]:
    """Scalars by pointer, and each list once more as the set `pointer/*`."""
    if depth > MAXIMUM_ARGUMENT_DEPTH:
        return
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from leaves(member, f"{pointer}/{escaped_segment(name)}", depth + 1)
    elif isinstance(value, list):
        if depth < MAXIMUM_ARGUMENT_DEPTH:
            yield Place(f"{pointer}/*", value, is_set=True)
        for position, element in enumerate(value):
            yield from leaves(element, f"{pointer}/{position}", depth + 1)
    else:
        yield Place(pointer, value)


def tag_of(place: Place) -> dict[str, object] | None:
    """One value as an `ArgValue`: exactly one of its fields, or nothing."""
    match place.value:
        case bool() as value:
            return {"bool": value}
        case str() as value:
            return {"str": value}
        case int() as value if -_LONG <= value < _LONG:
            return {"int": value}
        case int() | float() as value:
            number = _decimal(value)
            return None if number is None else {"num": number}
        case list() as value if place.is_set:
            return {"set": value} if all(isinstance(each, str) for each in value) else None
        case _:
            return None
