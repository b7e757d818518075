import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.strict_json import (
    MAXIMUM_DEPTH,
    MAXIMUM_VALUES,
    JsonProblem,
    StrictJsonError,
    decode_strictly,
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def problem_of(body: bytes) -> JsonProblem | None:
    try:
        decode_strictly(body)
    except StrictJsonError as error:
        return error.problem
    return None


@given(JSON_VALUES)
def test_json_any_value_is_decoded_as_it_is(value: object) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert decode_strictly(text) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b"[1,]",
        b'{"a":1}{"b":2}',
        b'{"a":NaN}',
        b"[Infinity]",
        b"\xff\xfe{\x00}\x00",
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'"a\x00b"',
    ],
)
def test_json_not_json_in_utf8_is_refused(body: bytes) -> None:
    assert problem_of(body) is JsonProblem.SYNTAX


@pytest.mark.parametrize(
    "body",
    [b'{"a":1,"a":2}', b'{"x":{"a":1,"b":2,"a":1}}', b'[{"a":1,"\\u0061":2}]'],
)
def test_json_repeated_key_is_refused_at_any_depth(body: bytes) -> None:
    assert problem_of(body) is JsonProblem.REPEATED_KEY


@pytest.mark.requirement("trap-number-rewritten")
@pytest.mark.parametrize(
    "number",
    [
        "0.1000000000000000055511151231257827021181583404541015625",
        "12345678901234567890.5",
        "1e400",
        "-1e999999999999999999999",
        "1e-400",
        "0e99999999999999999999999",
        "1" * 5000,
    ],
)
def test_json_number_that_changes_on_the_way_is_refused(number: str) -> None:
    assert problem_of(f'{{"a":{number}}}'.encode()) is JsonProblem.NUMBER


@pytest.mark.parametrize("number", ["0.1", "1.10", "1e3", "-0.0", "12345678901234567890123", "0"])
def test_json_number_that_survives_is_accepted(number: str) -> None:
    assert problem_of(f"[{number}]".encode()) is None


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\udc00\\ud800"', '{"\\uDBFF":1}', '"x\\uD83D"'])
def test_json_lone_surrogate_is_refused(text: str) -> None:
    assert problem_of(text.encode()) is JsonProblem.SURROGATE


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\\\ud800"', '"\\u00e9"'])
def test_json_escape_that_is_whole_is_accepted(text: str) -> None:
    assert decode_strictly(text.encode()) == json.loads(text)


def test_json_depth_up_to_the_limit_is_accepted_and_beyond_refused() -> None:
    deepest = "[" * MAXIMUM_DEPTH + "]" * MAXIMUM_DEPTH
    assert problem_of(deepest.encode()) is None
    assert problem_of(f"[{deepest}]".encode()) is JsonProblem.DEPTH
    assert problem_of(b'{"a":' * 40_000) is JsonProblem.DEPTH


def test_json_many_flat_brackets_are_not_depth() -> None:
    assert problem_of(b"[" + b"{}," * 500 + b"{}]") is None


@pytest.mark.parametrize("value", ["1.5", "[]", "{}", "0", '{"a":1}'])
def test_json_of_more_values_than_anybody_means_is_refused(value: str) -> None:
    def listed(count: int) -> bytes:
        return f"[{','.join([value] * count)}]".encode()

    assert problem_of(listed(MAXIMUM_VALUES + 1)) is JsonProblem.VALUES
    assert problem_of(listed(MAXIMUM_VALUES // 3)) is None


@pytest.mark.parametrize("text", ["a,b[{," * 200_000, '\\",' * 200_000])
def test_json_one_long_text_is_one_value(text: str) -> None:
    body = json.dumps({"csv": text}).encode()
    assert decode_strictly(body) == {"csv": text}


def test_json_text_without_its_end_is_no_way_around_the_count_and_no_json() -> None:
    assert problem_of(b'["' + b'\\",' * 200_000) is JsonProblem.SYNTAX
