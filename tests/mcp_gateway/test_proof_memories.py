"""What every memory of used proofs promises: that of one worker, and Valkey's for several.

The first tests hold for both. The others are about what only Valkey's has: it can be lost, frozen,
restored, emptied or another one, and each time a proof that may have been used is refused.
"""

import asyncio
import contextlib
import secrets
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.proof_memory import ProofMemory, Proofs, ProofsUnavailableError, ProofUse
from mcp_gateway.shared_proofs import SharedProofs
from mcp_gateway.valkey_link import ValkeyLink, ValkeyServer
from mcp_gateway.valkey_scripts import AHEAD_SECONDS
from tests.database.test_postgresql_tls import Certificate
from tests.services import valkey
from tests.services.common import service
from tests.services.valkey import ValkeyProcess

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.requirement("proof-memory-shared"),
    pytest.mark.requirement("attack-15"),
]

WINDOW = 61
VALKEY = pytest.param("valkey", marks=pytest.mark.processes)
AWAY = "proof_memory_away"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def now() -> int:
    """Valkey has a clock of its own, so here it is the real one."""
    return int(time.time())  # noqa: TID251 - see above


def worker(server: ValkeyProcess, gateway: str = "demo", **options: Any) -> SharedProofs:
    """The memory as one worker has it."""
    patience = options.pop("answer_seconds", 1.0)
    return SharedProofs(
        ValkeyLink(ValkeyServer(host="127.0.0.1", port=server.port, **options.pop("link", {}))),
        random=secrets.token_bytes,
        issuer=options.pop("issuer", "https://as.example.com"),
        gateway=gateway,
        answer_seconds=patience,
        **options,
    )


@contextlib.asynccontextmanager
async def kept(*workers: SharedProofs) -> AsyncIterator[None]:
    """While their connections are kept."""
    keeping = [asyncio.create_task(each.run()) for each in workers]
    try:
        async with asyncio.timeout(10):
            for each in workers:
                await each.known()
        yield
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)


def age(server: ValkeyProcess, proofs: SharedProofs) -> None:
    """Begin a memory that is older than any proof: no test waits for the first seconds."""
    run = server.command("INFO", "server")["run_id"]
    mark = f"{run}.{secrets.token_hex(16)}.0"
    server.command("SET", proofs._mark_key, mark)


@contextlib.asynccontextmanager
async def serving(server: ValkeyProcess, *workers: SharedProofs) -> AsyncIterator[None]:
    """While they have a memory that is old enough and that the authority accepted."""
    for each in workers:
        age(server, each)
    async with kept(*workers):
        for each in workers:
            each.accept(each.memory)
        yield


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError


async def use(memory: Proofs, key: str, issued_at: int | None = None) -> ProofUse:
    issued = now() if issued_at is None else issued_at
    return await memory.use(key, issued, issued + WINDOW, now())


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyProcess]:
    with service("Valkey"):
        valkey.install()
    with valkey.running() as running:
        yield running


@pytest.fixture
def killed() -> Iterator[ValkeyProcess]:
    """A server of the test's own."""
    with service("Valkey"):
        valkey.install()
    with valkey.running() as running:
        yield running


@pytest.fixture
async def pair(server: ValkeyProcess) -> AsyncIterator[tuple[SharedProofs, SharedProofs]]:
    """Two workers of one Gateway, accepted by the authority."""
    gateway = secrets.token_hex(8)
    first, second = worker(server, gateway), worker(server, gateway)
    async with serving(server, first, second):
        yield first, second


@pytest.fixture(params=["own", VALKEY])
async def memory(request: pytest.FixtureRequest) -> AsyncIterator[Proofs]:
    if request.param == "own":
        yield ProofMemory()
        return
    server: ValkeyProcess = request.getfixturevalue("server")
    proofs = worker(server, secrets.token_hex(8))
    async with serving(server, proofs):
        yield proofs


# Both


async def test_proof_is_used_once_and_another_as_well(memory: Proofs) -> None:
    assert memory.problem(now()) is None
    assert await use(memory, "proof-1") is ProofUse.FIRST
    assert await use(memory, "proof-1") is ProofUse.REPLAYED
    assert await use(memory, "proof-2") is ProofUse.FIRST
    assert await use(memory, "proof-1") is ProofUse.REPLAYED


