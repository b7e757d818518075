"""Requests to the control API with a key-bound token that renews itself.

Every request carries `Authorization: DPoP` and a fresh proof (RFC 9449 §7.1). The token comes by
client_credentials with private_key_jwt for `{issuer}/control/v1` and is renewed before it ends; a
401 renews it once, because the authority may have restarted with new keys.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlencode

import msgspec

from mcp_gateway.authority import (
    MAXIMUM_ANSWER_BYTES,
    REQUEST_SECONDS,
    Authority,
    AuthorityAnswer,
    AuthorityRequest,
    AuthorityStream,
)
from mcp_gateway.clock import Clock
from mcp_gateway.enrolment import GatewayIdentity
from mcp_gateway.gateway_key import GatewayKey
from token_exchange.token_types import CLIENT_ASSERTION_JWT_BEARER, GRANT_CLIENT_CREDENTIALS

RENEW_BEFORE_SECONDS: Final = 30
SHORT_ANSWER_BYTES: Final = 1_048_576
MEMORY_HEADER: Final = "countersign-memory"
_UNAUTHORIZED: Final = 401
_OK: Final = 200


class ControlRefusedError(Exception):
    """The authority answered, and not with what was asked for. The text has no secret."""


class _TokenAnswer(msgspec.Struct, frozen=True):
    access_token: str
    token_type: str
    expires_in: int


class ControlSession:
    """The control API, as this gateway."""

    def __init__(
        self,
        *,
        authority: Authority,
        key: GatewayKey,
        identity: GatewayIdentity,
        clock: Clock,
        worker: str,
        memory: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Take the way to the authority, who we are to it, this worker's name.

        `memory` names the memory of used proofs that this worker shares, if it shares one.
        """
        self._authority = authority
        self._key = key
        self._clock = clock
        self._worker = worker
        self._memory = memory
        self._token: str | None = None
        self._renew_at = 0.0
        self._renewal = asyncio.Lock()
        self.identity = identity
        self.base_url = f"{identity.issuer}/control/v1"

    async def token(self) -> str:
        """A control token with life left in it.

        Raises:
            AuthorityUnreachableError: no answer.
            ControlRefusedError: no token.
        """
        async with self._renewal:
            if self._token is None or self._clock() >= self._renew_at:
                self._token = None
                self._token = await self._new_token()
            return self._token

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        maximum_bytes: int = SHORT_ANSWER_BYTES,
    ) -> AuthorityAnswer:
        """One request to the control API; `path` begins with a slash and has no query.

        Raises:
            AuthorityUnreachableError: no answer.
            ControlRefusedError: no token.
        """
        extra = dict(headers or {})
        if body:
            extra["content-type"] = content_type
        for is_last in (False, True):
            request = await self._request(method, path, extra, body, maximum_bytes)
            answer = await self._authority.ask(request)
            if answer.status != _UNAUTHORIZED or is_last:
                break
            self._token = None
        return answer

    @asynccontextmanager
    async def listen(
        self, path: str, query: Mapping[str, str], silence_seconds: float, memory: str | None
    ) -> AsyncIterator[AuthorityStream]:
        """An event stream of the control API; it ends with its token. `memory` is declared."""
        declared = {} if memory is None else {MEMORY_HEADER: memory}
        accept = {"accept": "text/event-stream", **declared}
        request = await self._request("GET", path, accept, b"", 0)
        request = AuthorityRequest(
            method="GET",
            url=f"{request.url}?{urlencode(query)}",
            headers=request.headers,
            timeout_seconds=silence_seconds,
        )
        async with self._authority.listen(request) as stream:
            if stream.status == _UNAUTHORIZED:
                self._token = None
            if stream.status != _OK:
                raise ControlRefusedError(f"GET {path}: HTTP {stream.status}")
            yield stream

    async def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, maximum_bytes: int
    ) -> AuthorityRequest:
        token, url = await self.token(), f"{self.base_url}{path}"
        proof = self._key.dpop_proof(
            method=method, uri=url, now=int(self._clock()), access_token=token
        )
        memory = self._memory()
        return AuthorityRequest(
            method=method,
            url=url,
            headers={
                **({} if memory is None else {MEMORY_HEADER: memory}),
                **headers,
                "authorization": f"DPoP {token}",
                "dpop": proof,
                "countersign-worker": self._worker,
            },
            body=body,
            timeout_seconds=REQUEST_SECONDS,
            maximum_bytes=min(maximum_bytes, MAXIMUM_ANSWER_BYTES),
        )

    async def _new_token(self) -> str:
        url, now = f"{self.identity.issuer}/oauth/token", int(self._clock())
        assertion = self._key.client_assertion(
            client_id=self.identity.client_id, issuer=self.identity.issuer, now=now
        )
        form = {
            "grant_type": GRANT_CLIENT_CREDENTIALS,
            "client_id": self.identity.client_id,
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": assertion,
            "resource": self.base_url,
        }
        request = AuthorityRequest(
            method="POST",
            url=url,
            headers={
                "content-type": "application/x-www-form-urlencoded",
                "dpop": self._key.dpop_proof(method="POST", uri=url, now=now),
            },
            body=urlencode(form).encode("ascii"),
            maximum_bytes=SHORT_ANSWER_BYTES,
        )
        answer = await self._authority.ask(request)
        try:
            token = msgspec.json.decode(answer.body, type=_TokenAnswer)
        except msgspec.MsgspecError as error:
            raise ControlRefusedError(f"no control token: HTTP {answer.status}") from error
        if answer.status != _OK or token.token_type.lower() != "dpop":
            raise ControlRefusedError(f"no bound control token: HTTP {answer.status}")
        self._renew_at = now + token.expires_in - RENEW_BEFORE_SECONDS
        return token.access_token
