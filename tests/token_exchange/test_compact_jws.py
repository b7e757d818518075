import json
import time

import pytest

from tests.token_exchange.signing import base64url, sign, sign_bytes
from token_exchange.claims import Refusal
from token_exchange.compact_jws import (
    UnverifiedJws,
    decode_base64url,
    encode_base64url,
    parse_compact_jws,
    parse_json,
    parse_json_object,
)

TOKEN = sign({"alg": "ES256"}, {"a": 1})


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.requirement("RFC7515-5.2")
def test_jws_well_formed_is_taken_apart() -> None:
    jws = parse_compact_jws(TOKEN, refuse_as="invalid_client")

    assert isinstance(jws, UnverifiedJws)
    assert jws.header == {"alg": "ES256"}
    assert jws.payload == b'{"a": 1}'
    assert jws.signing_input == TOKEN.rpartition(".")[0].encode()
    assert len(jws.signature) == 64


@pytest.mark.requirement("RFC7515-5.2")
@pytest.mark.requirement("trap-18")
@pytest.mark.parametrize(
    "unverified",
    [
        "",
        "a",
        "a.b",
        "..",
        TOKEN + ".",
        "." + TOKEN,
        TOKEN + "\n",
        " " + TOKEN,
        TOKEN + " ",
        TOKEN.replace(".", ".\n", 1),
        TOKEN.replace(".", "\t.", 1),
        TOKEN + "=",
        TOKEN.replace(".", "=.", 1),
        TOKEN + ".e30.e30",  # the five parts of a JWE
        TOKEN[:-5] + "+" + TOKEN[-4:],
        TOKEN[:-5] + "/" + TOKEN[-4:],
        TOKEN[:-5] + "é" + TOKEN[-4:],
        "A" + TOKEN.partition(".")[0][:1] + TOKEN,
        TOKEN.rpartition(".")[0] + ".A",  # 6 bits are no byte
        TOKEN.partition(".")[0] + ".A." + TOKEN.rpartition(".")[2],
        "A." + TOKEN.partition(".")[2],
    ],
)
def test_jws_with_another_spelling_is_refused(unverified: str) -> None:
    refusal = parse_compact_jws(unverified, refuse_as="invalid_client")

    assert isinstance(refusal, Refusal)
    assert refusal.rule in {"jws.form", "jws.header"}


def test_jws_refusal_says_its_rule_and_the_code_asked_for() -> None:
    text = "The token is not a compact JWS."

    assert parse_compact_jws("a", refuse_as="some_code") == Refusal(
        "some_code", text, text, "jws.form"
    )


@pytest.mark.parametrize(
    ("unverified", "rule"),
    [
        (7, "jws.type"),
        (TOKEN + "A" * 200, "jws.size"),
        (TOKEN + ".", "jws.form"),
        (TOKEN[:-1] + "B", "jws.form"),
        (sign_bytes(b"[]", b"{}"), "jws.header"),
    ],
)
def test_jws_every_refusal_has_the_code_asked_for(unverified: object, rule: str) -> None:
    refusal = parse_compact_jws(unverified, refuse_as="some_code", maximum_bytes=200)

    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.code) == (rule, "some_code")


