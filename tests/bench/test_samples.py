import pytest

from bench.samples import Sample, middle, problems_of, ratio_per_round


def sample(**given: object) -> Sample:
    values = {"requests": 100, "seconds": 2.0, "p50_us": 1.0, "p99_us": 2.0, "cpu_us": 500_000.0}
    return Sample(**{**values, **given})  # type: ignore[arg-type] # each test gives its own type


def test_sample_of_a_run_says_its_rates() -> None:
    run = sample(requests=100, seconds=2.0, cpu_us=500_000.0, foreign_us=200_000.0)

    assert run.per_second == 50
    assert run.cpu_us_per_request == 5_000
    assert run.per_cpu_second == 200
    assert run.foreign_share == pytest.approx(0.1)


def test_sample_of_nothing_has_rates_of_zero() -> None:
    run = sample(requests=0, seconds=0.0, cpu_us=0.0)

    assert (run.per_second, run.cpu_us_per_request, run.per_cpu_second) == (0, 0, 0)


def test_middle_of_three_rounds_ignores_the_outlier() -> None:
    rounds = [sample(p50_us=10.0), sample(p50_us=900.0), sample(p50_us=12.0)]

    assert middle(rounds, lambda each: each.p50_us) == 12.0


def test_ratio_is_taken_inside_each_round() -> None:
    # The machine was twice as fast in the second round: the ratio must not see that.
    ours = [sample(requests=100), sample(requests=200)]
    theirs = [sample(requests=50), sample(requests=100)]

    assert ratio_per_round(ours, theirs, lambda each: each.per_second) == (2.0, 2.0)


def test_ratio_with_a_silent_peer_leaves_that_round_out() -> None:
    ours, theirs = [sample(), sample()], [sample(requests=0), sample()]

    assert ratio_per_round(ours, theirs, lambda each: each.per_second) == (1.0,)


def test_ratio_of_different_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        ratio_per_round([sample()], [sample(), sample()], lambda each: each.per_second)


def test_problems_are_named_once_with_their_variant() -> None:
    bad = sample(problems=("socket errors",))

    assert problems_of({"nginx": [sample()], "ours": [bad, bad]}) == ("ours: socket errors",)
