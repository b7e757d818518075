"""A database with the tables of local accounts."""

import dataclasses
from collections.abc import Iterator

import pytest

from database.engine import Database
from idp_connectors.workforce.local_accounts import LocalAccounts
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.parts import WorkforceParts
from outbound.discovery import DiscoveryCache
from outbound.jwks import JwksCache
from tests.idp_connectors.openid import CLIENT_SECRET, NOW, MemoryIdp, provider_of
from tests.idp_connectors.people import Hashing, accounts
from tests.idp_connectors.samples import ISSUER, Secrets, counting_random
from tests.outbound.samples import Clock, TableFetcher


@pytest.fixture
def database(database_url_with_tables: str) -> Iterator[Database]:
    opened = Database.open(database_url_with_tables)
    yield opened
    opened.close()


@pytest.fixture
def parts(database: Database) -> WorkforceParts:
    clock, fetcher = Clock(), TableFetcher()
    return WorkforceParts(
        issuer=ISSUER,
        database=database,
        hashing=Hashing(),
        random=counting_random(),
        clock=clock,
        fetcher=fetcher,
        discovery=DiscoveryCache(fetcher, clock),
        jwks=JwksCache(fetcher, clock),
        secrets=Secrets(),
    )


@pytest.fixture
def local(parts: WorkforceParts) -> LocalAccounts:
    return accounts(parts)


@pytest.fixture
def idp() -> MemoryIdp:
    return MemoryIdp()


@pytest.fixture
def workforce(parts: WorkforceParts, idp: MemoryIdp) -> WorkforceParts:
    clock = Clock(NOW)
    return dataclasses.replace(
        parts,
        fetcher=idp,
        discovery=DiscoveryCache(idp, clock),
        jwks=JwksCache(idp, clock),
        secrets=Secrets(partner=CLIENT_SECRET),
    )


@pytest.fixture
def provider(workforce: WorkforceParts) -> OidcProvider:
    return provider_of(workforce)
