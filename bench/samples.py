"""One timed run, and what several of them say: medians, and ratios round by round. Pure.

Two shared cores change their speed within seconds, so an absolute figure says little. Every round
measures every variant once, one after the other; a ratio is taken inside a round, and the median
of the rounds is what is reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Figure = Callable[["Sample"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run against one variant. `cpu_us` is the CPU time of its whole process tree.

    `foreign_us` is how long its core was busy with something else meanwhile. `problems`: why the
    run may not count, such as answers that were not 2xx.
    """

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_us: float
    foreign_us: float = 0.0
    problems: tuple[str, ...] = ()

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def cpu_us_per_request(self) -> float:
        return self.cpu_us / self.requests if self.requests else 0.0

    @property
    def per_cpu_second(self) -> float:
        return self.requests / (self.cpu_us / 1e6) if self.cpu_us else 0.0

    @property
    def foreign_share(self) -> float:
        """The part of the time in which the measured core worked for somebody else."""
        return self.foreign_us / (self.seconds * 1e6) if self.seconds else 0.0


def middle(samples: Sequence[Sample], figure: Figure) -> float:
    """The median of a figure over the rounds."""
    return median(figure(sample) for sample in samples)


def ratio_per_round(
    ours: Sequence[Sample], theirs: Sequence[Sample], figure: Figure
) -> tuple[float, ...]:
    """Ours against theirs in each round; a round in which the peer shows nothing is left out.

    Raises:
        ValueError: The two were not measured in the same rounds.
    """
    if len(ours) != len(theirs):
        raise ValueError("only variants measured in the same rounds can be compared")
    pairs = [(figure(a), figure(b)) for a, b in zip(ours, theirs, strict=True)]
    return tuple(a / b for a, b in pairs if b > 0)


def problems_of(measured: Mapping[str, Sequence[Sample]]) -> tuple[str, ...]:
    """Everything that speaks against counting these runs, once each, with the variant's name."""
    found = (
        f"{variant}: {problem}"
        for variant, samples in measured.items()
        for sample in samples
        for problem in sample.problems
    )
    return tuple(dict.fromkeys(found))
