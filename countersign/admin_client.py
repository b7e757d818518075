"""The command line's way to the admin API: with the operator's bound token, or a Unix socket."""

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from countersign.login_file import ProofKey
from countersign.os_error_words import words_of
from countersign.trusted_authorities import tls_context

MAXIMUM_ANSWER_BYTES = 33_554_432


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one declared object."""

    kind: str
    name: str
    field: str
    message: str


@dataclass(eq=False)  # not frozen: `raise` writes the traceback
class AdminError(Exception):
    """The admin API refused, or could not be reached.

    `code` is its error code, or `unreachable`; `problems` name objects and fields.
    """

    code: str
    description: str
    status: int = 0
    problems: tuple[Problem, ...] = field(default_factory=tuple)


class AdminClient:
    """A synchronous client of `{issuer}/admin/v1`. Use as a context manager."""

    def __init__(
        self,
        issuer: str,
        *,
        timeout_seconds: float,
        socket: Path | None = None,
        key: ProofKey | None = None,
        access_token: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        # The socket speaks plain HTTP, whatever stands in front of the public listener.
        origin = issuer if socket is None else f"http://{urlsplit(issuer).netloc}"
        self._base = f"{origin}/admin/v1"
        self._key = key
        self._token = access_token
        verify = tls_context(ca_file, origin)
        transport = None
        if socket is not None:
            transport = httpx2.HTTPTransport(uds=str(socket), verify=verify)
        self._http = httpx2.Client(
            transport=transport,
            verify=verify,
            timeout=timeout_seconds,
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,  # noqa: ANN401 - any JSON value
        query: dict[str, str] | None = None,
        wait_seconds: float = 0,
    ) -> Any:  # noqa: ANN401 - any JSON value
        """One request; its JSON answer, or None when there is no content.

        Raises:
            AdminError: refused, unreachable, or not an answer of the admin API.
        """
        url = f"{self._base}{path}"
        headers = {}
        if self._token is not None and self._key is not None:
            headers["authorization"] = f"DPoP {self._token}"
            headers["dpop"] = self._key.proof(method, url, self._token)
        try:
            answer = self._http.request(
                method,
                url,
                json=json,
                params=query,
                headers=headers,
                timeout=self._http.timeout.read + wait_seconds
                if self._http.timeout.read is not None
                else None,
            )
        except httpx2.HTTPError as error:
            raise AdminError("unreachable", f"{url}: {words_of(error)}") from error
        return self._answer(answer)

    @staticmethod
    def _answer(answer: httpx2.Response) -> Any:  # noqa: ANN401 - any JSON value
        if len(answer.content) > MAXIMUM_ANSWER_BYTES:
            raise AdminError("too_large", "the answer is larger than this command reads")
        if answer.status_code == httpx2.codes.NO_CONTENT:
            return None
        try:
            body = answer.json()
        except ValueError as error:
            raise AdminError(
                "not_json",
                f"the server answered {answer.status_code} without JSON",
                answer.status_code,
            ) from error
        if answer.is_success:
            return body
        problems = tuple(
            Problem(
                str(entry.get("kind", "")),
                str(entry.get("name", "")),
                str(entry.get("field", "")),
                str(entry.get("message", "")),
            )
            for entry in body.get("problems", ())
        )
        raise AdminError(
            str(body.get("error", "server_error")),
            str(body.get("error_description", "")),
            answer.status_code,
            problems,
        )
