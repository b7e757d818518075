"""Asks an OpenID provider's token and userinfo endpoints, as the client we are registered as.

Every answer is a value. What the provider says of an error goes to the audit as its bare code;
nothing else of it is repeated anywhere, and never a token, code or secret.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote_plus

from idp_connectors.workforce.claim_tables import USERINFO
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.parts import WorkforceParts
from outbound.fetcher import Fetched, FetchError
from token_exchange.claims import Refusal

MAXIMUM_UPSTREAM_TOKEN: Final = 16_384

_ERROR_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")  # RFC 6749 appendix A: what a token is made of


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What a token endpoint gave. All of it secret, none of it verified."""

    unverified_id_token: str | None
    access_token: str
    refresh_token: str | None


class OpenIdClient:
    """One registration at one provider."""

    def __init__(self, settings: OidcSettings, parts: WorkforceParts) -> None:
        self._settings = settings
        self._policy = settings.policy
        self._fetcher = parts.fetcher
        self._secrets = parts.secrets

    async def redeem(
        self, token_endpoint: str, grant: Mapping[str, str]
    ) -> TokenAnswer | LoginFailure:
        """Present a code or refresh token (RFC 6749 §4.1.3, §6)."""
        authenticated = await self._authenticated(grant)
        if isinstance(authenticated, LoginFailure):
            return authenticated
        form, headers = authenticated
        try:
            fetched = await self._fetcher.post_form(
                token_endpoint, form, self._policy, headers=headers
            )
            return _token_answer(fetched)
        except FetchError as error:
            return unavailable(f"token endpoint: {error}")

    async def userinfo(
        self, endpoint: str | None, access_token: str, subject: str
    ) -> Mapping[str, Any] | LoginFailure:
        """What the provider says of the person the access token is for (OpenID Core §5.3)."""
        if endpoint is None:
            return unavailable("the metadata names no userinfo endpoint")
        headers = (("Authorization", f"Bearer {access_token}"),)
        try:
            fetched = await self._fetcher.get(endpoint, self._policy, headers=headers)
            claims = fetched.json_object() if fetched.status == HTTPStatus.OK else {}
        except FetchError as error:
            return unavailable(f"userinfo endpoint: {error}")
        if fetched.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return ended(f"userinfo endpoint: {fetched.status}")
        if fetched.status != HTTPStatus.OK:
            return unavailable(f"userinfo endpoint: {fetched.status}")
        return _claims_of(claims, subject)

    async def _authenticated(
        self, grant: Mapping[str, str]
    ) -> tuple[dict[str, str], tuple[tuple[str, str], ...]] | LoginFailure:
        form, name = dict(grant), self._settings.client_secret
        if name is None:
            return form | {"client_id": self._settings.client_id}, ()
        secret = await self._secrets.open(name)
        if isinstance(secret, Refusal):
            return unavailable(f"client secret {name}: {secret.detail}")
        if self._settings.client_authentication == "post":
            return form | {"client_id": self._settings.client_id, "client_secret": secret}, ()
        # RFC 6749 §2.3.1: both are form-encoded before they are joined.
        pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(secret)}"
        return form, (("Authorization", f"Basic {b64encode(pair.encode()).decode()}"),)


def _claims_of(claims: Mapping[str, Any], subject: str) -> Mapping[str, Any] | LoginFailure:
    problem = USERINFO.problem(claims)
    if problem is not None:
        return not_acceptable(f"userinfo: claim {problem}")
    # INVARIANT: OpenID Core §5.3.2: claims of another subject are never mixed in.
    return claims if claims["sub"] == subject else not_acceptable("userinfo: another subject")


def unavailable(detail: str) -> LoginFailure:
    """The provider could not be asked."""
    description = "The identity provider cannot be reached now. Try again."
    return LoginFailure(LoginFailureCode.UNAVAILABLE, description, detail)


def not_acceptable(detail: str) -> LoginFailure:
    """What came back is not what was asked for."""
    description = "The identity provider's answer is not acceptable. Start again."
    return LoginFailure(LoginFailureCode.INVALID_RESPONSE, description, detail)


def ended(detail: str) -> LoginFailure:
    """The provider no longer vouches for the person."""
    description = "The identity provider has ended this login. Log in again."
    return LoginFailure(LoginFailureCode.ENDED, description, detail)


def error_code_of(value: object) -> str:
    """A provider's error code, as the audit may hold it."""
    return value if isinstance(value, str) and _ERROR_CODE.fullmatch(value) else "unreadable"


def _token_answer(fetched: Fetched) -> TokenAnswer | LoginFailure:
    if fetched.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        code = error_code_of(fetched.json_object().get("error"))
        detail = f"token endpoint: {code}"
        # Only this one says something about the person; the others about our registration.
        return ended(detail) if code == "invalid_grant" else unavailable(detail)
    if fetched.status != HTTPStatus.OK:
        return unavailable(f"token endpoint: {fetched.status}")
    answer = fetched.json_object()
    tokens = [answer.get(name) for name in ("id_token", "access_token", "refresh_token")]
    if not all(token is None or _is_token(token) for token in tokens):
        return not_acceptable("token endpoint: a token is no token")
    id_token, access_token, refresh_token = tokens
    token_type = answer.get("token_type")
    if access_token is None or not isinstance(token_type, str) or token_type.lower() != "bearer":
        return not_acceptable("token endpoint: no bearer token")
    return TokenAnswer(id_token, access_token, refresh_token)


def _is_token(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= MAXIMUM_UPSTREAM_TOKEN
        and _VISIBLE.fullmatch(value) is not None
    )
