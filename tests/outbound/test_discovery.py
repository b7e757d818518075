"""An issuer's own metadata, and nobody else's."""

import pytest

from outbound.discovery import DiscoveryCache, discover, metadata_urls
from outbound.fetcher import FetchError
from tests.outbound.samples import POLICY, Clock, TableFetcher

pytestmark = pytest.mark.anyio

ISSUER = "https://idp.example.com/realms/corp"
OPENID, OAUTH = metadata_urls(ISSUER)


def test_well_known_is_appended_for_openid_and_inserted_for_oauth() -> None:
    assert f"{ISSUER}/.well-known/openid-configuration" == OPENID
    assert OAUTH == "https://idp.example.com/.well-known/oauth-authorization-server/realms/corp"


async def test_openid_metadata_of_the_issuer_is_accepted() -> None:
    found = await discover(TableFetcher({OPENID: {"issuer": ISSUER, "x": 1}}), ISSUER, POLICY)
    assert found["x"] == 1


@pytest.mark.requirement("RFC8414-3.3")
@pytest.mark.parametrize(
    "named", ["https://evil.example", f"{ISSUER}/", ISSUER.upper(), "", None, [ISSUER]]
)
async def test_metadata_of_another_issuer_is_refused(named: object) -> None:
    with pytest.raises(FetchError) as caught:
        await discover(TableFetcher({OPENID: {"issuer": named}}), ISSUER, POLICY)
    assert caught.value.code == "issuer"


async def test_oauth_metadata_is_asked_for_where_there_is_no_openid_document() -> None:
    fetcher = TableFetcher({OAUTH: {"issuer": ISSUER}})
    assert (await discover(fetcher, ISSUER, POLICY))["issuer"] == ISSUER
    assert fetcher.asked == [OPENID, OAUTH]


async def test_issuer_without_metadata_is_refused() -> None:
    with pytest.raises(FetchError, match="status"):
        await discover(TableFetcher(), ISSUER, POLICY)


async def test_metadata_is_fetched_once() -> None:
    fetcher = TableFetcher({OPENID: {"issuer": ISSUER}})
    cache = DiscoveryCache(fetcher, Clock())
    await cache.metadata(ISSUER, POLICY)
    await cache.metadata(ISSUER, POLICY)
    assert fetcher.asked == [OPENID]
