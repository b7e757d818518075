"""What it takes to compare the names of arguments has a bound: a kill waits for it."""

from collections.abc import Iterator
from typing import Any

import pytest

from mcp_gateway.argument_names import MAXIMUM_COUNTED, TOO_MANY, TWINS, problem_of_names

WIDE = {f"column_{number}": {"type": "string"} for number in range(100)}
ROWS = {"properties": {"rows": {"items": {"properties": WIDE}}}}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"column_1": "a"}, {"other": "a"}], None),
        ([{"column_1": "a"}, {"COLUMN_7": "a"}], TWINS),
        ([{"x": "a", "X": "b"}], TWINS),
        # And three: the arguments, their one name, and the list.
        ([[1]] * (MAXIMUM_COUNTED - 3), None),
        ([[1]] * (MAXIMUM_COUNTED - 2), TOO_MANY),
        ([{"a": 1}] * ((MAXIMUM_COUNTED - 3) // 2), None),
        ([{"a": 1}] * (MAXIMUM_COUNTED // 2), TOO_MANY),
        ([dict.fromkeys(map(str, range(MAXIMUM_COUNTED - 4)))], None),
        ([dict.fromkeys(map(str, range(MAXIMUM_COUNTED - 3)))], TOO_MANY),
        ([[], {}, 1] * MAXIMUM_COUNTED, None),
    ],
)
def test_names_are_compared_among_as_many_as_there_may_be(
    rows: list[Any], problem: str | None
) -> None:
    assert problem_of_names({"rows": rows}, ROWS) == problem


class Watched(list[Any]):
    """A list that counts how many of its elements were looked at."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for each in super().__iter__():
            self.seen += 1
            yield each


def test_list_of_too_many_is_left_where_the_bound_is() -> None:
    rows = Watched([[1]] * (10 * MAXIMUM_COUNTED))
    assert problem_of_names({"rows": rows}, ROWS) == TOO_MANY
    assert rows.seen < MAXIMUM_COUNTED


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