async def test_of_twenty_uses_at_once_one_is_the_first(memory: Proofs) -> None:
    uses = await asyncio.gather(*(use(memory, "proof") for _ in range(20)))
    assert sorted(used.name for used in uses) == ["FIRST"] + ["REPLAYED"] * 19


async def test_proof_at_either_end_of_its_time_is_used_once(memory: Proofs) -> None:
    for issued in (now() - 60, now() + 5):
        assert await use(memory, f"proof-{issued}", issued) is ProofUse.FIRST
        assert await use(memory, f"proof-{issued}", issued) is ProofUse.REPLAYED


# Valkey's: several workers


@pytest.mark.processes
async def test_proof_used_at_one_worker_is_refused_at_the_other(
    pair: tuple[SharedProofs, SharedProofs],
) -> None:
    first, second = pair
    assert first.memory == second.memory is not None
    assert await use(first, "proof") is ProofUse.FIRST
    assert await use(second, "proof") is ProofUse.REPLAYED
    assert await use(second, "other") is ProofUse.FIRST


@pytest.mark.processes
async def test_of_twenty_uses_at_two_workers_one_is_the_first(
    pair: tuple[SharedProofs, SharedProofs],
) -> None:
    uses = await asyncio.gather(*(use(pair[n % 2], "proof") for n in range(20)))
    assert sorted(used.name for used in uses) == ["FIRST"] + ["REPLAYED"] * 19


@pytest.mark.processes
async def test_gateways_and_issuers_on_one_server_have_memories_of_their_own(
    server: ValkeyProcess,
) -> None:
    others = [worker(server, "a"), worker(server, "b"), worker(server, "a", issuer="https://b")]
    for each in others:
        age(server, each)
    async with kept(*others):
        assert len({each.memory for each in others}) == 3
        for each in others:
            each.accept(each.memory)
            assert await use(each, "proof") is ProofUse.FIRST


@pytest.mark.processes
async def test_proof_is_forgotten_only_when_no_clock_accepts_it_any_more(
    server: ValkeyProcess, pair: tuple[SharedProofs, SharedProofs]
) -> None:
    issued = now()
    assert await use(pair[0], "proof", issued) is ProofUse.FIRST
    mark = server.command("GET", pair[0]._mark_key).decode()
    key = f"{pair[0]._mark_key}:{mark.split('.')[1]}:proof"
    assert server.command("PEXPIRETIME", key) == (issued + 62) * 1000
    # A worker whose clock is wrong takes them for current; the server's clock refuses them.
    for wrong in (now() - 65, now() + 10):
        assert await use(pair[1], f"wrong-{wrong}", wrong) is ProofUse.OUT_OF_TIME


# Valkey's: what the authority says


@pytest.mark.processes
async def test_no_proof_is_used_before_the_authority_accepted_the_memory(
    server: ValkeyProcess,
) -> None:
    proofs = worker(server, secrets.token_hex(8))
    age(server, proofs)
    async with kept(proofs):
        for accepted in (None, "another-memory"):
            proofs.accept(accepted)
            assert proofs.problem(now()) == "starting"
            with pytest.raises(ProofsUnavailableError, match="not accepted"):
                await use(proofs, "proof")
        proofs.accept(proofs.memory)
        assert proofs.problem(now()) is None
        assert await use(proofs, "proof") is ProofUse.FIRST


# Valkey's: it is lost


@pytest.mark.processes
async def test_new_memory_refuses_what_may_have_been_used_before_it_began(
    server: ValkeyProcess,
) -> None:
    proofs = worker(server, secrets.token_hex(8))
    began = now()
    async with kept(proofs):
        proofs.accept(proofs.memory)
        assert proofs.problem(now()) == "starting"
        for issued in (began - 30, began, began + AHEAD_SECONDS - 1):
            assert await use(proofs, "proof", issued) is ProofUse.BEFORE_MEMORY
        assert proofs.problem(began + AHEAD_SECONDS + 2) is None


