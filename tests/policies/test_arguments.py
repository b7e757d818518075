from typing import Any

import pytest

from policies.arguments import (
    MAXIMUM_ARGUMENT_DEPTH,
    MAXIMUM_LEAVES,
    TooManyArgumentsError,
    tag_at,
    tags,
    typed_record,
)
from policies.input_types import CedarType, RecordType, SetType

LARGEST = 2**63 - 1
SMALLEST = -(2**63)


def decimal(text: str) -> dict[str, Any]:
    return {"__extn": {"fn": "decimal", "arg": text}}


def typed(value: object, of: CedarType) -> tuple[object, set[str]]:
    """One argument `x` as typed, and the pointers that were not."""
    unmapped: set[str] = set()
    return typed_record({"x": value}, RecordType({"x": of}), "", unmapped).get("x"), unmapped


@pytest.mark.parametrize(
    ("value", "of", "expected"),
    [
        ("text", "String", "text"),
        ("", "String", ""),
        (True, "Bool", True),
        (False, "Bool", False),
        (0, "Long", 0),
        (LARGEST, "Long", LARGEST),
        (SMALLEST, "Long", SMALLEST),
        (7, "decimal", decimal("7.0000")),
        (0.5, "decimal", decimal("0.5000")),
        (-0.0, "decimal", decimal("0.0000")),
        (-0.25, "decimal", decimal("-0.2500")),
        (1e3, "decimal", decimal("1000.0000")),
        (922337203685477, "decimal", decimal("922337203685477.0000")),
        (["a", "b"], SetType("String"), ["a", "b"]),
        ([], SetType("String"), []),
        ([1, 2], SetType("Long"), [1, 2]),
        ([False], SetType("Bool"), [False]),
        ([0.5], SetType("decimal"), [decimal("0.5000")]),
        ({"a": 1}, RecordType({"a": "Long"}), {"a": 1}),
        ({}, RecordType({"a": "Long"}), {}),
        ({"a": {"b": "c"}}, RecordType({"a": RecordType({"b": "String"})}), {"a": {"b": "c"}}),
    ],
)
def test_value_that_fits_is_carried_exactly(value: object, of: CedarType, expected: object) -> None:
    found, unmapped = typed(value, of)
    assert found == expected
    assert type(found) is type(expected)
    assert unmapped == set()


@pytest.mark.parametrize(
    ("value", "of"),
    [
        (1, "String"),
        (1, "Bool"),
        ("true", "Bool"),
        (True, "Long"),
        (1.0, "Long"),
        ("1", "Long"),
        (LARGEST + 1, "Long"),
        (SMALLEST - 1, "Long"),
        (True, "decimal"),
        ("1.0", "decimal"),
        (0.00001, "decimal"),
        (1.23456, "decimal"),
        (1e300, "decimal"),
        (float("nan"), "decimal"),
        (float("inf"), "decimal"),
        (922337203685478, "decimal"),
        (-922337203685478, "decimal"),
        ("a", SetType("String")),
        (["a", 1], SetType("String")),
        (["a", None], SetType("String")),
        ([True], SetType("Long")),
        ({"a": 1}, SetType("String")),
        ([], RecordType({"a": "Long"})),
        ("a", RecordType({"a": "Long"})),
        ({"a": 1}, "String"),
        ([1], "Long"),
    ],
)
def test_value_that_does_not_fit_is_left_out_whole_and_named(value: object, of: CedarType) -> None:
    assert typed(value, of) == (None, {"/x"})


@pytest.mark.parametrize("of", ["String", "Long", SetType("String"), RecordType({"a": "Long"})])
def test_null_is_absence_and_not_unmapped(of: CedarType) -> None:
    assert typed(None, of) == (None, set())


def test_argument_the_schema_does_not_have_is_unmapped() -> None:
    unmapped: set[str] = set()
    assert typed_record({"x": 1, "y/z~": 2}, RecordType({"x": "Long"}), "", unmapped) == {"x": 1}
    assert unmapped == {"/y~1z~0"}


def test_null_before_other_arguments_ends_nothing() -> None:
    unmapped: set[str] = set()
    of = RecordType({"a": "Long", "b": "Long"})
    assert typed_record({"a": None, "b": 2, "c": 3}, of, "", unmapped) == {"b": 2}
    assert unmapped == {"/c"}


def test_member_that_does_not_fit_leaves_its_record_and_siblings() -> None:
    of = RecordType({"a": "Long", "b": "String"})
    assert typed({"a": "no", "b": "yes", "c": 0, "d": None}, of) == (
        {"b": "yes"},
        {"/x/a", "/x/c"},
    )


