"""The discovery documents: one body, under every name clients try.

RFC 8414 §3.1 inserts the well-known part before the issuer's path, OpenID Discovery §4 appends it.
The issuer is the configured string, byte for byte, and never follows the request's `Host`: a
client must refuse a document whose `issuer` differs from the one it asked. What is not listed
here is not supported; where a default would say otherwise it is said (`request_uri`).
"""

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from authz_server.authorize_checks import PROMPTS
from authz_server.clients.resolving import takes_documents
from authz_server.endpoints.public_document import public_document
from authz_server.parts import Parts
from authz_server.requested_access import ENDPOINT_SCOPES
from token_exchange.token_types import (
    DETAIL_TOOL,
    GRANT_AUTHORIZATION_CODE,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_REFRESH_TOKEN,
    GRANT_TOKEN_EXCHANGE,
    SIGNING_ALGORITHM,
)

GRANT_TYPES: Final = (
    GRANT_AUTHORIZATION_CODE,
    GRANT_REFRESH_TOKEN,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_TOKEN_EXCHANGE,
)
# draft-ietf-oauth-spiffe-client-auth §5 names the one for JWT-SVIDs.
AUTHENTICATION_METHODS: Final = ("private_key_jwt", "spiffe_jwt", "none")
WELL_KNOWN: Final = ("openid-configuration", "oauth-authorization-server")


def server_metadata(issuer: str, *, mtls_base_url: str | None = None) -> dict[str, Any]:
    """What this server always says of itself. `mtls_base_url` is where it takes certificates."""
    return _metadata(issuer) | _over_mtls(mtls_base_url)


def _over_mtls(base_url: str | None) -> dict[str, Any]:
    """RFC 8705 §5. Tokens are bound by DPoP there too: no certificate-bound tokens are promised."""
    if base_url is None:
        return {}
    methods = [*AUTHENTICATION_METHODS, "spiffe_x509"]
    return {
        "token_endpoint_auth_methods_supported": methods,
        "mtls_endpoint_aliases": {"token_endpoint": f"{base_url}/oauth/token"},
    }


def _metadata(issuer: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "jwks_uri": f"{issuer}/oauth/jwks",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANT_TYPES),
        "scopes_supported": sorted(ENDPOINT_SCOPES),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [SIGNING_ALGORITHM],
        "token_endpoint_auth_methods_supported": list(AUTHENTICATION_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": [SIGNING_ALGORITHM],
        "code_challenge_methods_supported": ["S256"],
        "dpop_signing_alg_values_supported": [SIGNING_ALGORITHM],  # RFC 9449 §5.1
        "authorization_response_iss_parameter_supported": True,  # RFC 9207 §3
        "authorization_details_types_supported": [DETAIL_TOOL],  # RFC 9396 §10
        "prompt_values_supported": sorted(PROMPTS),
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "at_hash", "sid",
        ],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,  # OpenID Discovery §3: the default is true
    }  # fmt: skip


def routes(parts: Parts) -> list[Route]:
    """Every place a client looks: behind the issuer's path and, by insertion, before it."""
    path = urlsplit(parts.issuer).path
    places = {f"{path}/.well-known/{name}" for name in WELL_KNOWN}
    places |= {f"/.well-known/{name}{path}" for name in WELL_KNOWN}

    async def metadata(request: Request) -> Response:
        # draft-ietf-oauth-client-id-metadata-document-02 §6. A client that reads `true` offers
        # nothing else: while no Agent is declared for such clients all of them would be refused.
        today = {"client_id_metadata_document_supported": takes_documents(parts)}
        return public_document(request, msgspec.json.encode(parts.server_metadata | today))

    return [Route(place, metadata, methods=["GET"]) for place in sorted(places)]
