"""What an ID token says (OpenID Connect Core §2): who logged in at which client, and when.

Pure; the shared phase of the token endpoint signs it with the `id_tokens` key. It is for the
client alone (`aud`), carries no group and no attribute, and ends with the access token beside it.
"""

import hashlib
from base64 import urlsafe_b64encode
from typing import Any

from authz_server.token_request import IdTokenRequest
from token_exchange.claims import AccessTokenClaims


def id_token_claims(
    request: IdTokenRequest, *, claims: AccessTokenClaims, access_token: str
) -> dict[str, Any]:
    """The claims of the ID token beside `access_token`, whose claims are `claims`."""
    said: dict[str, Any] = {
        "iss": claims.iss,
        "sub": claims.sub,
        "aud": claims.client_id,
        "iat": claims.iat,
        "exp": claims.exp,
        "auth_time": request.person.auth_time,
        "acr": request.person.acr,
        "at_hash": half_hash(access_token),
    }
    if claims.sid is not None:
        said["sid"] = claims.sid
    if request.nonce is not None:
        said["nonce"] = request.nonce
    return said


def half_hash(token: str) -> str:
    """`at_hash` for ES256: the left half of SHA-256 (OpenID Connect Core §3.1.3.6)."""
    digest = hashlib.sha256(token.encode("ascii")).digest()
    return urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
