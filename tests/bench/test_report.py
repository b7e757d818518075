import json
from pathlib import Path

from bench.budgets import Budget
from bench.report import (
    Row,
    figure_row,
    plain_row,
    ratio_row,
    rounded,
    row_lines,
    variant_lines,
    write_results,
)
from bench.samples import Sample

AT_LEAST = Budget(name="rate", must=1.5, goal=2.5)
AT_MOST = Budget(name="p99", must=1.5, goal=1.0, is_ceiling=True)
NO_PROMISE = Budget(name="cpu", unit="us")


def runs(*requests: int) -> list[Sample]:
    return [
        Sample(requests=count, seconds=1.0, p50_us=10.0, p99_us=20.0, cpu_us=1000.0)
        for count in requests
    ]


def rate(sample: Sample) -> float:
    return sample.per_second


def test_budget_with_a_floor_is_met_from_the_limit_on() -> None:
    assert [AT_LEAST.verdict(value) for value in (1.4, 1.5, 2.5)] == ["below", "must", "goal"]


def test_budget_with_a_ceiling_is_met_up_to_the_limit() -> None:
    assert [AT_MOST.verdict(value) for value in (1.6, 1.5, 1.0)] == ["below", "must", "goal"]


def test_budget_without_a_promise_has_no_verdict() -> None:
    assert NO_PROMISE.verdict(7.0) == ""


def test_ratio_row_is_the_median_of_the_rounds_ratios() -> None:
    measured = {"ours": runs(300, 100, 400), "go": runs(100, 100, 100)}

    row = ratio_row(AT_LEAST, measured, ours="ours", theirs="go", figure=rate, void=False)

    assert row == Row(AT_LEAST, 3.0, {"ours": 300.0, "go": 100.0}, (1.0, 4.0))
    assert row.has_passed is True


def test_ratio_row_without_its_peer_is_left_out() -> None:
    measured = {"ours": runs(1)}

    assert ratio_row(AT_LEAST, measured, ours="ours", theirs="go", figure=rate, void=False) is None


def test_ratio_row_whose_conditions_did_not_hold_is_void_and_does_not_pass() -> None:
    measured = {"ours": runs(300), "go": runs(100)}

    row = ratio_row(AT_LEAST, measured, ours="ours", theirs="go", figure=rate, void=True)

    assert row is not None
    assert row.value is None
    assert row.has_passed is False
    assert "void" in row_lines([row])[1]


def test_ratio_row_whose_peer_never_answered_is_void() -> None:
    measured = {"ours": runs(300), "go": runs(0)}

    row = ratio_row(AT_LEAST, measured, ours="ours", theirs="go", figure=rate, void=False)

    assert row is not None
    assert row.value is None


def test_figure_row_without_a_promise_neither_passes_nor_fails() -> None:
    row = figure_row(NO_PROMISE, {"ours": runs(10, 20)}, ours="ours", figure=rate, void=False)

    assert row is not None
    assert (row.value, row.has_passed) == (15.0, None)


def test_plain_row_is_the_median_of_the_values() -> None:
    row = plain_row(NO_PROMISE, {"ours": [5.0, 1.0, 3.0]}, ours="ours", void=False)

    assert row == Row(NO_PROMISE, 3.0, {"ours": 3.0}, (1.0, 5.0))
    assert plain_row(NO_PROMISE, {}, ours="ours", void=False) is None


def test_rounding_keeps_three_digits_or_whole_numbers() -> None:
    assert [rounded(value) for value in (0.12345, 12.345, 12345.6)] == [0.123, 12.3, 12346.0]


def test_results_file_is_a_list_of_rows_with_their_budgets(tmp_path: Path) -> None:
    rows = [
        Row(AT_LEAST, 1.6, {"ours": 160.0, "go": 100.0}, (1.5, 1.7)),
        Row(AT_MOST, None, {}),
    ]

    write_results(tmp_path / "results.json", rows)

    assert json.loads((tmp_path / "results.json").read_text()) == [
        {
            "name": "rate",
            "value": 1.6,
            "unit": "x",
            "must": 1.5,
            "goal": 2.5,
            "pass": True,
            "peers": {"ours": 160.0, "go": 100.0},
        },
        {
            "name": "p99",
            "value": None,
            "unit": "x",
            "must": 1.5,
            "goal": 1.0,
            "pass": False,
            "peers": {},
        },
    ]


def test_table_shows_every_variant_and_how_much_of_the_core_others_took() -> None:
    busy = Sample(
        requests=10, seconds=1.0, p50_us=10.0, p99_us=20.0, cpu_us=1000.0, foreign_us=250_000.0
    )

    lines = variant_lines({"ours": [busy]})

    assert lines[1].split() == ["ours", "10", "10", "20", "100.0", "25%"]
