"""Whose connection it is: asked before anything is read, and again before each request."""

import asyncio
import socket
import struct
import threading

import pytest

from countersign.agent_run.connections import CHECKS_AT_ONCE, STRANGER, Peer
from countersign.agent_run.process_tree import Holder
from countersign.loopback_sockets import Address, is_established

ENDS = ("127.0.0.1", 40_000), ("127.0.0.1", 8_720)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Pinned(Holder):
    """A holder in the test's hands."""

    holds = True
    closed = 0

    def __init__(self) -> None:
        super().__init__(1, 1, 1, -1)

    def still_holds(self) -> bool:
        return Pinned.holds

    def close(self) -> None:
        Pinned.closed += 1


class Kernel:
    """Says who is there, and counts how often it was asked."""

    def __init__(self) -> None:
        Pinned.holds, Pinned.closed = True, 0
        self.is_member = True
        self.asked = 0
        self.fails = False
        self.waits: threading.Event | None = None
        self.is_established = True

    def identify(self, peer: Address, ours: Address) -> Holder | None:
        assert (peer, ours) == ENDS
        self.asked += 1
        if self.waits is not None:
            self.waits.wait(10)
        if self.fails:
            raise PermissionError("hidden")
        return Pinned() if self.is_member else None


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def peer(kernel: Kernel) -> Peer:
    return Peer(
        *ENDS, asyncio.Semaphore(CHECKS_AT_ONCE), kernel.identify, lambda: kernel.is_established
    )


async def test_member_is_looked_up_once_while_it_holds_the_connection(
    kernel: Kernel, peer: Peer
) -> None:
    assert [await peer.is_member() for _ in range(3)] == [True] * 3
    assert kernel.asked == 1
    peer.forget()
    assert Pinned.closed == 1


async def test_connection_that_changed_hands_is_looked_up_again(kernel: Kernel, peer: Peer) -> None:
    assert await peer.is_member()
    Pinned.holds = False
    assert await peer.is_member()  # another process of the run has it
    kernel.is_member = False
    assert not await peer.is_member()
    assert (kernel.asked, Pinned.closed) == (3, 2)


async def test_who_hung_up_is_no_member_whoever_has_the_port_now(
    kernel: Kernel, peer: Peer
) -> None:
    kernel.is_established = False
    assert not await peer.is_member()
    kernel.is_established = True
    assert await peer.is_member()
    kernel.is_established = False
    assert not await peer.is_member()


@pytest.mark.processes
@pytest.mark.requirement("agent-run-tree")
@pytest.mark.parametrize("linger", [struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)])
async def test_request_of_who_hung_up_is_not_taken_for_the_next_on_its_port(linger: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stranger = socket.create_connection(listener.getsockname())
        ours, peer = listener.accept()
        stranger.sendall(b"POST /notes/mcp HTTP/1.1\r\n")
        assert is_established(ours)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # by RST, by FIN
        stranger.close()
        assert not is_established(ours)
        found = Peer(
            peer,
            listener.getsockname(),
            asyncio.Semaphore(CHECKS_AT_ONCE),
            lambda *_: Pinned(),  # a process of the run connected from there
            lambda: is_established(ours),
        )
        assert not await found.is_member()
        ours.close()
        assert not is_established(ours)


async def test_who_cannot_be_looked_at_is_no_member(kernel: Kernel, peer: Peer) -> None:
    kernel.fails = True
    assert not await peer.is_member()


async def test_process_found_after_its_connection_was_gone_is_let_go(
    kernel: Kernel, peer: Peer
) -> None:
    kernel.waits = threading.Event()
    asking = asyncio.create_task(peer.is_member())
    while kernel.asked == 0:  # noqa: ASYNC110 - a thread is on its way
        await asyncio.sleep(0.001)
    asking.cancel()
    peer.forget()
    kernel.waits.set()
    async with asyncio.timeout(5):
        while Pinned.closed == 0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)


def test_strangers_answer_has_the_length_it_says() -> None:
    head, _, body = STRANGER.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}\r\n".encode() in head
