"""Why the operating system refused, in words: the file if it names one, and never a number."""

import re
from typing import Final

_NUMBER: Final = re.compile(r"\[Errno -?\d+\] ?")


def words_of(error: Exception) -> str:
    """The sentence of an error that may come, through a library, from the operating system."""
    if isinstance(error, OSError) and error.strerror:
        reason = _lowered(error.strerror)
        return f"{error.filename}: {reason}" if error.filename else reason
    return _lowered(_NUMBER.sub("", str(error))) or type(error).__name__


def _lowered(reason: str) -> str:
    """`No such file` goes on after a colon; `TLS` and other names stay as they are."""
    return reason[:1].lower() + reason[1:] if reason[1:2].islower() else reason
