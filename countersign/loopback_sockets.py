"""The other end of a loopback connection, as the kernel's own tables name it. Linux only.

A connection is looked up by its two addresses (`/proc/net/tcp{,6}`), and they are somebody else's
as soon as who made it hangs up: whoever looks asks `is_established` afterwards.
"""

import os
import socket
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

MAXIMUM_TABLE_BYTES: Final = 64 * 1024 * 1024
ESTABLISHED: Final = 1  # of tcp(7), the first byte of TCP_INFO
ROOT: Final = 0
_TABLES: Final = Path("/proc/net")
_FIELDS: Final = 10  # of a row, up to the inode
_MAPPED: Final = "::ffff:"  # an IPv4 address as a socket of IPv6 says it
# Which field of a row is the inode, in every table of sockets (proc_net(5), net/*/*.c).
_INODE_FIELDS: Final = {
    **dict.fromkeys(("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6"), 9),
    **dict.fromkeys(("raw", "raw6", "icmp", "icmp6", "netlink"), 9),
    "unix": 6,
    "packet": 8,
}

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PeerSocket:
    """A socket that some process has open: its inode, and the user who made it."""

    inode: int
    uid: int


def peer_socket(peer: Address, ours: Address) -> PeerSocket | None:
    """The peer's own end; None if it is not found. Blocks for `/proc` reads.

    `peer` and `ours` are the two ends as our accepted socket names them.
    """
    for name in ("tcp", "tcp6"):
        try:
            with (_TABLES / name).open("rb") as file:
                table = file.read(MAXIMUM_TABLE_BYTES).decode("ascii", "replace")
        except OSError:
            continue
        found = socket_between(table, peer, ours)
        if found is not None:
            return found
    return None


def is_our_user(peer: Address, ours: Address) -> bool:
    """Whether our own user, or root, made the connection. Blocks for `/proc` reads."""
    found = peer_socket(peer, ours)
    return found is not None and found.uid in (os.getuid(), ROOT)


def socket_between(table: str, local: Address, remote: Address) -> PeerSocket | None:
    """The socket from `local` to `remote` in the text of `/proc/net/tcp` or `tcp6`.

    INVARIANT: one without an inode is nobody's any more. The kernel calls its user 0, root.
    """
    wanted = tuple({_spelled(each), _spelled_v6(each)} for each in (local, remote))
    for line in table.splitlines()[1:]:
        fields = line.split(None, _FIELDS)
        if len(fields) < _FIELDS:
            continue
        if fields[1] in wanted[0] and fields[2] in wanted[1] and fields[9] != "0":
            return PeerSocket(inode=int(fields[9]), uid=int(fields[7]))
    return None


def is_between(held: socket.socket, local: Address, remote: Address) -> bool:
    """Whether a socket is the end of a TCP connection at `local`, whose other end is `remote`."""
    try:
        ends = held.getsockname(), held.getpeername()
    except OSError:
        return False
    if held.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    found = tuple((host.removeprefix(_MAPPED), port) for host, port, *_ in ends)
    return held.type == socket.SOCK_STREAM and found == (local, remote)


def is_only_one(inode: int) -> bool:
    """Whether no other socket of this network namespace has that number. Blocks for `/proc` reads.

    Numbers of sockets come round again, also while the first one of a number is open.
    """
    return sum(_occurrences(name, field, str(inode)) for name, field in _INODE_FIELDS.items()) == 1


def _occurrences(table: str, field: int, inode: str) -> int:
    try:
        with (_TABLES / table).open("rb") as file:
            rows = file.read(MAXIMUM_TABLE_BYTES).decode("ascii", "replace").splitlines()[1:]
    except FileNotFoundError:  # this kernel has no such sockets
        return 0
    return sum(row.split()[field : field + 1] == [inode] for row in rows)


def is_established(connection: Any) -> bool:  # noqa: ANN401 - a socket, or asyncio's view of one
    """Whether neither end of our accepted socket has hung up, by the kernel's word."""
    try:
        state: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return False
    return state == bytes((ESTABLISHED,))


def _spelled(address: Address) -> str:
    """As `/proc/net/tcp` has it: the address in the machine's byte order, the port in hex."""
    number = int.from_bytes(IPv4Address(address[0]).packed, sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"


def _spelled_v6(address: Address) -> str:
    """As `/proc/net/tcp6` has an IPv4 address: mapped (RFC 4291 §2.5.5.2)."""
    prefix = int.from_bytes(b"\x00\x00\xff\xff", sys.byteorder)
    return f"{'0' * 16}{prefix:08X}{_spelled(address)}"
