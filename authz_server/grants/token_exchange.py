"""The token-exchange grant (RFC 8693): who asks decides which of the two exchanges it is.

An attested agent presents a person's token and gets a blended one (`blend`); a gateway presents a
blended token and gets what a target accepts (`rfc8693`). Neither can have the other's.
"""

from authz_server.grants import blend, rfc8693
from authz_server.parts import Parts
from authz_server.token_request import IssuancePlan, RefusedForPerson, TokenRequest
from token_exchange.claims import Refusal


async def grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal | RefusedForPerson:
    """Exchange a token, as the client may."""
    if request.client.evidence is not None:
        return await blend.grant(request, parts)
    return await rfc8693.grant(request, parts)
