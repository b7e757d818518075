"""Every site of the world, without a socket: each URL has a client metadata document that fits."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy

if TYPE_CHECKING:
    import asyncio


class Site(Fetcher):
    """Answers for every URL. What it says is for the test to turn."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, FetchPolicy]] = []
        self.headers = {"content-type": "application/json"}
        self.status = 200
        self.members: dict[str, Any] = {}
        self.body: bytes | None = None
        self.files: dict[str, bytes] = {}  # by URL: what is no document
        self.failure: FetchError | None = None
        self.hold: asyncio.Event | None = None

    async def get(
        self, url: str, policy: FetchPolicy, *, headers: Sequence[tuple[str, str]] = ()
    ) -> Fetched:
        """The document of this URL."""
        del headers
        self.asked.append((url, policy))
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        if url in self.files:
            return Fetched(200, self.headers, self.files[url])
        host = url.split("/")[2]
        document = {"client_id": url, "client_name": "C", "redirect_uris": [f"https://{host}/cb"]}
        body = self.body or json.dumps(document | self.members).encode()
        return Fetched(self.status, self.headers, body)
