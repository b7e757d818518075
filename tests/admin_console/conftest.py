"""A stack per test: with the small registry of the registry's own tests, and three roles."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin_console.stack import AdminStack, close_stack, open_stack, role
from tests.registry.samples import small_set

DATABASE = "countersign.db"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of `stack`, made once and copied for each test."""
    directory = tmp_path_factory.mktemp("prepared")
    stack = open_stack(directory)
    documents = [each.model_dump() for each in small_set()]
    documents += [
        role("alice", "acc_alice", "admin"),
        role("olga", "acc_olga", "operator"),
        role("vera", "acc_vera", "viewer"),
    ]
    answer = stack.call("POST", "/objects", body={"objects": documents})
    assert answer.status == 200, answer.json
    close_stack(stack)
    return directory / DATABASE


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[AdminStack]:
    """Nothing declared, nobody admin."""
    stack = open_stack(tmp_path)
    yield stack
    close_stack(stack)


@pytest.fixture
def stack(tmp_path: Path, prepared: Path) -> Iterator[AdminStack]:
    """Alice is admin, olga operator, vera viewer."""
    shutil.copy(prepared, tmp_path / DATABASE)
    stack = open_stack(tmp_path)
    yield stack
    close_stack(stack)
