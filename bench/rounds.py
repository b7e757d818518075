"""Rounds: in each one every variant is measured once, one after the other.

A variant whose requests are used up by sending them gets new ones right before each run, as many
as the run before suggests; if they do not last, it is measured again, once, with twice as many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from bench.load import Load, run
from bench.peers import Cores
from bench.process_tree import cpu_us
from bench.samples import Sample

FEWEST: Final = 1_000
MARGIN: Final = 1.6  # how much faster a run may be than the one before it
FIRST_GUESS_PER_SECOND: Final = 3_000


class Plan(Protocol):
    """Makes the load of one run that may send up to `count` requests."""

    def __call__(self, count: int) -> Load:
        """The load, fresh if it can be used only once."""


@dataclass(slots=True)
class Variant:
    """One thing to measure: where its load comes from and which process is charged.

    `beside` is a process whose CPU time is noted too: what it does because of this load.
    """

    name: str
    plan: Plan
    server: int
    beside: int | None = None
    per_second: float = FIRST_GUESS_PER_SECOND
    answered: int = 0
    cut_at_most: int = 0
    beside_us_per_request: list[float] = field(default_factory=list)

    def measure(self, *, connections: int, seconds: int, cores: Cores) -> Sample:
        """One run, repeated once if its requests did not last."""
        sample = self._run(connections, seconds, cores)
        if any("used up" in problem for problem in sample.problems):
            self.per_second *= 2
            sample = self._run(connections, seconds, cores)
        return sample

    def _run(self, connections: int, seconds: int, cores: Cores) -> Sample:
        load = self.plan(max(FEWEST, int(self.per_second * seconds * MARGIN)))
        before = 0.0 if self.beside is None else cpu_us(self.beside)
        sample = run(
            load, connections=connections, seconds=seconds, cores=cores, server=self.server
        )
        if self.beside is not None and sample.requests:
            spent = cpu_us(self.beside) - before
            self.beside_us_per_request.append(spent / sample.requests)
        self.per_second = max(sample.per_second, FEWEST / seconds / MARGIN)
        self.answered += sample.requests
        self.cut_at_most += connections + 1  # wrk ends by closing; one more is sent when used up
        return sample


@dataclass(frozen=True, slots=True)
class Schedule:
    """How much is measured; the whole benchmark has to fit into six minutes."""

    rounds: int
    seconds: int
    connections: Sequence[int]


Measurements = dict[int, dict[str, list[Sample]]]  # by connections, by variant, in rounds


def measure(
    variants: Sequence[Variant], schedule: Schedule, cores: Cores, say: Callable[[str], None]
) -> Measurements:
    """All rounds of all variants at every number of connections."""
    measured: Measurements = {
        connections: {variant.name: [] for variant in variants}
        for connections in schedule.connections
    }
    for number in range(schedule.rounds):
        for connections in schedule.connections:
            for variant in variants:
                sample = variant.measure(
                    connections=connections, seconds=schedule.seconds, cores=cores
                )
                measured[connections][variant.name].append(sample)
        say(f"round {number + 1} of {schedule.rounds}")
    return measured


def reused(load: Load) -> Plan:
    """The same load for every run."""
    return lambda count: load  # noqa: ARG005 - it does not run out


def used_once(path: Path, make: Callable[[Path, int], Load]) -> Plan:
    """A new load of `count` requests for every run, through a file."""
    return lambda count: make(path, count)
