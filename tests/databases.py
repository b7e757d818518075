"""Both databases, for every test that asks for one: `database_url` runs it on each.

What a repository promises it promises on both. On PostgreSQL a test gets an empty database of its
own on one real server per test run, and counts as one that starts processes.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services import postgresql
from tests.services.common import service
from tests.services.postgresql import Postgresql

NewUrl = Callable[[], str]
POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.processes)


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgresql]:
    """One server for all tests of this process."""
    with service("PostgreSQL"):
        postgresql.install()
    with postgresql.running(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(params=["sqlite", POSTGRESQL])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    """Makes empty databases of one kind; the test runs once for each kind."""
    numbers = itertools.count()
    with contextlib.ExitStack() as databases:
        if request.param == "sqlite":
            yield lambda: f"sqlite:///{tmp_path}/countersign{next(numbers) or ''}.db"
        else:
            server: Postgresql = request.getfixturevalue("postgresql_server")
            yield lambda: databases.enter_context(server.database())


@pytest.fixture
def database_url(empty_database_url: NewUrl) -> str:
    """An empty database, once of each kind."""
    return empty_database_url()
