"""Where the bundle of a trust domain comes from: a file, or its bundle endpoint.

A file is read again when it has changed; one that is missing, half written or wrong is no bundle,
for as long as it is so. An endpoint (SPIFFE Federation §5.2.1, profile `https_web`: server
authenticated by Web PKI or the given authorities) is asked again as often as its bundle says, but
at least every five minutes, and at once for a key nobody knows, once per cool-down. The third
source is `spiffe_workload_api`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

from idp_connectors.workload.spiffe_bundle import (
    MAXIMUM_BUNDLE_BYTES,
    BundleError,
    SpiffeBundle,
    parse_bundle,
)
from outbound.fetch_cache import FetchCache
from outbound.fetcher import Fetcher, FetchError, FetchPolicy

FILE_SECONDS: Final = 2.0
MINIMUM_REFRESH_SECONDS: Final = 10

_Version = tuple[int, int, int]


class BundleSource(Protocol):
    """Gives the bundle of one trust domain, new enough to have `key_id` if there is such a key."""

    async def bundle(self, *, key_id: object = None) -> SpiffeBundle:
        """The bundle now.

        Raises:
            BundleError: There is none.
        """


class BundleFile:
    """A bundle document kept up to date by somebody else, such as `spire-server bundle show`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # One reference, because threads replace it: a bundle and the version it was read from.
        self._read_last: tuple[_Version, SpiffeBundle] | None = None

    async def bundle(self, *, key_id: object = None) -> SpiffeBundle:  # noqa: ARG002 - a file has no newer one
        """The bundle the file has now.

        Raises:
            BundleError: It has none, or did not answer within `FILE_SECONDS`.
        """
        try:
            async with asyncio.timeout(FILE_SECONDS):
                return await asyncio.to_thread(self._read)
        except OSError as error:  # TimeoutError is one
            raise BundleError(f"the bundle file cannot be read: {type(error).__name__}") from error

    def _read(self) -> SpiffeBundle:
        facts = self._path.stat()
        version = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        last = self._read_last
        if last is None or version != last[0]:
            with self._path.open("rb") as file:
                last = (version, parse_bundle(file.read(MAXIMUM_BUNDLE_BYTES + 1)))
            self._read_last = last
        return last[1]


@dataclass(frozen=True, slots=True)
class _Fetched:
    bundle: SpiffeBundle
    fresh_until: float


class BundleEndpoint:
    """The bundle a trust domain publishes over https."""

    def __init__(
        self, url: str, policy: FetchPolicy, fetcher: Fetcher, clock: Callable[[], float]
    ) -> None:
        self._url = url
        self._policy = policy
        self._fetcher = fetcher
        self._clock = clock
        self._cache: FetchCache[_Fetched] = FetchCache(clock)

    async def bundle(self, *, key_id: object = None) -> SpiffeBundle:
        """The bundle, fetched anew when it is old or has no key of this id.

        Raises:
            BundleError: There is none that is young enough to be used.
        """

        def suffices(known: _Fetched) -> bool:
            has_key = key_id is None or known.bundle.jwt_keys.find(key_id) is not None
            return has_key and self._clock() < known.fresh_until

        try:
            known = await self._cache.get(self._url, self._fetch, suffices=suffices)
        except FetchError as error:
            raise BundleError(f"the bundle endpoint: {error.code}") from error
        return known.bundle

    async def _fetch(self) -> _Fetched:
        fetched = await self._fetcher.get(self._url, self._policy)
        if fetched.status != HTTPStatus.OK:
            raise FetchError("status", str(fetched.status))
        try:
            bundle = parse_bundle(fetched.body)
        except BundleError as error:
            raise FetchError("not_json", str(error)) from error
        hint = bundle.refresh_hint_seconds
        wait = float("inf") if hint is None else max(hint, MINIMUM_REFRESH_SECONDS)
        return _Fetched(bundle, self._clock() + wait)
