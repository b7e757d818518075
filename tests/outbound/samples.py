"""What the tests of `outbound` share: a clock, a fetcher that answers from a table, keys."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy

POLICY = FetchPolicy()


class Clock:
    """Time that stands still until told otherwise."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class TableFetcher(Fetcher):
    """Answers from a table of URLs; what is not in it is not there. Remembers what was asked."""

    def __init__(self, table: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.table: dict[str, Any] = table or {}
        self.asked: list[str] = []
        self.failure: FetchError | None = None

    async def get(
        self, url: str, policy: FetchPolicy, *, headers: Sequence[tuple[str, str]] = ()
    ) -> Fetched:
        del policy, headers
        self.asked.append(url)
        if self.failure is not None:
            raise self.failure
        if url not in self.table:
            return Fetched(404, {}, b"")
        return Fetched(200, {}, json.dumps(self.table[url]).encode())


def base64url_number(number: int, *, pad_to: int = 0) -> str:
    data = number.to_bytes(max((number.bit_length() + 7) // 8, pad_to), "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
