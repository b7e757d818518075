"""The memory of used proofs of one worker, and of the one that waits to take its place."""

from pathlib import Path

import pytest

from mcp_gateway.proof_memory import ProofMemory, ProofUse, open_proof_memory

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("attack-15")]

NOW = 1_800_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def used(memory: ProofMemory, key: str, at: int) -> ProofUse:
    return await memory.use(key, at, at + 61, at)


async def test_stand_by_refuses_what_was_used_while_it_waited(tmp_path: Path) -> None:
    path = tmp_path / "proofs.latest"
    first = open_proof_memory(path, NOW, is_first_start=True)
    waiting = open_proof_memory(path, NOW, is_first_start=False)
    first.accept(None)
    assert await used(first, "proof", NOW + 100) is ProofUse.FIRST
    waiting.accept(None)  # the first has died: the authority lets the other serve
    assert await used(waiting, "proof", NOW + 100) is ProofUse.BEFORE_MEMORY
    assert await used(waiting, "later", NOW + 101) is ProofUse.FIRST
    first.accept(None)  # and back: neither knows what the other served
    assert await used(first, "later", NOW + 101) is ProofUse.BEFORE_MEMORY
    assert await used(first, "latest", NOW + 102) is ProofUse.FIRST


async def test_reconnecting_alone_makes_no_proof_old(tmp_path: Path) -> None:
    memory = open_proof_memory(tmp_path / "proofs.latest", NOW, is_first_start=True)
    for second in (100, 101):
        memory.accept(None)
        assert await used(memory, f"proof-{second}", NOW + second) is ProofUse.FIRST
        memory.accept(None)
        assert await used(memory, f"other-{second}", NOW + second) is ProofUse.FIRST


async def test_clock_that_was_put_back_shuts_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "proofs.latest"
    before = open_proof_memory(path, NOW + 1_000_000, is_first_start=True)
    assert await used(before, "proof", NOW + 1_000_000) is ProofUse.FIRST
    after = open_proof_memory(path, NOW, is_first_start=False)
    after.accept(None)
    assert await used(after, "proof", NOW + 60) is ProofUse.FIRST
