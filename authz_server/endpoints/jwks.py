"""`/oauth/jwks`: the public keys that verify our access tokens and ID tokens (RFC 7517 §5)."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from authz_server.endpoints.public_document import public_document
from authz_server.parts import Parts


def routes(parts: Parts) -> list[Route]:
    """The JWK Set document."""

    async def jwks(request: Request) -> Response:
        return public_document(request, msgspec.json.encode({"keys": parts.keys.published_jwks()}))

    return [Route("/oauth/jwks", jwks, methods=["GET"])]