@pytest.mark.processes
@pytest.mark.parametrize("emptied", ["FLUSHALL", "FLUSHDB"])
async def test_emptied_server_accepts_no_proof_again(
    server: ValkeyProcess, pair: tuple[SharedProofs, SharedProofs], emptied: str
) -> None:
    first, second = pair
    issued, before = now(), first.memory
    assert await use(first, "proof", issued) is ProofUse.FIRST
    server.command(emptied)
    with pytest.raises(ProofsUnavailableError, match="lost"):
        await use(second, "proof", issued)
    assert second.problem(now()) == AWAY
    await until(lambda: first.memory == second.memory != before)
    with pytest.raises(ProofsUnavailableError, match="not accepted"):
        await use(second, "proof", issued)
    for each in pair:
        each.accept(each.memory)
        assert await use(each, "proof", issued) is ProofUse.BEFORE_MEMORY


@pytest.mark.processes
async def test_killed_server_is_refused_at_once_and_accepts_no_proof_again_when_it_is_back(
    killed: ValkeyProcess,
) -> None:
    proofs = worker(killed)
    issued = now()
    async with serving(killed, proofs):
        before = proofs.memory
        assert await use(proofs, "proof", issued) is ProofUse.FIRST
        killed.kill()
        await until(lambda: proofs.problem(now()) == AWAY)
        with pytest.raises(ProofsUnavailableError, match="away"):
            await use(proofs, "other")
        killed.start()
        await until(lambda: proofs.memory != before)
        proofs.accept(proofs.memory)
        assert await use(proofs, "proof", issued) is ProofUse.BEFORE_MEMORY
        anew = proofs.memory
        age(killed, proofs)  # instead of waiting
        await until(lambda: proofs.memory != anew)
        proofs.accept(proofs.memory)
        assert await use(proofs, "other") is ProofUse.FIRST


@pytest.mark.processes
async def test_restored_server_has_lost_what_came_after_its_file_was_written(
    killed: ValkeyProcess,
) -> None:
    proofs = worker(killed)
    issued = now()
    async with serving(killed, proofs):
        before = proofs.memory
        killed.command("SAVE")
        assert await use(proofs, "proof", issued) is ProofUse.FIRST
        killed.kill()
        killed.start()
        assert (
            killed.command("EXISTS", proofs._mark_key) == 1
        )  # the mark came back, the proof did not
        await until(lambda: proofs.memory != before)
        proofs.accept(before)
        with pytest.raises(ProofsUnavailableError):
            await use(proofs, "proof", issued)
        proofs.accept(proofs.memory)
        assert await use(proofs, "proof", issued) is ProofUse.BEFORE_MEMORY


@pytest.mark.processes
async def test_frozen_server_is_unknown_within_the_limit_and_used_again_afterwards(
    killed: ValkeyProcess,
) -> None:
    proofs = worker(killed, answer_seconds=0.02)
    async with serving(killed, proofs):
        with killed.frozen():
            began = time.monotonic()
            with pytest.raises(ProofsUnavailableError):
                await use(proofs, "proof")
            assert time.monotonic() - began < 0.5
            await until(lambda: proofs.problem(now()) == AWAY)
        await until(lambda: proofs.problem(now()) is None)
        # It may have been used: nobody was told.
        assert await use(proofs, "proof") in {ProofUse.FIRST, ProofUse.REPLAYED}
        assert await use(proofs, "proof") is ProofUse.REPLAYED


@pytest.mark.processes
async def test_server_that_may_evict_is_no_memory(killed: ValkeyProcess) -> None:
    proofs = worker(killed)
    async with serving(killed, proofs):
        assert await use(proofs, "proof") is ProofUse.FIRST
        killed.command("CONFIG", "SET", "maxmemory", "100mb")
        killed.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await until(lambda: proofs.problem(now()) == AWAY)
        with pytest.raises(ProofsUnavailableError):
            await use(proofs, "other")
        killed.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: proofs.problem(now()) is None)
        assert await use(proofs, "other") is ProofUse.FIRST


