"""The URLs under which our own servers are known: https, or plain http on this machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def require_public_url(url: str) -> str:
    """An issuer or base URL: https, or http on a loopback literal; no slash, query or fragment.

    Kept as the string that was configured, because clients compare issuers byte for byte
    (RFC 8414 §3.3).

    Raises:
        ValueError: It is another kind of URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        message = "must be an https URL (http on 127.0.0.1) without user information"
        raise ValueError(message)
    if parts.query or parts.fragment or url.endswith("/"):
        message = "must have no query, no fragment and no slash at the end"
        raise ValueError(message)
    if parts.scheme == "http" and not is_loopback_literal(parts.hostname):
        message = "plain http is accepted for a loopback literal such as 127.0.0.1 only"
        raise ValueError(message)
    return url


def is_loopback_literal(host: str) -> bool:
    """Whether a host is an address of this machine, and no name that could become another."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
