import dataclasses

import pytest

from audit_log.event import Outcome
from bench.evidence import Calls, Recorded, count_problems

CALLS = Calls(answered=1000, cut_at_most=17, at_upstream=992)
RECORDED = Recorded(
    allowed=995,
    denied=10,
    decisions=1005,
    outcomes={Outcome.SUCCEEDED: 990, Outcome.CANCELLED: 5},
    is_complete=True,
)


def test_counts_that_fit_speak_against_nothing() -> None:
    assert count_problems(CALLS, RECORDED) == ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"is_complete": False}, "not complete"),
        ({"allowed": 980, "denied": 10}, "990 intents are recorded"),
        ({"denied": 100}, "1095 intents are recorded"),
        ({"outcomes": {Outcome.SUCCEEDED: 990}}, "990 outcomes are recorded"),
        ({"decisions": 1004}, "1004 decision ids"),
        ({"outcomes": {Outcome.SUCCEEDED: 990, Outcome.UNKNOWN: 5}}, "besides success"),
        ({"outcomes": {Outcome.SUCCEEDED: 970, Outcome.CANCELLED: 25}}, "besides success"),
    ],
)
def test_counts_that_do_not_fit_are_named(change: dict[str, object], problem: str) -> None:
    recorded = dataclasses.replace(RECORDED, **change)  # type: ignore[arg-type] # each its own type

    assert any(problem in each for each in count_problems(CALLS, recorded))


@pytest.mark.parametrize("at_upstream", [996, 977])
def test_calls_at_the_server_must_be_those_that_were_allowed(at_upstream: int) -> None:
    calls = dataclasses.replace(CALLS, at_upstream=at_upstream)

    assert [each for each in count_problems(calls, RECORDED) if "reached the server" in each]
