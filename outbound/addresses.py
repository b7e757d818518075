"""Which addresses a name may lead to: public unicast, unless the exact host is listed as private.

One refused address refuses the name: a name that leads to a public and to a private address is
how rebinding looks. What carries an IPv4 address inside IPv6 (mapped, NAT64, 6to4, Teredo) is not
public, whatever it carries, because another rule would have to read it again. Listed hosts may be
private or loopback, never link-local (where clouds keep their metadata), multicast or unspecified.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 4291 §2.4, RFC 3587: whatever is routed on the Internet lies here.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# Inside it, and yet not public: Teredo and other protocol assignments (RFC 2928), 6to4 (RFC 3056),
# documentation (RFC 3849, RFC 9637).
_NOT_PUBLIC_V6: Final = tuple(
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
# `is_global` has the IANA registry; these are for Pythons whose copy is older than the rule.
_NOT_PUBLIC_V4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "198.18.0.0/15",
        "240.0.0.0/4",
    )
)


def is_public(address: IpAddress) -> bool:
    """Whether this is an address of the public Internet, in its own plain form."""
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_UNICAST and not any(address in net for net in _NOT_PUBLIC_V6)


def may_be_listed(address: IpAddress) -> bool:
    """Whether a host listed as private may be at this address."""
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    plain = address if inner is None else inner
    return not (plain.is_link_local or plain.is_multicast or plain.is_unspecified)


def vetted(answers: Iterable[str], *, is_listed: bool) -> Sequence[str] | None:
    """The addresses to connect to, or None if there is none or any of them is refused."""
    allowed: list[str] = []
    for text in answers:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
        # A scope (`fe80::1%eth0`) belongs to link-local addresses, which are never allowed.
        if not (may_be_listed(address) if is_listed else is_public(address)):
            return None
        allowed.append(text)
    return allowed or None
