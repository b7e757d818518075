"""Takes apart the URL we are asked to fetch: where to, and whether it may be there at all.

https with a plain host name or a canonical address; http for loopback literals only, and only
those listed as private. No user information, no fragment, no spelling of a host that two parsers
could read differently (RFC 3986 §3.2.2; `0x7f.1`, `127.1` and `2130706433` are addresses to some).
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

MAXIMUM_URL_LENGTH: Final = 2048

_VISIBLE_ASCII: Final = re.compile(r"[\x21-\x7e]+")
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_NUMERIC_END: Final = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")  # WHATWG URL: "ends in a number"
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one request goes. `literal` is the address when the host is one."""

    url: str
    scheme: str
    host: str
    port: int
    literal: str | None
    is_listed: bool


def destination_of(url: str, private_hosts: frozenset[str]) -> Destination | None:
    """The destination of a URL, or None if nothing may be fetched from such a URL.

    `private_hosts` are `host` or `host:port`, exact; an IPv6 literal with or without brackets.
    """
    if len(url) > MAXIMUM_URL_LENGTH or _VISIBLE_ASCII.fullmatch(url) is None or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = _host_of(parts, port)
    if host is None or parts.scheme not in _DEFAULT_PORTS or "#" in url or port == 0:
        return None
    literal, number = _literal_of(host), port or _DEFAULT_PORTS[parts.scheme]
    is_listed = _is_listed(host, number, private_hosts)
    if parts.scheme == "http" and not (is_listed and _is_loopback(literal)):
        return None
    return Destination(url, parts.scheme, host, number, literal, is_listed)


def _host_of(parts: SplitResult, port: int | None) -> str | None:
    """The host, if nothing but it and a port in its usual spelling is between the slashes."""
    host = (parts.hostname or "").lower()
    shown = f"[{host}]" if ":" in host else host
    if parts.netloc.lower() not in (shown, f"{shown}:{port}"):  # user information too
        return None
    if _literal_of(host) is not None:
        return host
    is_name = _NAME.fullmatch(host) is not None and _NUMERIC_END.fullmatch(host) is None
    return host if is_name else None


def _literal_of(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if "%" in host else str(address)


def _is_loopback(literal: str | None) -> bool:
    return literal is not None and ipaddress.ip_address(literal).is_loopback


def _is_listed(host: str, port: int, private_hosts: frozenset[str]) -> bool:
    shown = f"[{host}]" if ":" in host else host
    return not private_hosts.isdisjoint({host, shown, f"{shown}:{port}"})
