"""The metadata an issuer publishes about itself (OpenID Discovery §4, RFC 8414 §3).

The OpenID document first, the OAuth one if there is none. INVARIANT: its `issuer` is the one we
asked for, byte for byte (RFC 8414 §3.3), or nothing in it is used: else one server could name
another's keys as its own. What the endpoints in it may be is judged when they are used.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from outbound.fetch_cache import Clock, FetchCache
from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy

_NOT_HERE: Final = frozenset((HTTPStatus.NOT_FOUND, HTTPStatus.GONE))


async def discover(fetcher: Fetcher, issuer: str, policy: FetchPolicy) -> Mapping[str, Any]:
    """The metadata of an issuer.

    Raises:
        FetchError: not to be had, not JSON, or of another issuer (`issuer`).
    """
    openid, oauth = metadata_urls(issuer)
    fetched = await fetcher.get(openid, policy)
    if fetched.status in _NOT_HERE:
        fetched = await fetcher.get(oauth, policy)
    return _metadata(fetched, issuer)


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Where an issuer's OpenID (appended) and OAuth (inserted) metadata would be."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{origin}{path}/.well-known/openid-configuration",
        f"{origin}/.well-known/oauth-authorization-server{path}",
    )


class DiscoveryCache:
    """Metadata by issuer and policy; refreshed, bounded, and failures remembered."""

    def __init__(self, fetcher: Fetcher, clock: Clock) -> None:
        self._fetcher = fetcher
        self._cache: FetchCache[Mapping[str, Any]] = FetchCache(clock)

    async def metadata(self, issuer: str, policy: FetchPolicy) -> Mapping[str, Any]:
        """The metadata of an issuer.

        Raises:
            FetchError: as `discover`, or the same again within the cool-down.
        """
        return await self._cache.get(
            (issuer, policy), lambda: discover(self._fetcher, issuer, policy)
        )


def _metadata(fetched: Fetched, issuer: str) -> Mapping[str, Any]:
    if fetched.status != HTTPStatus.OK:
        raise FetchError("status", str(fetched.status))
    metadata = fetched.json_object()
    if metadata.get("issuer") != issuer:
        raise FetchError("issuer", "the metadata is of another issuer")
    return metadata
