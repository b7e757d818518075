"""What a login at an OpenID provider must answer. Pure; a problem is a text for the audit."""

import hmac
from collections.abc import Mapping
from typing import Any, Final

from idp_connectors.workforce.login import LoginAttempt, LoginFailure, LoginFailureCode
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_client import error_code_of, not_acceptable
from idp_connectors.workforce.openid_metadata import OpenIdMetadata
from idp_connectors.workforce.openid_tokens import LEEWAY_SECONDS

MAXIMUM_CODE: Final = 4096


def response_failure(
    settings: OidcSettings, metadata: OpenIdMetadata, response: Mapping[str, str]
) -> LoginFailure | None:
    """Why the browser's answer leads nowhere, or None: then it has a code.

    INVARIANT: `iss` comes first. A code or an error of another provider says nothing here
    (RFC 9207 §2.4).
    """
    issuer = response.get("iss")
    if issuer is None and metadata.answers_with_issuer:
        return not_acceptable("the response has no iss")
    if issuer is not None and issuer != settings.issuer:
        return not_acceptable("the response is of another issuer")
    if "error" in response:
        detail = f"the provider answered {error_code_of(response['error'])}"
        description = "The identity provider did not log you in."
        return LoginFailure(LoginFailureCode.REFUSED, description, detail)
    if not 0 < len(response.get("code", "")) <= MAXIMUM_CODE:
        return not_acceptable("the response has no code")
    return None


def login_problem(
    settings: OidcSettings, claims: Mapping[str, Any], attempt: LoginAttempt, now: int
) -> str | None:
    """What of a verified ID token is not as this attempt asked (OpenID Core §3.1.3.7)."""
    # Step 11: the nonce is of this attempt in this browser.
    if not hmac.compare_digest(claims.get("nonce", "").encode(), attempt.nonce.encode()):
        return "another nonce"
    if not is_strong(settings, claims):
        return "its acr is none of those asked for"
    maximum_age = maximum_login_age(settings, attempt, now)
    if maximum_age is None:
        return None
    # §3.1.2.1: whoever is asked for max_age must say auth_time.
    logged_in_at = claims.get("auth_time")
    if logged_in_at is None or logged_in_at > now + LEEWAY_SECONDS:
        return "no usable auth_time"
    if logged_in_at < max(attempt.login_not_before, now - maximum_age - LEEWAY_SECONDS):
        return "the login there is older than asked for"
    return None


def is_strong(settings: OidcSettings, claims: Mapping[str, Any]) -> bool:
    """Whether the login was of a kind the operator asks for (`acr`)."""
    return not settings.acr_values or claims.get("acr") in settings.acr_values


def maximum_login_age(settings: OidcSettings, attempt: LoginAttempt, now: int) -> int | None:
    """`max_age` in seconds: the operator's or the request's, whichever is shorter."""
    ages = [settings.maximum_login_age_seconds]
    if attempt.login_not_before:
        ages.append(max(now - attempt.login_not_before, 0))
    known = [age for age in ages if age is not None]
    return min(known) if known else None
