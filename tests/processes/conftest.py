"""One running stack per test module that asks for it."""

from collections.abc import Iterator

import pytest

from compose.demo.stack import Stack
from tests.stack import running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
