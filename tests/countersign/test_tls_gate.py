"""A handshake that never comes costs strangers their connection, not ours."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from countersign.tls_gate import accept_tls
from listeners.bounded_connections import Room
from tests.countersign.test_mtls_listener import pem_pair
from tests.idp_connectors.trust_domains import ALWAYS, TrustDomain, authority

pytestmark = pytest.mark.requirement("attack-30")

PROD = TrustDomain("prod.example.com")
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Echo(asyncio.Protocol):
    """What the listener would serve: it knows a connection only once TLS stands."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.transport = cast("asyncio.Transport", transport)  # also uvloop's

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def server_context(folder: Path) -> ssl.SSLContext:
    own = authority("as.example.com")
    file = pem_pair(folder, "own", [own.der], own.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(file)
    context.load_verify_locations(cadata=PROD.authority.der)
    return context


def client_context(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = PROD.x509_svid(key=key, begins=ALWAYS[0], ends=ALWAYS[1] - 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(pem_pair(folder, "client", chain, key))
    return context


def inside(
    loop: str, folder: Path, room: Room, work: Callable[[str], Awaitable[None]], seconds: float
) -> None:
    """Run `work` beside a listener at the socket it is given."""

    async def serving() -> None:
        path = str(folder / "gate.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.setblocking(False)
            accepting = asyncio.create_task(
                accept_tls(listener, server_context(folder), room, Echo, handshake_seconds=seconds)
            )
            try:
                async with asyncio.timeout(20):
                    await work(path)
            finally:
                accepting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await accepting

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(serving())


@pytest.mark.parametrize("loop", LOOPS)
def test_gate_serves_who_completes_the_handshake(tmp_path: Path, loop: str) -> None:
    room = Room(lambda: 10)

    async def work(path: str) -> None:
        for _ in range(20):
            reader, writer = await asyncio.open_unix_connection(
                path, ssl=client_context(tmp_path), server_hostname=""
            )
            writer.write(b"at once")
            assert await reader.readexactly(7) == b"at once"
            assert len(room) == 0  # from here on the listener's own protocol is in the room
            await _closed(writer)

    inside(loop, tmp_path, room, work, 10)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_gate_closes_who_does_not_complete_it(tmp_path: Path, loop: str, said: bytes) -> None:
    room = Room(lambda: 10)

    async def work(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(said)
        await writer.drain()
        assert await _end_of(reader) == b""
        await _turns()
        assert len(room) == 0
        await _closed(writer)

    inside(loop, tmp_path, room, work, 0.1)


@pytest.mark.parametrize("loop", LOOPS)
def test_gate_closes_who_speaks_no_tls(tmp_path: Path, loop: str) -> None:
    room = Room(lambda: 10)

    async def work(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert len(await _end_of(reader)) < 100  # an alert at most
        await _turns()
        assert len(room) == 0
        await _closed(writer)

    inside(loop, tmp_path, room, work, 10)


@pytest.mark.parametrize("loop", LOOPS)
def test_gate_counts_handshakes_and_the_longest_goes(tmp_path: Path, loop: str) -> None:
    room = Room(lambda: 2)

    async def work(path: str) -> None:
        silent = [await asyncio.open_unix_connection(path) for _ in range(3)]
        assert await _end_of(silent[0][0]) == b""
        assert len(room) == 2
        reader, writer = await asyncio.open_unix_connection(
            path, ssl=client_context(tmp_path), server_hostname=""
        )
        writer.write(b"served")
        assert await reader.readexactly(6) == b"served"
        for _, each in (*silent, (reader, writer)):
            await _closed(each)

    inside(loop, tmp_path, room, work, 10)


async def _end_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _turns() -> None:
    """What the listener has under way ends."""
    for _ in range(20):
        await asyncio.sleep(0)
