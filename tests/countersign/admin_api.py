"""Something else in the place of the admin API that commands ask."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from countersign.cli.context import CommandContext

Server = TypeVar("Server")


def asked_by_commands(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """`server`, which every command asks from now on."""

    @contextmanager
    def admin(_context: CommandContext) -> Generator[Server, None, None]:
        yield server

    monkeypatch.setattr(CommandContext, "admin", admin)
    return server