@pytest.mark.processes
async def test_full_server_refuses(killed: ValkeyProcess) -> None:
    proofs = worker(killed)
    async with serving(killed, proofs):
        killed.command("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(ProofsUnavailableError):
            await use(proofs, "proof")
        await until(lambda: proofs.problem(now()) == AWAY)
        killed.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: proofs.problem(now()) is None)
        assert await use(proofs, "proof") is ProofUse.FIRST


@pytest.mark.processes
async def test_proofs_used_by_a_worker_with_its_own_memory_are_refused_by_the_shared_one(
    server: ValkeyProcess,
) -> None:
    gateway, told = secrets.token_hex(8), []
    first = worker(server, gateway)
    age(server, first)
    later = worker(
        server, gateway, taken_over=now(), on_taken_over=lambda: told.append(first.memory)
    )
    async with kept(first):
        before = first.memory
        async with kept(later):
            assert told
            await until(lambda: first.memory == later.memory != before)
            later.accept(later.memory)
            assert await use(later, "proof", now() - 1) is ProofUse.BEFORE_MEMORY


# Valkey's: how it is spoken to


@pytest.mark.processes
async def test_user_with_only_the_documented_rights_and_a_password_file_suffices(
    killed: ValkeyProcess, tmp_path: Path
) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "scaling.md"
    rights = next(
        line.split("countersign on ", 1)[1].split("resetpass ", 1)[1]
        for line in guide.read_text().splitlines()
        if line.startswith("user countersign on ")
    )
    killed.command("ACL", "SETUSER", "countersign", "on", ">p4ss", *rights.split()[1:])
    password = tmp_path / "password"
    password.write_text("p4ss\n")
    proofs = worker(killed, link={"username": "countersign", "password_file": password})
    async with serving(killed, proofs):
        assert await use(proofs, "proof") is ProofUse.FIRST
    password.write_text("wrong")
    refused = worker(killed, link={"username": "countersign", "password_file": password})
    keeping = asyncio.create_task(refused.run())
    await asyncio.sleep(0.2)
    assert refused.problem(now()) == AWAY
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


@contextlib.asynccontextmanager
async def tls_front(server: ValkeyProcess, certificate: Certificate) -> AsyncIterator[int]:
    """Speaks TLS to clients and plainly to the server behind it, which has none; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(OSError):
            await asyncio.gather(copy(reader, there), copy(back, writer))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()


@pytest.mark.processes
async def test_server_that_proves_its_name_over_tls_is_used_and_another_is_not(
    server: ValkeyProcess, tmp_path: Path
) -> None:
    right = Certificate.of("127.0.0.1", tmp_path / "right")
    other = Certificate.of("127.0.0.1", tmp_path / "other")
    elsewhere = Certificate.of("127.0.0.2", tmp_path / "elsewhere")
    for shown, trusted, is_used in (
        (right, right, True),
        (right, other, False),
        (right, None, False),
        (elsewhere, elsewhere, False),
    ):
        async with tls_front(server, shown) as port:
            ca = None if trusted is None else trusted.certificate
            there = ValkeyServer(host="127.0.0.1", port=port, is_tls=True, ca_file=ca)
            proofs = SharedProofs(
                ValkeyLink(there),
                random=secrets.token_bytes,
                issuer="i",
                gateway=secrets.token_hex(8),
                answer_seconds=1.0,
            )
            if is_used:
                async with kept(proofs):
                    assert proofs.memory is not None
            else:
                keeping = asyncio.create_task(proofs.run())
                await asyncio.sleep(0.3)
                assert proofs.memory is None
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)


@pytest.mark.processes
async def test_server_at_a_unix_socket_is_used() -> None:
    with service("Valkey"):
        valkey.install()
    with (
        tempfile.TemporaryDirectory() as directory,
        valkey.running(["--unixsocket", f"{directory}/s", "--unixsocketperm", "600"]) as own,
    ):
        proofs = SharedProofs(
            ValkeyLink(ValkeyServer(socket=f"{directory}/s")),
            random=secrets.token_bytes,
            issuer="https://as.example.com",
            gateway="demo",
            answer_seconds=1.0,
        )
        async with serving(own, proofs):
            assert await use(proofs, "proof") is ProofUse.FIRST
