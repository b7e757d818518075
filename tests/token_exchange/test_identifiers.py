import pytest

from token_exchange.identifiers import new_id


def test_new_id_encodes_all_its_random_bytes() -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    assert new_id("tok_", random) == "tok_aaaqeayeaudaocajbifqydiob4"
    assert asked == [16]


def test_new_id_prefix_without_underscore_gives_the_same_id() -> None:
    assert new_id("tok", lambda count: b"\x07" * count) == new_id(
        "tok_", lambda count: b"\x07" * count
    )


@pytest.mark.parametrize("count", [0, 15, 17])
def test_new_id_short_or_long_randomness_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"^the random source gave the wrong number of bytes$"):
        new_id("tok_", lambda _: b"\x00" * count)
