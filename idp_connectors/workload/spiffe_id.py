"""What a SPIFFE ID is: `spiffe://<trust domain>/<path>`, in its one spelling. Pure.

SPIFFE-ID §2: no user, port, query, fragment, percent-encoding or empty or dot segment, a trust
domain in lower case. One identity has one text, so matching byte for byte is matching the identity.
"""

import re
from dataclasses import dataclass
from typing import Final

SCHEME: Final = "spiffe://"
MAXIMUM_ID_BYTES: Final = 2048  # SPIFFE-ID §2.3
MAXIMUM_TRUST_DOMAIN_BYTES: Final = 255  # SPIFFE-ID §2.1

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_DOTS: Final = frozenset({".", ".."})


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A well-formed SPIFFE ID of a workload; `path` begins with a slash. Proves nothing."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"


def parse_spiffe_id(text: object) -> SpiffeId | None:
    """The SPIFFE ID of a workload, or None; one without a path names a trust domain, no workload.

    JWT-SVID §3.1 and X509-SVID §4.1 want the path.
    """
    if not isinstance(text, str) or not text.startswith(SCHEME) or len(text) > MAXIMUM_ID_BYTES:
        return None
    trust_domain, slash, path = text.removeprefix(SCHEME).partition("/")
    if not slash or not is_trust_domain(trust_domain):
        return None
    segments = path.split("/")
    if any(segment in _DOTS or _SEGMENT.fullmatch(segment) is None for segment in segments):
        return None
    return SpiffeId(trust_domain, f"/{path}")


def is_trust_domain(name: str) -> bool:
    """Whether this is the name of a trust domain (SPIFFE-ID §2.1)."""
    return len(name) <= MAXIMUM_TRUST_DOMAIN_BYTES and _TRUST_DOMAIN.fullmatch(name) is not None


def trust_domain_issuer(trust_domain: str) -> str:
    """The name of a trust domain where issuers are named: it selects exactly one verifier."""
    return f"{SCHEME}{trust_domain}"
