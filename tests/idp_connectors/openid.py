"""An OpenID provider in memory, behind the fetcher's interface: right unless a test turns it wrong.

It checks what a real one checks (client, redirect URI, PKCE, single use of codes and refresh
tokens), so that a test that passes has sent what it must.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc.jwk import ECKey, OctKey, RSAKey
from joserfc.jws import JWSRegistry

from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.parts import WorkforceParts
from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy
from token_exchange.compact_jws import encode_base64url

IDP = "https://idp.example.com"
CLIENT_ID = "countersign"
CLIENT_SECRET = "an invented: secret+%"
NOW = 1_800_000_000
Key = ECKey | RSAKey | OctKey


def signed_with(
    key: Key, claims: Mapping[str, Any], *, algorithm: str = "ES256", **header: Any
) -> str:
    """A JWS by any key, with any header members (None leaves one out)."""
    members = {"alg": algorithm, "kid": "idp-1", "typ": "JWT"} | header
    shown = {name: value for name, value in members.items() if value is not None}
    parts = (json.dumps(shown).encode(), json.dumps(claims).encode())
    signing_input = ".".join(map(encode_base64url, parts))
    if algorithm == "none":
        return f"{signing_input}.AA"
    made = JWSRegistry(algorithms=[algorithm]).get_alg(algorithm)
    return f"{signing_input}.{encode_base64url(made.sign(signing_input.encode(), key))}"


class MemoryIdp(Fetcher):
    """The provider and the way to it."""

    def __init__(self, issuer: str = IDP) -> None:
        super().__init__()
        self.issuer = issuer
        self.now = NOW
        self.key: Key = ECKey.generate_key("P-256")
        self.people: dict[str, dict[str, Any]] = {
            "carol": {"name": "Carol Partner", "groups": ["partners", "staff"]},
            "dave": {"name": "Dave Partner", "groups": ["staff"]},
        }
        self.metadata_changes: dict[str, Any] = {}
        self.claim_changes: dict[str, Any] = {}
        self.header_changes: dict[str, Any] = {}
        self.token_changes: dict[str, Any] = {}
        self.userinfo_changes: dict[str, Any] = {}
        self.token_status: tuple[int, dict[str, Any]] | None = None
        self.failure: FetchError | None = None
        self.asked: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.refresh_tokens: dict[str, dict[str, str]] = {}

    # --- the person's side ---

    def answer(self, url: str, person: str = "carol", **changes: str | None) -> str:
        """The callback URL after `person` logged in at this authorization URL."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert url.startswith(f"{self.issuer}/auth?")
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked | {"person": person}
        said = {"code": code, "state": asked["state"], "iss": self.issuer} | changes
        query = urlencode({name: value for name, value in said.items() if value is not None})
        return f"{asked['redirect_uri']}?{query}"

    # --- the fetcher's side ---

    async def get(
        self, url: str, policy: FetchPolicy, *, headers: Sequence[tuple[str, str]] = ()
    ) -> Fetched:
        del policy
        self._note(url)
        if url == f"{self.issuer}/.well-known/openid-configuration":
            return self._json(self.metadata())
        if url == f"{self.issuer}/keys":
            public = {**self.key.as_dict(private=False), "kid": "idp-1", "use": "sig"}
            return self._json({"keys": [public]})
        if url == f"{self.issuer}/me":
            token = dict(headers)["Authorization"].removeprefix("Bearer at-")
            claims = {"sub": token, **self.people[token]} | self.userinfo_changes
            return self._json(claims)
        return Fetched(404, {}, b"")

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        policy: FetchPolicy,
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Fetched:
        del policy
        self._note(url)
        assert url == f"{self.issuer}/token"
        if self.token_status is not None:
            return self._json(self.token_status[1], self.token_status[0])
        if not self._is_client(form, headers):
            return self._json({"error": "invalid_client"}, 401)
        if form["grant_type"] == "refresh_token":
            return self._refreshed(form)
        granted = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if (
            granted is None
            or granted["redirect_uri"] != form["redirect_uri"]
            or granted["code_challenge"] != encode_base64url(digest)
        ):
            return self._json({"error": "invalid_grant"}, 400)
        return self._tokens(granted["person"], {"nonce": granted["nonce"]})

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/me",
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata_changes

    def id_token(self, person: str = "carol", **changes: Any) -> str:
        claims = {
            "iss": self.issuer,
            "sub": person,
            "aud": CLIENT_ID,
            "iat": self.now,
            "exp": self.now + 300,
            "auth_time": self.now - 10,
            **self.people.get(person, {}),
        }
        claims |= changes | self.claim_changes
        shown = {name: value for name, value in claims.items() if value is not None}
        return signed_with(self.key, shown, **self.header_changes)

    def _tokens(self, person: str, more: dict[str, Any]) -> Fetched:
        if self.people[person].get("disabled"):
            return self._json({"error": "invalid_grant"}, 400)
        refresh = secrets.token_urlsafe(8)
        self.refresh_tokens[refresh] = {"person": person}
        answer = {
            "access_token": f"at-{person}",
            "token_type": "Bearer",
            "expires_in": 300,
            "refresh_token": refresh,
            "id_token": self.id_token(person, **more),
        } | self.token_changes
        return self._json({name: value for name, value in answer.items() if value is not None})

    def _refreshed(self, form: Mapping[str, str]) -> Fetched:
        granted = self.refresh_tokens.pop(form["refresh_token"], None)  # good for one use
        if granted is None:
            return self._json({"error": "invalid_grant"}, 400)
        return self._tokens(granted["person"], {})

    def _is_client(self, form: Mapping[str, str], headers: Sequence[tuple[str, str]]) -> bool:
        basic = dict(headers).get("Authorization")
        if basic is None:
            return (form["client_id"], form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        pair = base64.b64decode(basic.removeprefix("Basic ")).decode().split(":")
        return [unquote_plus(each) for each in pair] == [CLIENT_ID, CLIENT_SECRET]

    def _note(self, url: str) -> None:
        self.asked.append(url)
        if self.failure is not None:
            raise self.failure

    @staticmethod
    def _json(value: Mapping[str, Any], status: int = 200) -> Fetched:
        return Fetched(status, {}, json.dumps(value).encode())


def settings_of(**changes: Any) -> OidcSettings:
    given = {"issuer": IDP, "client_id": CLIENT_ID, "client_secret": "partner"} | changes
    return OidcSettings.model_validate(given)


def provider_of(
    parts: WorkforceParts, groups: Sequence[str] = ("*",), **changes: Any
) -> OidcProvider:
    return OidcProvider("partner", settings_of(**changes), groups, parts)
