"""Which network a request came from, as far as one party's share of something is counted by it.

An IPv4 address is one. An IPv6 address is not: who has one has 2^64 of them (RFC 6177), so there it
is the /64. Behind a reverse proxy everybody has the proxy's.
"""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from starlette.requests import Request

MAXIMUM_NETWORK: Final = 64  # characters; no address needs them


def network_of(request: Request) -> str:
    """The network of the peer of this connection; never what a header says."""
    if request.client is None:
        return ""
    try:
        address = ip_address(request.client.host.partition("%")[0])
    except ValueError:  # a Unix socket, or a test's name of a host
        return request.client.host[:MAXIMUM_NETWORK]
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, 64), strict=False))
