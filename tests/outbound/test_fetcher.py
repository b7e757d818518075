"""The fetcher without a network: what is refused opens no socket (pytest would stop it)."""

import asyncio
from collections.abc import Sequence

import pytest

from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy
from tests.outbound.samples import POLICY

pytestmark = pytest.mark.anyio


class Names:
    """A resolver with one answer after the other; the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def code_of(fetcher: Fetcher, url: str, policy: FetchPolicy = POLICY) -> str:
    with pytest.raises(FetchError) as caught:
        await fetcher.get(url, policy)
    return caught.value.code


@pytest.mark.requirement("attack-3")
async def test_private_address_is_refused_without_a_socket() -> None:
    names = Names(["10.0.0.7"])
    assert await code_of(Fetcher(names), "https://idp.example.com/") == "address_refused"
    assert names.asked == [("idp.example.com", 443)]


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"])
async def test_private_literal_is_refused_without_a_question(host: str) -> None:
    names = Names(["93.184.216.34"])
    assert await code_of(Fetcher(names), f"https://{host}/") == "address_refused"
    assert names.asked == []


async def test_name_that_is_not_found_is_unreachable() -> None:
    async def nothing(_host: str, _port: int) -> Sequence[str]:
        raise OSError("no such name")

    assert await code_of(Fetcher(nothing), "https://idp.example.com/") == "unreachable"


@pytest.mark.requirement("attack-3")
async def test_resolver_that_never_answers_costs_the_deadline_only() -> None:
    async def forever(_host: str, _port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    policy = FetchPolicy(total_seconds=0.01)
    assert await code_of(Fetcher(forever), "https://idp.example.com/", policy) == "timeout"


async def test_closed_fetcher_fetches_nothing() -> None:
    fetcher = Fetcher(Names(["93.184.216.34"]))
    await fetcher.aclose()
    assert await code_of(fetcher, "https://idp.example.com/") == "unreachable"


async def test_missing_ca_bundle_refuses() -> None:
    policy = FetchPolicy(ca_bundle="/nowhere/ca.pem")
    names = Names(["93.184.216.34"])
    assert await code_of(Fetcher(names), "https://idp.example.com/", policy) == "unreachable"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b"\xff",
        b'{"a":' * 99_999,
        b'{"name":"\\ud800"}',
        b'{"groups":["\\udfff\\ud800"]}',
        b'{"\\udc00":1}',
    ],
)
def test_body_that_is_no_plain_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(FetchError) as caught:
        Fetched(200, {}, body).json_object()
    assert caught.value.code == "not_json"
    assert Fetched(200, {}, b'{"a": 1}').json_object() == {"a": 1}
    assert Fetched(200, {}, b'{"\\ud83d\\ude00": "\\u00e9\\\\u0000"}').json_object() == {
        "\N{GRINNING FACE}": "\u00e9\\u0000"
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"\\ud800"}',
        b'{"a":[{"b":"x\\udfff"}]}',
        b'{"\\udc00":1}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
    ],
)
def test_body_with_what_cannot_be_written_again_is_refused(body: bytes) -> None:
    with pytest.raises(FetchError) as caught:
        Fetched(200, {}, body).json_object()
    assert caught.value.code == "not_json"
    # Both halves are one character, and an escaped backslash is no escape.
    fine = Fetched(200, {}, b'{"a":"\\ud83d\\ude00","b":"\\\\ud800","c":1e99}')
    assert fine.json_object() == {"a": "\U0001f600", "b": "\\ud800", "c": 1e99}


def test_error_text_holds_no_url() -> None:
    assert str(FetchError("status", "500")) == "status: 500"
