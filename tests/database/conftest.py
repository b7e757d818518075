"""A real database of each kind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from database.engine import Database
from tests.database.samples import create_notes


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database.open(database_url)
    opened.write_now(create_notes)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """For what only a file has."""
    opened = Database.open(f"sqlite:///{tmp_path}/countersign.db")
    opened.write_now(create_notes)
    yield opened
    opened.close()


@pytest.fixture
def create_empty(empty_database_url: Callable[[], str]) -> Iterator[Callable[[], Database]]:
    """Opens new databases without a table."""
    opened: list[Database] = []

    def create() -> Database:
        opened.append(Database.open(empty_database_url()))
        return opened[-1]

    yield create
    for each in opened:
        each.close()
