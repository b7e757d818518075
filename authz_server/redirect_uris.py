"""Which redirect URI belongs to a client: the registered one byte for byte, and one exception.

The exception is RFC 8252 §7.3: a native client listens on whatever port the system gives it, so
for an http URI on a loopback *literal* the port is not compared. Everything else of it is. No URI
is ever normalised: a difference in case, encoding or a trailing dot is a different URI (RFC 9700
§4.1.3).
"""

import re
from typing import Final

from registry.snapshot import ClientRecord

# A registered URI may carry a query and then matches with exactly that query.
_LOOPBACK: Final = re.compile(
    r"http://(?P<host>127\.0\.0\.1|\[::1\])(?::(?P<port>[1-9][0-9]{0,4}))?(?P<rest>/[^\s#]*)?"
)
_LOOPBACK_NAME: Final = re.compile(
    r"http://(?P<host>localhost)(?::(?P<port>[1-9][0-9]{0,4}))?(?P<rest>/[^\s#]*)?"
)
_ORIGIN: Final = re.compile(
    r"(https?://[A-Za-z0-9.\-]+(?::[0-9]{1,5})?|http://\[::1\](?::[0-9]{1,5})?)(?:[/?]|$)"
)
_HIGHEST_PORT: Final = 65_535
# `localhost` is a name, which RFC 8252 §8.3 advises against; clients that publish a document use
# it, and browsers never ask a name server for it (RFC 6761 §6.3): for those clients alone.
# An agent's implicit client and our own command line run where the person or the workload is;
# a declared client may be a web site, and there the rule would let another local program listen.
_NATIVE_KINDS: Final = frozenset({"agent", "cli"})


def matches(client: ClientRecord, unverified_redirect_uri: str) -> bool:
    """Whether a response for `client` may be sent to this URI."""
    for registered in client.redirect_uris:
        if not is_safe(registered):
            continue
        if registered == unverified_redirect_uri:
            return True
        is_native = client.kind in _NATIVE_KINDS or client.is_native
        if is_native and _same_but_port(_LOOPBACK, registered, unverified_redirect_uri):
            return True
        if client.is_native and _same_but_port(_LOOPBACK_NAME, registered, unverified_redirect_uri):
            return True
    return False


def origin_of(redirect_uri: str) -> str | None:
    """Scheme, host and port of a URI that matched, if they are plain enough to go into a header."""
    found = _ORIGIN.match(redirect_uri)
    return None if found is None else found.group(1)


def is_loopback_redirect(redirect_uri: str) -> bool:
    """Whether the answer goes to a program on the person's own machine, whichever that is."""
    patterns = (_LOOPBACK, _LOOPBACK_NAME)
    return any(pattern.fullmatch(redirect_uri) is not None for pattern in patterns)


def is_safe(registered: str) -> bool:
    """OAuth 2.1 §2.3.1: https, or the person's own machine."""
    return registered.startswith("https://") or is_loopback_redirect(registered)


def _same_but_port(
    loopback: re.Pattern[str], registered: str, unverified_redirect_uri: str
) -> bool:
    ours = loopback.fullmatch(registered)
    theirs = loopback.fullmatch(unverified_redirect_uri)
    if ours is None or theirs is None:
        return False
    if theirs["port"] is not None and int(theirs["port"]) > _HIGHEST_PORT:
        return False
    return ours["host"] == theirs["host"] and ours["rest"] == theirs["rest"]
