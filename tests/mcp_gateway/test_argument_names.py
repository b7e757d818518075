"""What it takes to compare the names of arguments has a bound: a kill waits for it."""

from collections.abc import Iterator
from typing import Any

import pytest

from mcp_gateway.argument_names import MAXIMUM_PARTS, TOO_MANY, TWINS, problem_of_names

WIDE = {f"column_{number}": {"type": "string"} for number in range(100)}
ROWS = {"properties": {"rows": {"items": {"properties": WIDE}}}}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"column_1": "a"}, {"other": "a"}], None),
        ([{"column_1": "a"}, {"COLUMN_7": "a"}], TWINS),
        ([{"x": "a", "X": "b"}], TWINS),
        ([{}] * (MAXIMUM_PARTS - 2), None),  # and two: the arguments, and the list
        ([{}] * (MAXIMUM_PARTS - 1), TOO_MANY),
        ([[[]]] * MAXIMUM_PARTS, TOO_MANY),
    ],
)
def test_names_are_compared_in_as_many_objects_and_lists_as_there_may_be(
    rows: list[Any], problem: str | None
) -> None:
    assert problem_of_names({"rows": rows}, ROWS) == problem


class Counted(dict[str, Any]):
    """Properties that count how often somebody goes through all of them."""

    walks = 0

    def __iter__(self) -> Iterator[str]:
        self.walks += 1
        return super().__iter__()


def test_names_of_the_schema_are_gone_through_once_however_many_members_it_describes() -> None:
    properties = Counted(WIDE)
    schema = {"properties": {"rows": {"items": {"properties": properties}}}}
    assert problem_of_names({"rows": [{"other": 1}] * 50}, schema) is None
    assert properties.walks == 1
