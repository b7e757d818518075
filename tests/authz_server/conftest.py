"""One whole authorization server per test, in one event loop; or its front half at a browser."""

import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from database.engine import Database
from tests.authz_server.back_half import Authority, start_authority
from tests.authz_server.blending import Blending, start_blending
from tests.authz_server.front_half import HTTPS_ISSUER, FrontHalf
from tests.databases import new_database

T = TypeVar("T")


@pytest.fixture(autouse=True)
def no_read_in_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """INVARIANT: whatever request a test here sends, its event loop never waits for a read."""
    read = Database.read

    def guarded(database: Database, work: Callable[[Connection], T]) -> T:
        # A thread that reads for the loop has no request on its stack; tests themselves may read.
        frames = traceback.walk_stack(None)
        if any(frame.f_globals["__name__"].startswith("starlette.") for frame, _ in frames):
            raise AssertionError("a read of the database in the thread of an event loop")
        return read(database, work)

    monkeypatch.setattr(Database, "read", guarded)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def authority(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Authority]:
    del anyio_backend
    server = await start_authority(tmp_path)
    yield server
    server.database.close()


@pytest.fixture
async def blending(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Blending]:
    """A server whose agent `portal-bot` lists ID tokens of `support-portal` at `partner`."""
    del anyio_backend
    made = await start_blending(tmp_path)
    yield made
    made.authority.database.close()


@pytest.fixture
def half(tmp_path: Path) -> Iterator[FrontHalf]:
    """What people and browsers meet, under an https issuer."""
    database = new_database(tmp_path)
    yield FrontHalf(database, HTTPS_ISSUER)
    database.close()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[FrontHalf]:
    """The same under a loopback issuer, which shares its host with every local program."""
    database = new_database(tmp_path)
    yield FrontHalf(database)
    database.close()
