"""Strangers cannot fill the spool, and cannot keep others' refusals out of the audit."""

import pytest

from audit_log.refusal_budgets import (
    EACH_PER_SECOND,
    MAXIMUM_SUBJECTS,
    STRANGERS_PER_SECOND,
    RefusalBudgets,
    with_left_out,
)


def written(budgets: RefusalBudgets, proved: str | None, count: int, now: float) -> int:
    return sum(budgets.admit(proved, now) is not None for _ in range(count))


@pytest.mark.parametrize(
    ("proved", "limit"), [(None, STRANGERS_PER_SECOND), ("support-bot", EACH_PER_SECOND)]
)
def test_refusals_are_written_up_to_the_budget_and_counted_into_the_next(
    proved: str | None, limit: int
) -> None:
    budgets = RefusalBudgets()
    assert written(budgets, proved, limit + 7, 1000.0) == limit
    assert budgets.admit(proved, 1000.9) is None
    assert budgets.admit(proved, 1001.0) == 8
    assert budgets.admit(proved, 1001.0) == 0


def test_refusals_of_strangers_leave_the_budgets_of_others_alone() -> None:
    budgets = RefusalBudgets()
    written(budgets, None, 10_000, 1000.0)
    written(budgets, "mallory", 10_000, 1000.0)
    assert budgets.admit("alice", 1000.0) == 0


def test_budgets_of_subjects_are_bounded() -> None:
    budgets = RefusalBudgets()
    for number in range(MAXIMUM_SUBJECTS + 10):
        budgets.admit(f"agent-{number}", 1000.0)
    assert len(budgets._subjects) == MAXIMUM_SUBJECTS


def test_detail_tells_how_many_refusals_it_stands_for() -> None:
    assert with_left_out("client.key", 0) == "client.key"
    assert with_left_out("client.key", 3) == "client.key (and 3 refusals before it)"
    assert with_left_out(None, 3) == "refused (and 3 refusals before it)"
    assert with_left_out(None, 0) is None
