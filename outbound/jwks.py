"""Other issuers' keys, fetched when they are needed and kept (attack-4: not for every token).

A `kid` we do not know may be a key that is new: the set is fetched again, but once per cool-down,
however many tokens with invented `kid`s arrive. A URL comes from configuration or from the
issuer's own metadata, never from a token.
"""

from http import HTTPStatus

from outbound.fetch_cache import Clock, FetchCache
from outbound.fetcher import Fetcher, FetchError, FetchPolicy
from outbound.public_keys import SIGNATURE_USES, ForeignKeys


class JwksCache:
    """JWK Sets by URL and policy. One per process."""

    def __init__(self, fetcher: Fetcher, clock: Clock) -> None:
        self._fetcher = fetcher
        self._cache: FetchCache[ForeignKeys] = FetchCache(clock)

    async def keys(
        self,
        url: str,
        policy: FetchPolicy,
        *,
        kid: object,
        uses: frozenset[str | None] = SIGNATURE_USES,
    ) -> ForeignKeys:
        """The keys of a set, new enough to have `kid` if it is there at all.

        Whether the set has it is for the caller to see: `find` answers None.

        Raises:
            FetchError: no set is to be had; remembered for the cool-down.
        """

        async def fetch() -> ForeignKeys:
            fetched = await self._fetcher.get(url, policy)
            if fetched.status != HTTPStatus.OK:
                raise FetchError("status", str(fetched.status))
            listed = fetched.json_object().get("keys")
            if not isinstance(listed, list):
                raise FetchError("not_json", "no keys")
            return ForeignKeys.of(listed, uses=uses)

        return await self._cache.get(
            (url, policy, uses), fetch, suffices=lambda known: known.find(kid) is not None
        )
