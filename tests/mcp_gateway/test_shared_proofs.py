"""The worker's side of the shared memory: what it answers to each word of the server, and declares.

The server's side is `test_proof_memories`.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_gateway import valkey_link
from mcp_gateway import valkey_scripts as scripts
from mcp_gateway.proof_memory import (
    LatestIssue,
    ProofsUnavailableError,
    ProofUse,
    forget,
    open_proof_memory,
    taken_over,
)
from mcp_gateway.shared_proofs import SharedProofs
from mcp_gateway.valkey_link import LinkDownError, ValkeyLink, ValkeyServer, Words
from mcp_gateway.valkey_scripts import Mark
from registry.blocks import BlockKind
from tests.mcp_gateway.rig import NOW, HttpCall, Rig, rpc_reply, tool_call
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_control_client import Channel

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("proof-memory-away")]

CALL = tool_call("get_account", {"id": 1})
HEALTH = HttpCall(headers=(), method="GET", path="/healthz")
MARK = f"ab12.memory-1.{NOW - 100}".encode()


class FakeLink:
    """A server that answers as told; every question is kept."""

    def __init__(self) -> None:
        self.mark: bytes = MARK
        self.answers: list[bytes | Exception] = []
        self.asked: list[tuple[str, tuple[str, ...], Words]] = []
        self.seconds = 0.0
        self.before: Callable[[], None] = lambda: None

    async def ask(
        self, script: str, keys: tuple[str, ...], arguments: Words, seconds: float
    ) -> bytes:
        self.asked.append((script, keys, arguments))
        if script == scripts.OPEN:
            return self.mark
        self.seconds = seconds
        self.before()
        answer = self.answers.pop(0) if self.answers else scripts.FIRST
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run(self, up: Callable[[], Awaitable[None]]) -> None:
        await up()


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
async def proofs(rig: Rig, link: FakeLink) -> AsyncIterator[SharedProofs]:
    """The memory of the rig, found but not accepted."""
    proofs = SharedProofs(
        link, random=secrets.token_bytes, issuer="i", gateway="g", answer_seconds=0.02
    )
    object.__setattr__(rig.parts, "proofs", proofs)
    async with kept(proofs):
        yield proofs


@asynccontextmanager
async def kept(proofs: SharedProofs) -> AsyncIterator[None]:
    task = asyncio.create_task(proofs.run())
    try:
        async with asyncio.timeout(5):
            await proofs.known()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError


async def status_of(rig: Rig) -> str:
    return str((await rig.send(HEALTH)).json["status"])


async def test_call_waits_for_the_shared_memory_and_is_served(
    rig: Rig, proofs: SharedProofs, link: FakeLink
) -> None:
    proofs.accept("memory-1")
    assert (await rig.post(CALL)).status == 200
    (_, opening, _), (script, keys, words) = link.asked
    assert script == scripts.USE
    assert keys[0] == opening[0]
    assert keys[1].startswith(f"{keys[0]}:memory-1:")
    assert words == (MARK, str(NOW))
    assert link.seconds == 0.02
    assert await status_of(rig) == "serving"


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("verdict", "detail"),
    [
        (scripts.USED, "replayed"),
        (scripts.BLIND, "before the start"),
        (scripts.CLOCK, "by the clock of the shared memory"),
    ],
)
async def test_proof_the_server_refuses_is_401_and_a_fresh_one_is_served(
    rig: Rig, proofs: SharedProofs, link: FakeLink, verdict: bytes, detail: str
) -> None:
    proofs.accept("memory-1")
    link.answers = [verdict]
    exchange = await rig.post(CALL)
    assert exchange.status == 401
    assert 'error="invalid_dpop_proof"' in exchange.header("www-authenticate")[1]
    assert rig.events("caller.refused")[-1].detail == detail
    assert (await rig.post(CALL)).status == 200


@pytest.mark.parametrize("answer", [LinkDownError("too late"), scripts.LOST, b"nonsense"])
async def test_proof_whose_use_is_not_known_is_503_and_audited(
    rig: Rig, proofs: SharedProofs, link: FakeLink, answer: bytes | Exception
) -> None:
    proofs.accept("memory-1")
    link.answers = [answer]
    exchange = await rig.post(CALL)
    assert exchange.status == 503
    assert exchange.header("www-authenticate") == []
    assert exchange.json["error"]["data"] == {"retryable": True}
    refused = rig.events("caller.refused")[-1]
    assert (refused.error_code, refused.status) == ("proof_memory_unavailable", 503)
    assert refused.user == "usr_alice"
    assert rig.upstream.requests == []
    await until(lambda: proofs.problem(NOW) is None)
    assert (await rig.post(CALL)).status == 200


async def test_nothing_is_used_before_the_memory_is_accepted_and_with_another_never(
    rig: Rig, proofs: SharedProofs, link: FakeLink
) -> None:
    for accepted in (None, "memory-2"):
        proofs.accept(accepted)
        assert (await rig.post(CALL)).status == 503
        assert await status_of(rig) == "starting"
    assert [script for script, _, _ in link.asked] == [scripts.OPEN]
    proofs.accept("memory-1")
    assert (await rig.post(CALL)).status == 200


async def test_memory_that_is_lost_must_be_accepted_anew(
    rig: Rig, proofs: SharedProofs, link: FakeLink
) -> None:
    proofs.accept("memory-1")
    link.answers, link.mark = [scripts.LOST], f"ab12.memory-2.{NOW}".encode()
    assert (await rig.post(CALL)).status == 503
    assert await status_of(rig) == "proof_memory_away"
    await until(lambda: proofs.memory == "memory-2")
    assert (await rig.post(CALL)).status == 503
    proofs.accept("memory-2")
    assert await status_of(rig) == "starting"  # blind until NOW
    rig.clock.now = NOW + 1
    assert await status_of(rig) == "serving"
    assert (await rig.post(CALL)).status == 200


@pytest.mark.requirement("attack-28")
async def test_revocation_that_comes_while_valkey_answers_refuses_the_call(
    rig: Rig, proofs: SharedProofs, link: FakeLink
) -> None:

    proofs.accept("memory-1")
    event = revocation(BlockKind.SUBJECT, "usr_alice")
    link.before = lambda: rig.parts.enforcement.apply(event)
    assert (await rig.post(CALL)).status == 401
    assert rig.upstream.requests == []


# What is declared


@pytest.mark.requirement("one-worker-per-gateway")
async def test_worker_declares_its_memory_and_uses_it_from_the_first_heartbeat_on(
    rig: Rig, proofs: SharedProofs
) -> None:
    channel = Channel(rig)
    channel.session._memory = lambda: proofs.memory
    declared: list[str | None] = []
    ask, listen = channel.control.ask, channel.control.listen

    def noted(do: Callable[..., object]) -> Callable[..., object]:
        def noting(request: object) -> object:
            if "/control/v1" in request.url:  # type: ignore[attr-defined] # an AuthorityRequest
                declared.append(request.headers.get("countersign-memory"))  # type: ignore[attr-defined] # as above
            return do(request)

        return noting

    channel.control.ask = noted(ask)  # type: ignore[method-assign, assignment] # the same, noted
    channel.control.listen = noted(listen)  # type: ignore[method-assign, assignment] # the same
    heartbeat = b'event: heartbeat\ndata: {"sequence":0,"version":7,"now_ms":0}\n\n'
    async with channel.running():
        await channel.until(lambda: channel.control.after)
        rig.upstream.will(rpc_reply(1, {"content": []}))
        assert (await rig.post(CALL)).status == 503
        channel.control.events.put_nowait(heartbeat)
        await channel.until(lambda: proofs.problem(NOW) is None)
        assert (await rig.post(CALL)).status == 200
    assert set(declared) == {"memory-1"}


@pytest.mark.requirement("one-worker-per-gateway")
async def test_worker_that_finds_another_memory_asks_to_be_let_in_again(
    rig: Rig, proofs: SharedProofs, link: FakeLink
) -> None:
    channel = Channel(rig)
    heartbeat = b'event: heartbeat\ndata: {"sequence":0,"version":7,"now_ms":0}\n\n'
    async with channel.running():
        channel.control.events.put_nowait(heartbeat)
        await channel.until(lambda: proofs.problem(NOW) is None)
        link.mark = f"ab12.memory-2.{NOW - 50}".encode()
        link.answers = [scripts.LOST]
        assert (await rig.post(CALL)).status == 503
        await channel.until(lambda: proofs.memory == "memory-2")
        channel.control.events.put_nowait(heartbeat)  # the last of the old stream: not for this one
        await channel.until(lambda: len(channel.control.after) == 2)
        assert proofs.problem(NOW) == "starting"
        channel.control.events.put_nowait(heartbeat)
        await channel.until(lambda: proofs.problem(NOW) is None)


# The link


async def test_link_that_is_down_answers_at_once() -> None:
    link = ValkeyLink(ValkeyServer(host="127.0.0.1", port=1))
    with pytest.raises(LinkDownError, match="away"):
        await link.ask(scripts.USE, ("k",), (), 1)


async def test_questions_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_link, "MAXIMUM_WAITING", 2)
    link = ValkeyLink(ValkeyServer(host="127.0.0.1", port=1))
    link._is_up = True
    asking = [asyncio.create_task(link.ask(scripts.USE, ("k",), (), 0.05)) for _ in range(3)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(answer) for answer in answers] == [
        "Valkey did not answer in time",
        "Valkey did not answer in time",
        "too many are waiting",
    ]


@pytest.mark.parametrize("text", [b"", b"x", b"a.b", b"a.b.c", b"a.b.1.2", b"\xff.b.1"])
def test_mark_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Mark.parse(text)
    assert Mark.parse(b"a.b.1") == Mark(b"a.b.1", "b", 1)


# From one kind of memory to the other


@pytest.mark.requirement("attack-15")
async def test_memory_of_one_worker_hands_over_how_far_it_came(tmp_path: Path) -> None:
    path = tmp_path / "proofs"
    assert taken_over(path, NOW) == 0
    own = open_proof_memory(path, NOW, is_first_start=True)
    assert await own.use("a", NOW - 3, NOW + 58, NOW) is ProofUse.FIRST
    assert taken_over(path, NOW) == NOW - 3
    LatestIssue(path).raise_to(NOW + 1_000_000)
    assert taken_over(path, NOW) == NOW + 5  # the clock was put back
    path.write_bytes(b"damaged")
    assert taken_over(path, NOW) == NOW + 5
    forget(path)
    forget(path)
    later = open_proof_memory(path, NOW + 1, is_first_start=False)
    assert await later.use("b", NOW + 6, NOW + 67, NOW + 1) is ProofUse.BEFORE_MEMORY
    assert await later.use("b", NOW + 7, NOW + 68, NOW + 2) is ProofUse.FIRST


async def test_memory_that_cannot_write_how_far_it_came_uses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "proofs"
    own = open_proof_memory(path, NOW, is_first_start=True)
    assert own._latest is not None
    own._latest.close()
    with pytest.raises(ProofsUnavailableError):
        await own.use("a", NOW, NOW + 61, NOW)
