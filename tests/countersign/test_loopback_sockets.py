"""Whose the other end of a loopback connection is: the kernel's tables, and real processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from countersign import loopback_sockets
from countersign.loopback_sockets import PeerSocket, is_our_user, peer_socket, socket_between

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  inode\n"
PEER, OURS = ("127.0.0.1", 40_000), ("127.0.0.1", 8_720)
OTHER_USER = 64_999


def row(local: str, remote: str, inode: str, uid: int = 1000) -> str:
    queues = "01 00000000:00000000 00:00000000 00000000"
    return f"   0: {local} {remote} {queues}  {uid}  0 {inode} 1 0\n"


def test_socket_is_the_peers_own_end_with_the_user_who_made_it() -> None:
    ours, peer = "0100007F:2210", "0100007F:9C40"
    table = HEAD + row(ours, peer, "11", 0) + row(peer, ours, "22", 1001)
    assert socket_between(table, PEER, OURS) == PeerSocket(inode=22, uid=1001)
    assert socket_between(table, OURS, PEER) == PeerSocket(inode=11, uid=0)


def test_socket_that_speaks_ipv6_is_found() -> None:
    mapped = "0000000000000000FFFF00000100007F"
    table = HEAD + row(f"{mapped}:9C40", f"{mapped}:2210", "33")
    assert socket_between(table, PEER, OURS) == PeerSocket(inode=33, uid=1000)


@pytest.mark.parametrize(
    "rows",
    [
        "",
        "garbage\n",
        row("0100007F:9C40", "0100007F:2210", "0", 0),  # nobody's any more, which is not root's
        row("0100007F:9C41", "0100007F:2210", "22"),
        row("0200007F:9C40", "0100007F:2210", "22"),
        row("0100007F:9C40", "0100007F:2211", "22"),
    ],
)
def test_other_sockets_are_not_the_peers(rows: str) -> None:
    assert socket_between(HEAD + rows, PEER, OURS) is None


CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.recv(1)
"""


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() != 0, reason="only root starts a process of another user")
@pytest.mark.parametrize(("user", "is_ours"), [(None, True), (OTHER_USER, False)])
def test_connection_of_another_user_is_told_from_our_own(user: int | None, is_ours: bool) -> None:
    command = [f"/usr/bin/python3.{sys.version_info.minor}", "-I", "-c", CLIENT]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = str(server.getsockname()[1])
        with subprocess.Popen([*command, port], user=user, cwd="/"):  # noqa: S603 - our own program
            accepted, peer = server.accept()
            with accepted:
                found = peer_socket(peer, accepted.getsockname())
                assert found is not None
                assert found.uid == (user or 0)
                assert is_our_user(peer, accepted.getsockname()) is is_ours


def test_number_that_two_sockets_have_is_not_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback_sockets, "_TABLES", tmp_path)
    (tmp_path / "tcp").write_text(HEAD + row("0100007F:9C40", "0100007F:2210", "77"))
    (tmp_path / "unix").write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "00000000889aaaae: 00000003 00000000 00000000 0001 03 5778745\n"
        "00000000889aaaaf: 00000003 00000000 00000000 0001 03 5778746 /run/5778745\n"
    )
    assert loopback_sockets.is_only_one(5778745)
    assert loopback_sockets.is_only_one(77)
    assert not loopback_sockets.is_only_one(5778744)  # nobody's
    (tmp_path / "tcp6").write_text(HEAD + row("0100007F:9C40", "0100007F:2210", "5778745"))
    assert not loopback_sockets.is_only_one(5778745)


@pytest.mark.processes
def test_socket_is_between_its_own_two_ends_alone() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
        server.accept()[0] as other,
    ):
        ends = one.getsockname(), one.getpeername()
        assert loopback_sockets.is_between(one, *ends)
        assert not loopback_sockets.is_between(other, *ends)
        assert not loopback_sockets.is_between(server, *ends)
    left, right = socket.socketpair()
    with left, right:
        assert not loopback_sockets.is_between(left, *ends)
