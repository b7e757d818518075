"""Why a process could not start or go on, as one sentence instead of a stack trace."""

import contextlib
from collections.abc import Iterator

from countersign.admin_client import AdminError
from countersign.os_error_words import words_of

CODE = "cannot_start"


@contextlib.contextmanager
def told_in_a_sentence(*known: type[Exception]) -> Iterator[None]:
    """Turn these errors, also inside a task group's, into the command line's own.

    Raises:
        AdminError: One of `known` or an OSError ended the process.
    """
    try:
        yield
    except ExceptionGroup as group:
        cause = _innermost(group)
        if not isinstance(cause, (OSError, *known)):
            raise
        raise AdminError(CODE, words_of(cause)) from group
    except known as error:
        raise AdminError(CODE, str(error)) from error


def _innermost(error: Exception) -> Exception:
    """The one error a task group wrapped; the group itself when there are several."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
