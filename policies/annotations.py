"""What the annotations of a policy may say, and what they mean.

A closed list: a misspelt `@ttl` that were ignored would silently lift a bound.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from policies.evaluate import REMEDY_CATEGORIES
from policies.problems import did_you_mean

MAXIMUM_TTL_SECONDS: Final = 900  # no token of ours lives longer
MAXIMUM_TEXT: Final = 512
_POLICY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SCOPE_TOKEN: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3


@dataclass(frozen=True, slots=True)
class Annotations:
    """The annotations of one policy, checked."""

    reason: str | None = None
    remedy: str | None = None
    ttl_seconds: int | None = None
    scopes: tuple[str, ...] | None = None


def _id_problem(value: str) -> str | None:
    if _POLICY_ID.fullmatch(value):
        return None
    return "@id must be letters, digits, '.', '_' or '-', at most 128 of them"


def _text_problem(value: str) -> str | None:
    if value and len(value) <= MAXIMUM_TEXT and value.isprintable():
        return None
    return f"a text annotation must be 1 to {MAXIMUM_TEXT} printable characters"


def _remedy_problem(value: str) -> str | None:
    kind, _, detail = value.partition(":")
    if kind in REMEDY_CATEGORIES and detail and _text_problem(value) is None:
        return None
    return f"@remedy must be one of {', '.join(REMEDY_CATEGORIES)}, a colon and what to ask for"


def _ttl_problem(value: str) -> str | None:
    if re.fullmatch(r"[1-9][0-9]{0,2}", value) and int(value) <= MAXIMUM_TTL_SECONDS:
        return None
    return f"@ttl must be whole seconds from 1 to {MAXIMUM_TTL_SECONDS}"


def _scope_problem(value: str) -> str | None:
    tokens = value.split(" ")
    if all(_SCOPE_TOKEN.fullmatch(token) for token in tokens):
        return None
    return "@scope must be scope tokens with one space between them"


_Check = Callable[[str], str | None]
_BOTH: Final[dict[str, _Check]] = {"id": _id_problem, "description": _text_problem}
_ON_GRANTS: Final[dict[str, _Check]] = {"ttl": _ttl_problem, "scope": _scope_problem}
_ON_GUARDS: Final[dict[str, _Check]] = {
    "reason": _text_problem,
    "remedy": _remedy_problem,
    "severity": _text_problem,
}


def annotation_problems(effect: str, annotations: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every problem as (annotation, message)."""
    here, elsewhere = (_ON_GRANTS, _ON_GUARDS) if effect == "permit" else (_ON_GUARDS, _ON_GRANTS)
    checks = _BOTH | here
    found = []
    for name, value in annotations.items():
        if name in checks:
            problem = checks[name](value)
        elif name in elsewhere:
            problem = f"@{name} means nothing on a {effect}"
        else:
            problem = f"unknown annotation @{name}{did_you_mean(name, checks)}"
        if problem is not None:
            found.append((name, problem))
    return found


def parsed_annotations(annotations: Mapping[str, str]) -> Annotations:
    """The meaning of annotations that have no problem."""
    ttl, scope = annotations.get("ttl"), annotations.get("scope")
    return Annotations(
        reason=annotations.get("reason"),
        remedy=annotations.get("remedy"),
        ttl_seconds=None if ttl is None else int(ttl),
        scopes=None if scope is None else tuple(scope.split(" ")),
    )
