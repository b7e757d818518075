from collections.abc import Iterator
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from tests.mcp_gateway.rig import Rig, enforcement_view


@pytest.fixture(scope="session")
def token_key() -> ECKey:
    return ECKey.generate_key("P-256")


@pytest.fixture
def rig(tmp_path: Path, token_key: ECKey) -> Iterator[Rig]:
    rig = Rig(tmp_path, enforcement_view(token_key), token_key)
    yield rig
    rig.spool.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
