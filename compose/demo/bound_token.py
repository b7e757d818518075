"""The key of the demo's agent, and what it adds to a request: its token and a proof (DPoP)."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims_in(token: str) -> dict[str, Any]:
    """What a token says, to show it: nothing is verified."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


class Key:
    """The agent's own key, and the DPoP proofs made with it (RFC 9449 §4.2)."""

    def __init__(self) -> None:
        self._key = ECKey.generate_key("P-256")
        self.public = self._key.as_dict(private=False)
        self.thumbprint = self._key.thumbprint()

    def proof(self, method: str, url: str, token: str | None = None) -> str:
        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url.split("?", maxsplit=1)[0],
            "iat": int(time.time()),  # noqa: TID251 - the agent's own wall clock
        }
        if token is not None:
            claims["ath"] = b64(hashlib.sha256(token.encode()).digest())
        public = {name: self.public[name] for name in ("kty", "crv", "x", "y")}
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public}
        return jwt.encode(header, claims, self._key)


class BoundToken(httpx2.Auth):
    """Adds the token and a fresh proof to every request the MCP client makes."""

    def __init__(self, key: Key, token: str) -> None:
        self._key, self._token = key, token

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["authorization"] = f"DPoP {self._token}"
        request.headers["dpop"] = self._key.proof(request.method, str(request.url), self._token)
        yield request

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        for prepared in self.auth_flow(request):
            yield prepared
