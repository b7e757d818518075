"""What an OpenID provider is asked when somebody is to log in there. Pure.

The code flow with PKCE S256, `state` and `nonce` (RFC 9700 §2.1), and how fresh and how strong the
login has to be; `openid_login_checks` holds the answer against the same.
"""

from base64 import urlsafe_b64encode
from hashlib import sha256
from urllib.parse import urlencode

from idp_connectors.workforce.login import AuthorizationRequest, LoginAttempt
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_login_checks import maximum_login_age
from idp_connectors.workforce.openid_metadata import OpenIdMetadata


def authorization_request(
    settings: OidcSettings, metadata: OpenIdMetadata, attempt: LoginAttempt, now: int
) -> AuthorizationRequest:
    """Where to send the browser (OpenID Core §3.1.2.1); `now` in seconds."""
    digest = sha256(attempt.code_verifier.encode("ascii")).digest()
    query = {
        "response_type": "code",
        "client_id": settings.client_id,
        "redirect_uri": attempt.redirect_uri,
        "scope": " ".join(settings.scopes),
        "state": attempt.state,
        "nonce": attempt.nonce,
        "code_challenge": urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    if attempt.must_log_in:
        query["prompt"] = "login"
    maximum_age = maximum_login_age(settings, attempt, now)
    if maximum_age is not None:
        query["max_age"] = str(maximum_age)
    if settings.acr_values:
        query["acr_values"] = " ".join(settings.acr_values)
    endpoint = metadata.authorization_endpoint
    separator = "&" if "?" in endpoint else "?"
    return AuthorizationRequest(f"{endpoint}{separator}{urlencode(query)}")
