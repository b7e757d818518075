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
