"""The authorization server as a run needs it: metadata, tokens bound to its key, and the end.

Every token request proves the platform anew and the key anew. What is answered is taken apart
here, once; a token never leaves this package but in the header of a request to its audience.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import httpx2

from countersign.agent_run.errors import AgentRunError, RunOverError, UnavailableError
from countersign.agent_run.platform_proofs import ProofSource
from countersign.login_file import ProofKey

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
MAXIMUM_ANSWER_BYTES: Final = 131_072
SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class HeldToken:
    """A token of the run. Times are NumericDate seconds."""

    token: str = field(repr=False)
    obtained_at: float
    expires_at: float
    invocation: str
    refresh_token: str | None = field(default=None, repr=False)


class Authority:
    """One issuer, asked with one key and one way of proving this process."""

    def __init__(
        self,
        issuer: str,
        http: httpx2.AsyncClient,
        key: ProofKey,
        proofs: ProofSource,
        clock: Callable[[], float],
    ) -> None:
        self.issuer = issuer
        self.key = key
        self._http = http
        self._proofs = proofs
        self._clock = clock
        self._nonce: str | None = None

    async def metadata(self) -> Mapping[str, Any]:
        """The issuer's own document (RFC 8414 §3.3).

        Raises:
            AgentRunError: It is not there, or calls itself something else.
        """
        url = f"{self.issuer}/.well-known/openid-configuration"
        answer = await self._send("GET", url, {}, {})
        said = _object_of(answer)
        if answer.status_code != HTTPStatus.OK or said.get("issuer") != self.issuer:
            message = f"{url} names the issuer {said.get('issuer')!r}"
            raise AgentRunError("issuer_mismatch", message)
        return said

    async def require_proof(self) -> None:
        """Prove this process once for nothing, before a person is troubled.

        Raises:
            AgentRunError: The platform gives no proof.
        """
        await self._proofs.proof(self.key.thumbprint)

    async def token(self, form: Mapping[str, str]) -> HeldToken:
        """One token request of this process.

        Raises:
            RunOverError: What the run started from is used up, ended or cut off.
            UnavailableError: Nobody answers, or not now.
            AgentRunError: It is refused.
        """
        url = f"{self.issuer}/oauth/token"
        answer = await self._token_answer(url, form)
        if answer.status_code == HTTPStatus.BAD_REQUEST and self._wants_nonce(answer):
            answer = await self._token_answer(url, form)  # RFC 9449 §8
        said = _object_of(answer)
        if answer.status_code != HTTPStatus.OK:
            raise _refusal(answer.status_code, said, form.get("resource"))
        return self._held(said)

    async def end(self, held: HeldToken) -> None:
        """End the run of a token.

        Raises:
            AgentRunError: It could not be ended, or nobody could be told.
        """
        url = f"{self.issuer}/invocations/{held.invocation}/end"
        headers = {
            "authorization": f"DPoP {held.token}",
            "dpop": self.key.proof("POST", url, held.token, self._nonce),
        }
        answer = await self._send("POST", url, {}, headers)
        if answer.status_code != HTTPStatus.NO_CONTENT:
            raise _refusal(answer.status_code, _object_of(answer))

    async def _token_answer(self, url: str, form: Mapping[str, str]) -> httpx2.Response:
        proof = await self._proofs.proof(self.key.thumbprint)  # good for one request
        headers = {"dpop": self.key.proof("POST", url, nonce=self._nonce)}
        return await self._send("POST", url, {**form, **proof.form()}, headers)

    def _wants_nonce(self, answer: httpx2.Response) -> bool:
        nonce = answer.headers.get("dpop-nonce")
        self._nonce = nonce or self._nonce
        return nonce is not None and _object_of(answer).get("error") == "use_dpop_nonce"

    async def _send(
        self, method: str, url: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> httpx2.Response:
        try:
            async with self._http.stream(
                method, url, data=dict(form) or None, headers=dict(headers), timeout=SECONDS
            ) as answer:
                content = await read_at_most(answer, MAXIMUM_ANSWER_BYTES)
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError("unreachable", f"{url}: {reason}") from error
        return httpx2.Response(
            answer.status_code,
            headers={
                name: value
                for name, value in answer.headers.items()
                if name in ("dpop-nonce", "content-type")
            },
            content=content,
        )

    def _held(self, said: Mapping[str, Any]) -> HeldToken:
        token, now = str(said.get("access_token", "")), self._clock()
        refresh_token = said.get("refresh_token")
        lifetime = said.get("expires_in")
        invocation = _run_in(token)
        if not isinstance(lifetime, int) or invocation is None:
            raise AgentRunError("server_error", f"{self.issuer} answered without a run's token")
        return HeldToken(
            token=token,
            obtained_at=now,
            expires_at=now + lifetime,
            invocation=invocation,
            refresh_token=refresh_token if isinstance(refresh_token, str) else None,
        )


async def read_at_most(answer: httpx2.Response, maximum_bytes: int) -> bytes:
    """The body of a streamed answer.

    Raises:
        UnavailableError: It is larger.
    """
    content = bytearray()
    async for part in answer.aiter_bytes():
        content += part
        if len(content) > maximum_bytes:
            raise UnavailableError("too_large", f"{answer.url} answers with too much")
    return bytes(content)


def _object_of(answer: httpx2.Response) -> Mapping[str, Any]:
    try:
        said = json.loads(answer.content)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _refusal(status: int, said: Mapping[str, Any], resource: str | None = None) -> AgentRunError:
    code = str(said.get("error", f"status {status}"))
    text = str(said.get("error_description", "no reason was given"))
    if code in {"invalid_target", "invalid_client"} and resource is not None:
        # The server tells a client no more; the operator finds the rest there.
        text += f" Asked for {resource}; the reason is in the audit, as token.refused."
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UnavailableError(code, text)
    return (RunOverError if code == "invalid_grant" else AgentRunError)(code, text)


def _run_in(token: str) -> str | None:
    """The run a token names. Ours to read: issuer and client are one product (RFC 9068 §6)."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return None
    invocation = claims.get("inv") if isinstance(claims, dict) else None
    if not isinstance(invocation, str) or not _NAME.fullmatch(invocation):
        return None
    return invocation
