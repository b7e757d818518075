"""Which addresses a name may lead to: public unicast, unless the exact host is listed as private.

One refused address refuses the name: a name that leads to a public and to a private address is
how rebinding looks. What carries an IPv4 address inside IPv6 (mapped, NAT64, 6to4, Teredo) is not
public, whatever it carries, because another rule would have to read it again. Listed hosts may be
private or loopback, never link-local (where clouds keep their metadata), multicast or unspecified;
there an address inside another is judged, too.

What clouds answer their machines at elsewhere hands out credentials to whoever asks. Those
addresses are refused whatever is listed, unless that very address is: a name that somebody lists
for its private address must not lead there.
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

# Where clouds keep metadata and credentials beside link-local addresses: Azure (a public address),
# Alibaba, Oracle; the Instance Metadata and Pod Identity services of AWS; Google; Scaleway.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:42::42",
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
# RFC 8215: where in it an IPv4 address is, only its network knows.
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_TRANSLATED: Final = ipaddress.IPv6Network("::ffff:0:0:0/96")  # RFC 2765 §2.1: not the mapped ones
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # RFC 4291 §2.5.5.1
_ISATAP: Final = frozenset((0x00005EFE, 0x02005EFE))  # RFC 5214 §6.1


def is_public(address: IpAddress) -> bool:
    """Whether this is an address of the public Internet, in its own plain form."""
    if not address.is_global or address.is_multicast or address in _METADATA:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_UNICAST and not any(address in net for net in _NOT_PUBLIC_V6)


def may_be_listed(address: IpAddress, *, is_literal: bool = False) -> bool:
    """Whether a host listed as private may be at this address.

    `is_literal`: it is this address that is listed, not a name.
    """
    # Of what was listed letter by letter only the groups and link-local addresses are refused.
    refused = frozenset[IpAddress]() if is_literal else _METADATA
    return address not in _LOCAL_NAT64 and not any(
        each.is_link_local or each.is_multicast or each.is_unspecified or each in refused
        for each in (address, *carried_by(address))
    )


def carried_by(address: IpAddress) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses an IPv6 address may lead to, by every rule that reads it so."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    number = int(address)
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    last = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    is_compatible = address in _COMPATIBLE and number > 1  # `::` and `::1` are themselves
    is_isatap = number >> 32 & 0xFFFFFFFF in _ISATAP
    if address in _NAT64 or address in _TRANSLATED or is_compatible or is_isatap:
        found.append(last)
    return tuple(each for each in found if each is not None)


def vetted(
    answers: Iterable[str], *, is_listed: bool, is_literal: bool = False
) -> Sequence[str] | None:
    """The addresses to connect to, or None if there is none or any of them is refused.

    `is_listed`: the host is listed as private; `is_literal`: it is an address, not a name.
    """
    allowed: list[str] = []
    for text in answers:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
        # A scope (`fe80::1%eth0`) belongs to link-local addresses, which are never allowed.
        is_allowed = (
            may_be_listed(address, is_literal=is_literal) if is_listed else is_public(address)
        )
        if not is_allowed:
            return None
        allowed.append(text)
    return allowed or None
