"""Moments as people type them and as they are shown."""

import pytest
import typer

from countersign.cli.moments import moment_of, shown_moment

NOON = 1_700_000_000.0  # 2023-11-14T22:13:20Z


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("15m", "2023-11-14T21:58:20+00:00"),
        ("7d", "2023-11-07T22:13:20+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T12:00:00+02:00"),
    ],
)
def test_span_or_time_is_a_moment(text: str, moment: str) -> None:
    assert moment_of(text, NOON) == moment


@pytest.mark.parametrize("text", ["", "15", "m", "yesterday", "999999w"])
def test_anything_else_says_what_would_be_right(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="15m"):
        moment_of(text, NOON)


@pytest.mark.parametrize("moment", [NOON, "2023-11-14T22:13:20.999Z", "2023-11-15T00:13:20+02:00"])
def test_moments_are_shown_in_one_form(moment: str | float) -> None:
    assert shown_moment(moment) == "2023-11-14T22:13:20Z"
