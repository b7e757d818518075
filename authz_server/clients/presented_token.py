"""The DPoP-bound token a request presents, unverified. RFC 9449 §7.1: the scheme is `DPoP`.

One header, or none counts: with two, whoever reads the other would see another token. A bearer
presentation of a bound token is none (RFC 9449 §7.2).
"""

from collections.abc import Sequence
from typing import Final

_SCHEME: Final = "dpop "


def presented_token(authorizations: Sequence[str]) -> str | None:
    """The token in all the `Authorization` header values of a request, if it is exactly one."""
    if len(authorizations) != 1 or not authorizations[0].lower().startswith(_SCHEME):
        return None
    return authorizations[0][len(_SCHEME) :].strip(" ")
