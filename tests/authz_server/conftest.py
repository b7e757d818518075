"""One whole authorization server per test, in one event loop."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.authz_server.back_half import Authority, start_authority


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def authority(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Authority]:
    del anyio_backend
    server = await start_authority(tmp_path)
    yield server
    server.database.close()
