import pytest

from bench.load import sample_of

RESULT = {
    "requests": 100,
    "microseconds": 2_000_000,
    "p50": 120.0,
    "p99": 900.0,
    "socket_errors": 0,
    "not_2xx": 0,
    "exhausted": 0,
}


def test_result_of_a_clean_run_is_a_sample_without_problems() -> None:
    sample = sample_of(RESULT, 50_000.0, 1_000.0)

    assert (sample.requests, sample.seconds, sample.p50_us, sample.p99_us) == (100, 2, 120, 900)
    assert (sample.cpu_us, sample.foreign_us, sample.problems) == (50_000.0, 1_000.0, ())


@pytest.mark.parametrize(
    ("figure", "problem"),
    [
        ({"not_2xx": 1}, "not 2xx"),
        ({"socket_errors": 1}, "socket errors"),
        ({"exhausted": 1}, "used up"),
        ({"requests": 0}, "nothing was answered"),
    ],
)
def test_result_with_a_fault_names_it(figure: dict[str, int], problem: str) -> None:
    sample = sample_of(RESULT | figure, 50_000.0, 0.0)

    assert [problem in each for each in sample.problems] == [True]
