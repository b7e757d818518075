"""One token request of a command that is typed, with the DPoP proof of its key (RFC 9449 §5)."""

import json
from collections.abc import Mapping
from typing import Any, Final

import httpx2

from countersign.admin_client import AdminError
from countersign.login_file import ProofKey
from countersign.os_error_words import words_of

MAXIMUM_ANSWER_BYTES: Final = 131_072


def request_token(
    http: httpx2.Client, url: str, form: Mapping[str, str], key: ProofKey
) -> dict[str, Any]:
    """What the token endpoint at `url` answers.

    Raises:
        AdminError: It refuses, or nobody answers as one would.
    """
    status, said = asked_json(http, "POST", url, form, {"dpop": key.proof("POST", url)})
    if status != httpx2.codes.OK:
        raise AdminError(
            str(said.get("error", "server_error")), str(said.get("error_description", ""))
        )
    if not (isinstance(said.get("access_token"), str) and type(said.get("expires_in")) is int):
        raise AdminError("server_error", f"{url}: the answer holds no token")
    return said


def asked_json(
    http: httpx2.Client,
    method: str,
    url: str,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of an answer of the authorization server.

    Raises:
        AdminError: Nobody answers, or something else, or with too much.
    """
    content = bytearray()
    try:
        with http.stream(method, url, data=form, headers=headers) as answer:
            for part in answer.iter_bytes():
                content += part
                if len(content) > MAXIMUM_ANSWER_BYTES:
                    raise AdminError("unreachable", f"{url}: too much is answered")
        said = json.loads(content)
    except (httpx2.HTTPError, ValueError, RecursionError) as error:
        raise AdminError("unreachable", f"{url}: {words_of(error)}") from error
    if not isinstance(said, dict):
        raise AdminError("unreachable", f"{url}: the answer is no JSON object")
    return answer.status_code, said
