"""What an operator reads of a change before agreeing to it."""

from typing import Any

import pytest

from countersign.object_changes import change_lines


def update(before: Any, after: Any) -> list[str]:
    fields = [{"field": "spec.x", "before": before, "after": after}]
    change = {"kind": "Policy", "name": "p", "action": "update", "fields": fields}
    heading, *rest = change_lines(change)
    assert heading == "~ Policy/p"
    return rest


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (900, 901, "900 → 901"),
        (None, True, "null → true"),
        ("a", "b", '"a" → "b"'),
        (["é"], None, '["é"] → null'),
    ],
)
def test_value_that_changes_is_shown_as_yaml_takes_it(before: Any, after: Any, shown: str) -> None:
    assert update(before, after) == [f"    spec.x: {shown}"]


def test_text_that_changes_is_shown_by_its_lines() -> None:
    text = "".join(f"line {number}\n" for number in range(9))
    assert update(text, text.replace("line 4", "line four")) == [
        "    spec.x:",
        "      @@ -3,5 +3,5 @@",
        "       line 2",
        "       line 3",
        "      -line 4",
        "      +line four",
        "       line 5",
        "       line 6",
    ]


def test_text_that_grows_to_lines_and_one_that_shrinks_show_all_of_them() -> None:
    assert update("a", "a\nb")[-2:] == ["       a", "      +b"]
    assert update("a\nb", "a")[-2:] == ["       a", "      -b"]


@pytest.mark.parametrize(("action", "sign"), [("create", "+"), ("delete", "-")])
def test_object_that_comes_or_goes_is_one_line(action: str, sign: str) -> None:
    fields = [{"field": "spec.x", "before": None, "after": 1}]
    change = {"kind": "Agent", "name": "a", "action": action, "fields": fields}
    assert list(change_lines(change)) == [f"{sign} Agent/a"]
