"""A real SQLite file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from database.engine import Database
from tests.database.samples import create_notes


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path}/countersign.db")
    opened.write_now(create_notes)
    yield opened
    opened.close()
