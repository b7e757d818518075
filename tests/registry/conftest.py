"""A registry in a real database of each kind."""

from collections.abc import Callable, Iterator

import pytest

from database.engine import Database
from registry.enrolment import EnrolmentStore
from registry.live import LiveRegistry
from registry.revocations import RevocationStore
from registry.store import RegistryStore
from registry.tool_catalogue import ToolCatalogue
from tests.registry.samples import (
    ISSUER,
    SETTINGS_MODELS,
    FakeClock,
    Registry,
    naming_compiler,
)


@pytest.fixture
def open_database(database_url_with_tables: str) -> Iterator[Callable[[], Database]]:
    """Opens the one database of a test, any number of times."""
    opened: list[Database] = []

    def open_it() -> Database:
        database = Database.open(database_url_with_tables)
        opened.append(database)
        return database

    yield open_it
    for database in opened:
        database.close()


@pytest.fixture
def database(open_database: Callable[[], Database]) -> Database:
    return open_database()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def registry(database: Database, clock: FakeClock) -> Registry:
    return Registry(
        database,
        RegistryStore(
            database,
            issuer=ISSUER,
            settings_models=SETTINGS_MODELS,
            clock=clock,
            compiler=naming_compiler,
        ),
        ToolCatalogue(
            database,
            issuer=ISSUER,
            settings_models=SETTINGS_MODELS,
            clock=clock,
            compiler=naming_compiler,
        ),
        RevocationStore(database, clock),
        EnrolmentStore(database),
        clock,
    )


@pytest.fixture
def live(database: Database, clock: FakeClock) -> LiveRegistry:
    return LiveRegistry(database, issuer=ISSUER, settings_models=SETTINGS_MODELS, monotonic=clock)
