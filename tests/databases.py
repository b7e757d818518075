"""Both databases, for every test that asks for one: `database_url` runs it on each.

What a repository promises it promises on both. On PostgreSQL a test gets an empty database of its
own on one real server per test run, and counts as one that starts processes.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, select, text

from countersign.migrations.tables import METADATA
from database.engine import Database
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


@pytest.fixture(params=["sqlite", POSTGRESQL])
def database_url_with_tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with every table and no row, once of each kind."""
    if request.param == "sqlite":
        file = tmp_path / "countersign.db"
        file.write_bytes(_only_tables())
        yield f"sqlite:///{file}"
    else:
        server: Postgresql = request.getfixturevalue("postgresql_server")
        with server.database_with_tables(_create_tables) as url:
            yield url


def new_database(directory: Path) -> Database:
    """A SQLite database with every table and no row."""
    file = directory / "countersign.db"
    file.write_bytes(_only_tables())
    return Database.open(f"sqlite:///{file}")


@cache
def _only_tables() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "countersign.db"
        _create_tables(f"sqlite:///{file}")
        return file.read_bytes()


def _create_tables(url: str) -> None:
    database = Database.open(url)
    database.write_now(METADATA.create_all)
    database.close()


def change_stored(database: Database, statement: str) -> None:
    """As somebody would who owns the database."""
    database.write_now(lambda connection: connection.execute(text(statement)).rowcount)


def stored(database: Database, query: str) -> Any:
    """The one value a query finds."""
    return database.read(lambda connection: connection.execute(text(query)).scalar_one())


def everything_in(database: Database) -> bytes:
    """What a copy of the database contains: its files, or on a server every row of every table.

    The files hold what was deleted and overwritten, too.
    """
    if database.path != Path():
        folder = database.path.parent
        return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    return every_row(database)


def every_row(database: Database) -> bytes:
    """What is stored now, whichever the database."""

    def rows(connection: Connection) -> bytes:
        tables = MetaData()
        tables.reflect(connection)
        assert tables.sorted_tables
        found = (connection.execute(select(each)).all() for each in tables.sorted_tables)
        values = (value for table in found for row in table for value in row)
        return b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in values)

    return database.read(rows)
