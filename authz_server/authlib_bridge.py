"""The one file that knows Authlib: its authorization-code grant over values we already proved.

Authlib's server core is synchronous and wants to authenticate, load, sign and delete by itself.
Here it does none of that: the shared phases authenticated the client, the store was read before,
and only `validate_token_request` is driven. Never `create_token_response`, which signs before it
deletes, so that a replayed code yields a second token. Authlib requires PKCE of public clients
only and knows `plain`; the extension here knows S256 alone and is never optional.

No text of a caller reaches an Authlib exception: those refuse non-ASCII and quotes by raising
ValueError. Its descriptions are replaced by ours.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authlib.oauth2.base import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge, create_s256_code_challenge

from authz_server.store.codes import StoredCode
from authz_server.token_request import AuthenticatedClient, TokenRequest
from token_exchange.claims import Refusal

_DESCRIPTIONS: Final = {
    "invalid_request": "The code or its code_verifier is missing or malformed.",
    "invalid_grant": "The code cannot be used by this request.",
    "unauthorized_client": "This client may not use the authorization code grant.",
}


def validate_code_request(
    request: TokenRequest, stored: StoredCode | None, issuer: str
) -> Refusal | None:
    """RFC 6749 §4.1.3 and RFC 7636 §4.6: client, redirect URI and verifier against the code.

    Args:
        request: After the shared phases.
        stored: What the store has under the code's digest, used or not.
        issuer: Ours; Authlib's request URI is made from it, never from the `Host` header.
    """
    inside = _Request(request, stored, issuer)
    try:
        grant = _SERVER.get_token_grant(inside)
        grant.validate_token_request()
    except OAuth2Error as error:
        code = str(error.error)
        description = _DESCRIPTIONS.get(code, "The code cannot be used.")
        return Refusal(code, description, f"authlib: {type(error).__name__}", f"code.{code}")
    except ValueError:  # an OAuth2Error that could not be built from what it was told
        return Refusal("invalid_request", _DESCRIPTIONS["invalid_request"], "authlib", "code.form")
    return None


@dataclass(frozen=True, slots=True)
class _Client:
    """Our proved client with the one question Authlib asks of it."""

    proved: AuthenticatedClient

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.proved.record.grant_types


@dataclass(frozen=True, slots=True)
class _Code:
    """Our stored code in the shape Authlib reads."""

    stored: StoredCode

    @property
    def code_challenge(self) -> str:
        return self.stored.grant.code_challenge

    @property
    def code_challenge_method(self) -> str:
        return "S256"

    def get_redirect_uri(self) -> str:
        return self.stored.grant.redirect_uri


class _Request(OAuth2Request):  # type: ignore[misc] # Authlib is untyped
    """A token request as Authlib reads it: the body's parameters only, each once."""

    def __init__(self, request: TokenRequest, stored: StoredCode | None, issuer: str) -> None:
        super().__init__("POST", f"{issuer}/oauth/token")
        parameters = dict(request.parameters) | {"grant_type": request.grant_type}
        self.payload = BasicOAuth2Payload(parameters)
        self.client = _Client(request.client)
        self.auth_method = request.client.method
        self.stored = stored

    @property
    def form(self) -> Mapping[str, str]:
        form: Mapping[str, str] = self.payload.data
        return form


class _CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc] # Authlib is untyped
    """Authlib's grant without its I/O."""

    def authenticate_token_endpoint_client(self) -> _Client:
        client: _Client = self.request.client
        return client

    def query_authorization_code(self, _code: str, client: _Client) -> _Code | None:
        stored: StoredCode | None = self.request.stored
        if stored is None or stored.grant.client_id != client.proved.record.client_id:
            return None
        return _Code(stored)


class _S256Challenge(CodeChallenge):  # type: ignore[misc] # Authlib is untyped
    """PKCE as RFC 9700 §2.1.1 wants it: always, and S256 only."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD: Final = ["S256"]
    CODE_CHALLENGE_METHODS: Final = {
        "S256": lambda verifier, challenge: hmac.compare_digest(
            create_s256_code_challenge(verifier), challenge
        )
    }


def _server() -> Any:  # noqa: ANN401 - Authlib is untyped
    server = AuthorizationServer()
    server.register_grant(_CodeGrant, [_S256Challenge(required=True)])
    return server


_SERVER: Final = _server()
