"""One authorization code request of a command: PKCE, `state`, and what redeems the answer.

RFC 6749 §4.1 with RFC 7636, RFC 8252 §7.3 and RFC 9207; the code is bound to the command's key from
the start (RFC 9449 §10). So a code is of use to this command alone, and an answer is to this very
request. Whose browser it was, none of these says: see `login_listener`.
"""

import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlencode

from token_exchange.token_types import GRANT_AUTHORIZATION_CODE

# The browser is sent there by a header of ours.
_ENDPOINT: Final = re.compile(r"https?://[!-~]+")


class LoginError(Exception):
    """Why nobody logged in, as a code and a sentence. Both are safe to print."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """Where to send a browser, and what only we know about that request."""

    issuer: str
    url: str = field(repr=False)
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    resource: str
    redirect_uri: str

    def form(self, said: Mapping[str, str]) -> dict[str, str]:
        """The token request for the redirect's parameters, whose `state` was compared before.

        Raises:
            LoginError: It is another server's answer (RFC 9207 §2.4), or a refusal.
        """
        if said.get("iss") != self.issuer:
            raise LoginError("mix_up", "the answer of the browser is not of this issuer")
        if "code" not in said:
            code = said.get("error", "invalid_response")
            raise LoginError(code, said.get("error_description", "the login was refused"))
        return {
            "grant_type": GRANT_AUTHORIZATION_CODE,
            "code": said["code"],
            "code_verifier": self.verifier,
            "redirect_uri": self.redirect_uri,
            "resource": self.resource,
        }


def new_code_request(
    metadata: Mapping[str, Any],
    *,
    client_id: str,
    resource: str,
    redirect_uri: str,
    thumbprint: str,
    scope: str | None = None,
) -> CodeRequest:
    """A request by the issuer's own `metadata`, for a token bound to the key of `thumbprint`.

    Raises:
        LoginError: The metadata names nowhere to send a browser.
    """
    endpoint = metadata.get("authorization_endpoint")
    if not isinstance(endpoint, str) or not _ENDPOINT.fullmatch(endpoint):
        raise LoginError("no_endpoint", "the issuer names no authorization endpoint")
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "resource": resource,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "dpop_jkt": thumbprint,
    } | ({} if scope is None else {"scope": scope})
    return CodeRequest(
        issuer=str(metadata["issuer"]),
        url=f"{endpoint}?{urlencode(query)}",
        state=state,
        verifier=verifier,
        resource=resource,
        redirect_uri=redirect_uri,
    )