@pytest.mark.requirement("RFC7515-5.2")
def test_jws_with_stray_bits_in_its_signature_is_refused() -> None:
    # 64 bytes leave four unused bits in the last character.
    twins = [TOKEN[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]

    accepted = [
        token for token in twins if not isinstance(parse_compact_jws(token, refuse_as="x"), Refusal)
    ]

    assert [token[-1] for token in accepted] == ["A", "Q"]


@pytest.mark.parametrize("unverified", [None, 7, b"a.b.c", ["a.b.c"]])
def test_jws_that_is_no_text_is_refused(unverified: object) -> None:
    refusal = parse_compact_jws(unverified, refuse_as="invalid_client")

    assert isinstance(refusal, Refusal)
    assert refusal.rule == "jws.type"


@pytest.mark.requirement("attack-30")
def test_jws_over_the_size_cap_is_refused_and_at_the_cap_is_not() -> None:
    at_cap = parse_compact_jws(TOKEN, refuse_as="x", maximum_bytes=len(TOKEN))
    over_cap = parse_compact_jws(TOKEN, refuse_as="x", maximum_bytes=len(TOKEN) - 1)

    assert isinstance(at_cap, UnverifiedJws)
    assert isinstance(over_cap, Refusal)
    assert over_cap.rule == "jws.size"


@pytest.mark.requirement("attack-30")
def test_jws_default_size_cap_is_sixteen_kibibytes() -> None:
    def sized(length: int) -> str:
        head = f"{base64url(b'{}')}."
        return head + "A" * (length - len(head) - 4) + ".AAA"

    assert isinstance(parse_compact_jws(sized(16_384), refuse_as="x"), UnverifiedJws)
    refusal = parse_compact_jws(sized(16_385), refuse_as="x")
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "jws.size"


@pytest.mark.parametrize("header", [b"[]", b"1", b'"a"', b"null", b"{", b"\xff", b'{"a":1,"a":2}'])
def test_jws_with_a_header_that_is_no_object_is_refused(header: bytes) -> None:
    refusal = parse_compact_jws(sign_bytes(header, b"{}"), refuse_as="invalid_client")

    assert isinstance(refusal, Refusal)
    assert refusal.rule == "jws.header"


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", b"\xff\xfe\xfb\x00"])
def test_base64url_round_trips(data: bytes) -> None:
    text = encode_base64url(data)

    assert "=" not in text
    assert decode_base64url(text) == data


@pytest.mark.parametrize("text", ["A", "AB", "AAA=", "AA==", "A+AA", "A/AA", "AA\n", "é", "AAAAA"])
def test_base64url_with_another_spelling_is_refused(text: str) -> None:
    assert decode_base64url(text) is None


@pytest.mark.requirement("RFC7519-4")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{} {}",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 1}',
        b'{"b": {"a": 1, "\\u0061": 2}}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ["\\u0000"]}',
        b'{"a": [{"b": "\\u0000"}]}',
        b'{"a": "\n"}',
        b"null",
    ],
)
def test_json_of_another_dialect_is_refused(data: bytes) -> None:
    assert parse_json(data) is None


@pytest.mark.requirement("RFC7519-4")
@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "b": {"a": 1}}',
        '{"a": 1.5, "b": 1e3}',
        '{"a": "\\u00e9", "b": "\\ud83d\\ude00", "c": "\\\\u0000"}',
        '{"a": ["\\u0041", 1, true, null, {"b": "é"}]}',
        "[]",
        "17",
    ],
)
def test_json_in_plain_form_is_read(text: str) -> None:
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("data", [b"[]", b"17", b'"a"', b"null"])
def test_json_object_of_another_kind_is_refused(data: bytes) -> None:
    assert parse_json_object(data) is None


def test_json_object_is_read() -> None:
    assert parse_json_object(b'{"a": {}}') == {"a": {}}


@pytest.mark.requirement("attack-30")
def test_json_up_to_the_depth_is_read_and_beyond_is_refused() -> None:
    assert parse_json(nested(16)) is not None
    assert parse_json(nested(17)) is None
    assert parse_json(b'{"a":' * 16 + b"1" + b"}" * 16) is not None
    assert parse_json(b'{"a":' * 17 + b"1" + b"}" * 17) is None


@pytest.mark.requirement("attack-30")
def test_json_wide_but_shallow_is_read() -> None:
    assert parse_json(b"[" + b",".join([b"[],{}"] * 20) + b"]") == [[], {}] * 20


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize(
    ("before", "inner"),
    [
        ("[" + "[]," * 20, 15),  # siblings that were closed again
        ("[" + "{}," * 20, 15),
        ("[" * 10 + "[]," * 20, 6),
        ("[" * 10 + '{"a": {}},' * 20, 6),
        ('["' + "[" * 20 + '",', 15),
    ],
)
def test_json_depth_is_counted_among_many_siblings(before: str, inner: int) -> None:
    def text(depth: int) -> bytes:
        opened = 10 if before.startswith("[[[") else 1
        return (before + "[" * depth + "]" * depth + "]" * opened).encode()

    assert parse_json(text(inner)) == json.loads(text(inner))
    assert parse_json(text(inner + 1)) is None
    assert json.loads(text(inner + 1)) is not None


@pytest.mark.requirement("attack-30")
def test_json_brackets_in_strings_have_no_depth() -> None:
    text = '["' + "[{" * 40 + '\\"[[", "]\\\\", [1]]'

    assert parse_json(text.encode()) == json.loads(text)
    assert parse_json(('["a\\\\", ' + "[" * 16 + "]" * 16 + "]").encode()) is None


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize(
    "data", [b"[" * 12_000, b'"\\"' * 4_000 + b"[" * 20, b'["' + b'\\"[' * 5000]
)
def test_json_built_to_be_slow_is_refused_quickly(data: bytes) -> None:
    started = time.process_time()

    assert parse_json(data) is None
    assert time.process_time() - started < 0.5
