"""From samples to the printed table and `results.json`. Pure but for the one file written.

A row whose conditions did not hold is void: it has no value and does not pass, and its reason is
printed under the table. A peer that could not be had has no row at all.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.budgets import Budget
from bench.samples import Figure, Sample, middle, ratio_per_round

Measured = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure under one budget. `value` None: void. `rounds`: lowest and highest round."""

    budget: Budget
    value: float | None
    peers: Mapping[str, float] = field(default_factory=dict)
    rounds: tuple[float, float] | None = None

    @property
    def has_passed(self) -> bool | None:
        """None where nothing is promised and nothing is void."""
        if self.value is None:
            return False
        return (
            None if self.budget.must is None else self.budget.is_met(self.value, self.budget.must)
        )

    def as_json(self) -> dict[str, Any]:
        """The row as `results.json` has it."""
        return {
            "name": self.budget.name,
            "value": None if self.value is None else rounded(self.value),
            "unit": self.budget.unit,
            "must": self.budget.must,
            "goal": self.budget.goal,
            "pass": self.has_passed,
            "peers": {name: rounded(value) for name, value in self.peers.items()},
        }


def ratio_row(
    budget: Budget, measured: Measured, *, ours: str, theirs: str, figure: Figure, void: bool
) -> Row | None:
    """The median over the rounds of ours against theirs; None when one was not measured."""
    if ours not in measured or theirs not in measured:
        return None
    peers = {name: middle(measured[name], figure) for name in (ours, theirs)}
    ratios = ratio_per_round(measured[ours], measured[theirs], figure)
    if void or not ratios:
        return Row(budget, None, peers)
    return Row(budget, median(ratios), peers, (min(ratios), max(ratios)))


def figure_row(
    budget: Budget, measured: Measured, *, ours: str, figure: Figure, void: bool
) -> Row | None:
    """A figure of our own, with the same figure of everybody else beside it."""
    if ours not in measured:
        return None
    peers = {name: middle(samples, figure) for name, samples in measured.items()}
    values = [figure(sample) for sample in measured[ours]]
    if void:
        return Row(budget, None, peers)
    return Row(budget, median(values), peers, (min(values), max(values)))


def plain_row(
    budget: Budget, values: Mapping[str, Sequence[float]], *, ours: str, void: bool
) -> Row | None:
    """A figure that is no sample's own, by variant and round."""
    if not values.get(ours):
        return None
    peers = {name: median(each) for name, each in values.items()}
    if void:
        return Row(budget, None, peers)
    return Row(budget, median(values[ours]), peers, (min(values[ours]), max(values[ours])))


def variant_lines(measured: Measured) -> list[str]:
    """What was measured of each variant: medians of the rounds.

    `core taken` is the part of the time in which others used the measured core.
    """
    head = f"{'':<30}{'req/s':>9}{'p50 us':>9}{'p99 us':>9}{'CPU us/req':>12}{'core taken':>12}"
    return [head] + [
        f"{name:<30}{middle(samples, lambda each: each.per_second):>9,.0f}"
        f"{middle(samples, lambda each: each.p50_us):>9,.0f}"
        f"{middle(samples, lambda each: each.p99_us):>9,.0f}"
        f"{middle(samples, lambda each: each.cpu_us_per_request):>12,.1f}"
        f"{middle(samples, lambda each: each.foreign_share):>12.0%}"
        for name, samples in measured.items()
    ]


def row_lines(rows: Iterable[Row]) -> list[str]:
    """The rows with their budgets, one a line."""
    head = f"{'':<66}{'value':>8}{'rounds':>16}{'must':>8}{'goal':>8}  verdict"
    return [head, *map(_row_line, rows)]


def _row_line(row: Row) -> str:
    budget = row.budget
    value = "-" if row.value is None else f"{rounded(row.value):g}"
    rounds = "" if row.rounds is None else "..".join(f"{rounded(each):g}" for each in row.rounds)
    sign = "<=" if budget.is_ceiling else ">="
    must, goal = (
        "" if limit is None else f"{sign}{limit:g}" for limit in (budget.must, budget.goal)
    )
    name = budget.name if budget.unit == "x" else f"{budget.name} ({budget.unit})"
    return (
        f"{name:<66}{value:>8}{rounds:>16}{must:>8}{goal:>8}  {budget.verdict(row.value)}".rstrip()
    )


def rounded(value: float) -> float:
    """Three significant digits below a thousand: more would be noise."""
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """`results.json`: a list, one entry a row."""
    path.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