LEAVES = {
    "s": "text",
    "i": 7,
    "f": 0.5,
    "b": True,
    "n": None,
    "big": LARGEST + 1,
    "fine": 0.00001,
    "list": ["a", "b"],
    "mixed": ["a", 1],
    "empty": [],
    "nested": {"k/~": [{"deep": False}]},
    "rows": [["x"]],
    "*": "star",
}
TAGS = {
    "/s": {"str": "text"},
    "/i": {"int": 7},
    "/f": {"num": decimal("0.5000")},
    "/b": {"bool": True},
    "/list/*": {"set": ["a", "b"]},
    "/list/0": {"str": "a"},
    "/list/1": {"str": "b"},
    "/mixed/0": {"str": "a"},
    "/mixed/1": {"int": 1},
    "/empty/*": {"set": []},
    "/nested/k~1~0/0/deep": {"bool": False},
    "/rows/0/*": {"set": ["x"]},
    "/rows/0/0": {"str": "x"},
    "/*": {"str": "star"},
}


def test_tags_hold_every_leaf_by_json_pointer() -> None:
    assert tags({**LEAVES, "big": 2.0**70}) == TAGS
    assert tags(LEAVES) == TAGS


@pytest.mark.parametrize(("pointer", "tag"), TAGS.items())
def test_tag_at_a_pointer_is_the_tag_of_the_whole(pointer: str, tag: object) -> None:
    assert tag_at(LEAVES, pointer) == tag


@pytest.mark.parametrize(
    "pointer",
    [
        "",
        "/",
        "s",
        "s/s",
        "/none",
        "/n",
        "/big",
        "/fine",
        "/list",
        "/list/2",
        "/list/-1",
        "/list/01",
        "/list/+1",
        "/list/²",
        "/list/\u0660",
        "/list/99999999999999999999",
        "/list/",
        "/list/*/0",
        "/mixed/*",
        "/nested",
        "/nested/*",
        "/nested/k/~",
        "/s/0",
        "/rows/*",
        "/rows/0",
    ],
)
def test_pointer_to_nothing_that_has_a_tag_gives_none(pointer: str) -> None:
    assert pointer not in tags(LEAVES)
    assert tag_at(LEAVES, pointer) is None


def test_integer_beyond_64_bits_that_is_a_decimal_has_no_tag() -> None:
    assert tags({"x": SMALLEST - 1, "y": SMALLEST, "z": LARGEST}) == {
        "/y": {"int": SMALLEST},
        "/z": {"int": LARGEST},
    }


def deep(levels: int, leaf: object) -> dict[str, Any]:
    value: Any = leaf
    for _ in range(levels):
        value = {"x": value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("leaf", ["v", ["v"]])
def test_leaf_below_the_depth_limit_has_no_tag(leaf: object) -> None:
    below = deep(MAXIMUM_ARGUMENT_DEPTH + 1, leaf)
    assert tags(below) == {}
    assert tag_at(below, "/x" * (MAXIMUM_ARGUMENT_DEPTH + 1)) is None


def test_leaf_at_the_depth_limit_has_its_tag() -> None:
    pointer = "/x" * MAXIMUM_ARGUMENT_DEPTH
    at = deep(MAXIMUM_ARGUMENT_DEPTH, "v")
    assert tags(at) == {pointer: {"str": "v"}}
    assert tag_at(at, pointer) == {"str": "v"}


def test_lists_count_as_one_level_each() -> None:
    value: Any = "v"
    for _ in range(MAXIMUM_ARGUMENT_DEPTH - 1):
        value = [value]
    pointer = "/x" + "/0" * (MAXIMUM_ARGUMENT_DEPTH - 1)
    assert tags({"x": value})[pointer] == {"str": "v"}
    assert pointer + "/0" not in tags({"x": [value]})


def test_list_at_the_depth_limit_has_no_set_because_its_elements_are_too_deep() -> None:
    at = deep(MAXIMUM_ARGUMENT_DEPTH, ["v"])
    assert tags(at) == {}
    assert tag_at(at, "/x" * MAXIMUM_ARGUMENT_DEPTH + "/*") is None


def test_as_many_leaves_as_allowed_are_judged() -> None:
    assert len(tags({str(n): n for n in range(MAXIMUM_LEAVES)})) == MAXIMUM_LEAVES


def test_one_leaf_more_than_allowed_is_refused() -> None:
    with pytest.raises(TooManyArgumentsError):
        tags({str(n): n for n in range(MAXIMUM_LEAVES + 1)})
