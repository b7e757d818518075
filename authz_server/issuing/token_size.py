"""Whether a token can be signed at all: nobody takes one above our own limit, ourselves included.

What a client may name is bounded where it is read (`token_exchange.authorization_details`), but an
operator may give an agent any number of tools, and an identity provider a person any number of
groups. Such a token is refused before it is recorded and signed.
"""

from typing import Final

import msgspec

from authz_server.token_request import IssuancePlan
from token_exchange.claims import Refusal
from token_exchange.token_types import MAXIMUM_TOKEN_BYTES

# The header with its key id, the signature and two dots (RFC 7515 §7.1).
_AROUND_BYTES: Final = 384
# base64url makes four characters of three bytes.
MAXIMUM_CLAIMS_BYTES: Final = (MAXIMUM_TOKEN_BYTES - _AROUND_BYTES) * 3 // 4

_TOO_LARGE: Final = Refusal(
    "invalid_authorization_details",
    "The token would be too large: name fewer tools in authorization_details.",
    "more claims than MAXIMUM_TOKEN_BYTES can carry",
    "token.size",
)
_encode: Final = msgspec.json.Encoder().encode


def size_problem(plan: IssuancePlan) -> Refusal | None:
    """The refusal of a token that would be larger than `MAXIMUM_TOKEN_BYTES`."""
    if plan.credential_value is not None:  # nothing is signed
        return None
    return _TOO_LARGE if len(_encode(plan.claims)) > MAXIMUM_CLAIMS_BYTES else None
