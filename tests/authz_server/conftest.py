"""One whole authorization server per test, in one event loop; or its front half at a browser."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.authz_server.back_half import Authority, start_authority
from tests.authz_server.front_half import HTTPS_ISSUER, FrontHalf, open_database


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
def half(tmp_path: Path) -> Iterator[FrontHalf]:
    """What people and browsers meet, under an https issuer."""
    database = open_database(tmp_path)
    yield FrontHalf(database, HTTPS_ISSUER)
    database.close()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[FrontHalf]:
    """The same under a loopback issuer, which shares its host with every local program."""
    database = open_database(tmp_path)
    yield FrontHalf(database)
    database.close()
