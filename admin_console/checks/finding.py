"""One thing a check found, and how to mend it."""

from enum import StrEnum

from admin_console.wire import Wire


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
