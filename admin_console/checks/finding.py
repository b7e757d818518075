"""One thing a check found, and how to mend it."""

from enum import StrEnum
from typing import Final

from admin_console.wire import Wire

# From how long a time on it is told in a unit: two hours say more than 120 minutes.
_UNITS: Final = (
    (172_800_000, 86_400_000, "d"),
    (7_200_000, 3_600_000, "h"),
    (120_000, 60_000, "min"),
)


class Level(StrEnum):
    """How bad it is: `warning` works but will not for long, or not for everybody."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Wire):
    """What was looked at (`check`, `subject`), what was found, and what mends it.

    `remedy` is empty exactly when the level is ok.
    """

    check: str
    subject: str
    level: Level
    found: str
    remedy: str = ""


def fine(check: str, subject: str, found: str) -> Finding:
    """Nothing to mend."""
    return Finding(check=check, subject=subject, level=Level.OK, found=found)


def warning(check: str, subject: str, found: str, remedy: str) -> Finding:
    """Works, but not as it should."""
    return Finding(check=check, subject=subject, level=Level.WARNING, found=found, remedy=remedy)


def problem(check: str, subject: str, found: str, remedy: str) -> Finding:
    """Does not work."""
    return Finding(check=check, subject=subject, level=Level.PROBLEM, found=found, remedy=remedy)


def lasted(milliseconds: int) -> str:
    """How long something lasts, in the largest unit of which it has two."""
    for least, unit, name in _UNITS:
        if milliseconds >= least:
            return f"{milliseconds // unit} {name}"
    return f"{max(milliseconds, 0) // 1000} s"
