"""Who serves a Gateway: one worker, or several with one memory of used proofs."""

import pytest

from authz_server.serving_workers import ServingWorkers

pytestmark = pytest.mark.requirement("one-worker-per-gateway")


class Ticker:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal_of(workers: ServingWorkers, worker: str, memory: str = "") -> str | None:
    problem = workers.problem("demo", worker, memory)
    return None if problem is None else problem.rule


@pytest.mark.parametrize(
    ("serving", "asking", "refused"),
    [
        ("", "", True),
        ("", "shared", True),
        ("shared", "", True),
        ("shared", "another", True),
        ("shared", "shared", False),
    ],
)
def test_second_worker_is_let_in_only_with_the_same_memory(
    serving: str, asking: str, refused: bool
) -> None:
    clock = Ticker()
    workers = ServingWorkers(clock, 3.0)
    with workers.holding("demo", "w1", serving) as first:
        assert first
        assert (refusal_of(workers, "w2", asking) == "control.one_worker") is refused
        with workers.holding("demo", "w2", asking) as second:
            assert second is not refused
        assert workers.problem("another", "w2", asking) is None
    clock.now = 3.0
    assert refusal_of(workers, "w2", asking) is None


def test_third_worker_is_compared_with_every_other() -> None:
    clock = Ticker()
    workers = ServingWorkers(clock, 3.0)
    with workers.holding("demo", "w1", "shared"), workers.holding("demo", "w2", "shared"):
        assert refusal_of(workers, "w3", "shared") is None
        assert refusal_of(workers, "w3", "another") == "control.one_worker"
        # Who has served alone may change its memory; beside another it may not.
        assert refusal_of(workers, "w1", "another") == "control.one_worker"
    clock.now = 3.0
    with workers.holding("demo", "w3", "alone"):
        assert refusal_of(workers, "w3", "another") is None


def test_what_a_worker_declared_last_is_what_others_are_compared_with() -> None:
    workers = ServingWorkers()
    with workers.holding("demo", "w1", "before"), workers.holding("demo", "w1", "after"):
        assert refusal_of(workers, "w2", "after") is None
        assert refusal_of(workers, "w2", "before") == "control.one_worker"
    assert workers._serving == {}


def test_overlapping_streams_of_one_worker_count_until_the_last_ends() -> None:
    workers = ServingWorkers()
    with workers.holding("demo", "w1"):
        with workers.holding("demo", "w1"):
            pass
        assert refusal_of(workers, "w2") == "control.one_worker"
    assert workers._serving == {}


@pytest.mark.parametrize(
    ("ended", "asking", "waits"),
    [
        ("shared", "another", True),
        ("shared", "", True),
        ("", "shared", True),
        ("shared", "shared", False),
        ("", "", False),
    ],
)
def test_worker_with_another_memory_waits_until_nobody_has_a_lease_with_the_one_before(
    ended: str, asking: str, waits: bool
) -> None:
    clock = Ticker()
    workers = ServingWorkers(clock, 3.0)
    with workers.holding("demo", "w1", ended):
        pass
    clock.now = 2.9
    assert (refusal_of(workers, "w2", asking) == "control.one_worker") is waits
    with workers.holding("demo", "w2", asking) as holds:
        assert holds is not waits
    assert refusal_of(workers, "w1", asking) is None  # itself: it has one memory at a time
    assert workers.problem("another", "w2", asking) is None
    clock.now = 6.0
    assert refusal_of(workers, "w2", asking) is None
    assert not workers._ended


@pytest.mark.parametrize(("worker", "memory"), [("w" * 193, ""), ("w", "m" * 65)])
def test_names_that_are_too_long_are_refused(worker: str, memory: str) -> None:
    assert refusal_of(ServingWorkers(), worker, memory) == "control.worker"
    assert refusal_of(ServingWorkers(), worker[:192], memory[:64]) is None
