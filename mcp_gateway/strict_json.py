"""Decodes JSON so that what we judge is exactly what any other reader would see. Pure.

Two parsers that disagree about one body are a way around policy, so everything on which JSON
parsers are known to differ is refused: repeated keys, numbers that do not survive a round trip,
lone surrogates, NaN, nesting beyond 64, and any encoding but UTF-8 (RFC 8259 §4, §6, §8). More
values than anybody means are refused before they cost anything: the checks are Python per value.
"""

import json
import math
import re
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

MAXIMUM_DEPTH: Final = 64  # far deeper than any tool schema; stops stack exhaustion downstream
# To judge this many of the dearest values takes about 60 ms; a tool's arguments have tens.
MAXIMUM_VALUES: Final = 50_000
# Possessive, and the closing quote may be missing: linear whatever the body is.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}|\\u[dD][c-fC-F]")


class JsonProblem(StrEnum):
    """What is wrong with a body."""

    SYNTAX = "is not JSON in UTF-8"
    REPEATED_KEY = "repeats a key of an object"
    NUMBER = "has a number that does not survive a round trip"
    SURROGATE = "has a lone surrogate in a string"
    DEPTH = "is nested deeper than 64"
    VALUES = "has more than 50000 values"


class StrictJsonError(Exception):
    """Raised by `decode_strictly`; `problem` says why."""

    def __init__(self, problem: JsonProblem) -> None:
        """Carry the problem only: never a piece of the body."""
        super().__init__(problem.value)
        self.problem = problem


def decode_strictly(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Decode `body`, refusing what two parsers could read differently.

    Raises:
        StrictJsonError: with the first problem found.
    """
    if _has_too_many_values(body):
        raise StrictJsonError(JsonProblem.VALUES)
    try:
        decoded = _DECODER.decode(body.decode("utf-8"))
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError(JsonProblem.DEPTH) from None
    except ValueError as error:
        # Python refuses to build an int of more than 4300 digits with a bare ValueError.
        is_syntax = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        problem = JsonProblem.SYNTAX if is_syntax else JsonProblem.NUMBER
        raise StrictJsonError(problem) from None
    # Depth cannot exceed the number of opening brackets: most bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MAXIMUM_DEPTH and _is_too_deep(decoded):
        raise StrictJsonError(JsonProblem.DEPTH)
    if _SURROGATE_ESCAPE.search(body) is not None and not _is_encodable(decoded):
        raise StrictJsonError(JsonProblem.SURROGATE)
    return decoded


def _has_too_many_values(body: bytes) -> bool:
    """Members and elements follow a comma or an opening bracket; those in strings do not count."""
    if _separators(body) <= MAXIMUM_VALUES:
        return False
    return _separators(_STRING.sub(b"", body)) > MAXIMUM_VALUES


def _separators(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        raise StrictJsonError(JsonProblem.REPEATED_KEY)
    return decoded


def _exact_float(text: str) -> float:
    value = float(text)
    if repr(value) == text:  # what nearly every writer sends; `inf` is no text of JSON
        return value
    if not math.isfinite(value):
        raise StrictJsonError(JsonProblem.NUMBER)
    try:
        is_exact = Decimal(text) == Decimal(repr(value))
    except ArithmeticError:  # an exponent beyond Decimal's own range
        is_exact = False
    if not is_exact:
        raise StrictJsonError(JsonProblem.NUMBER)
    return value


def _refuse_constant(_name: str) -> float:
    raise StrictJsonError(JsonProblem.SYNTAX)  # NaN and Infinity are not JSON (RFC 8259 §6)


def _is_too_deep(decoded: object) -> bool:
    level: list[object] = [decoded]
    for _ in range(MAXIMUM_DEPTH):
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
        level = [node for node in below if isinstance(node, dict | list)]
        if not level:
            return False
    return True


def _is_encodable(decoded: object) -> bool:
    try:
        msgspec.json.encode(decoded)
    except UnicodeEncodeError:
        return False
    return True


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_repeats,
    parse_float=_exact_float,
    parse_constant=_refuse_constant,
)
