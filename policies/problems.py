"""What is wrong with a policy document, for the person who wrote it."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

# Comparing takes some 10 ms, and 0.2 s where so many and so long names are nearly the same.
MOST_COMPARED: Final = 500  # names
LONGEST_COMPARED: Final = 64  # characters


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """One problem. `policy` is its `@id`, empty where it has none; lines count from 1."""

    document: str
    policy: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class CompileProblems:
    """Why a set cannot be live.

    With `problems` it is wrong. Without, it only names tools that are not approved yet:
    `waiting_for` holds them as `server/tool`, and `hints` says which of them may be misspelt.
    """

    problems: tuple[PolicyProblem, ...]
    waiting_for: tuple[str, ...] = ()
    hints: tuple[PolicyProblem, ...] = ()


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence; empty if none is near.

    Among very many, or for a very long one, none is looked for: a hint is not worth the time.
    """
    names = sorted(known)
    if len(names) > MOST_COMPARED or len(given) > LONGEST_COMPARED:
        return ""
    near = get_close_matches(given, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
