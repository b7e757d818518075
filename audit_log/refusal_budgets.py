"""How many refusals a second reach the spool: what is over is counted into the next event.

Anybody can cause a refusal: without a token, or with a stolen one but not its key. Without a limit
strangers would fill the spool, and a full spool refuses everybody. One budget for all strangers,
one for each subject that did prove itself; what is allowed is never limited here.
"""

from collections import OrderedDict
from typing import Final

STRANGERS_PER_SECOND: Final = 50
EACH_PER_SECOND: Final = 100
MAXIMUM_SUBJECTS: Final = 4_096


class RefusalBudgets:
    """The budgets of one process."""

    def __init__(self) -> None:
        self._strangers = _Budget(STRANGERS_PER_SECOND)
        self._subjects: OrderedDict[str, _Budget] = OrderedDict()

    def admit(self, proved: str | None, now: float) -> int | None:
        """Whether a refusal may be written, and how many before it were not.

        Args:
            proved: The subject that proved itself; None for a stranger, whatever it said it is.
            now: Unix seconds.

        Returns:
            How many refusals were left out since the last one written; None: leave this one out.
        """
        return (self._strangers if proved is None else self._of(proved)).admit(now)

    def _of(self, subject: str) -> "_Budget":
        budget = self._subjects.setdefault(subject, _Budget(EACH_PER_SECOND))
        self._subjects.move_to_end(subject)
        if len(self._subjects) > MAXIMUM_SUBJECTS:
            self._subjects.popitem(last=False)
        return budget


def with_left_out(detail: str | None, left_out: int) -> str | None:
    """The detail of an event that also stands for those before it."""
    if not left_out:
        return detail
    return f"{detail or 'refused'} (and {left_out} refusals before it)"


class _Budget:
    """So many events a second; what is over is counted."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._used = 0
        self._left_out = 0

    def admit(self, now: float) -> int | None:
        if int(now) != self._second:
            self._second, self._used = int(now), 0
        if self._used >= self._per_second:
            self._left_out += 1
            return None
        self._used += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
