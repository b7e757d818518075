"""A database that becomes busy in the middle of something: what one write does is whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from database.engine import Database
from database.errors import DatabaseBusyError

T = TypeVar("T")


@contextmanager
def busy_after(writes: int, database: Database) -> Iterator[None]:
    """Let so many writes through; each one more is refused, as when it had not begun in time."""
    write, begun = database.write, 0

    async def write_or_refuse(work: Callable[[Connection], T]) -> T:
        nonlocal begun
        begun += 1
        if begun > writes:
            raise DatabaseBusyError("the write had not begun in time")
        return await write(work)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "write", write_or_refuse)
        yield
