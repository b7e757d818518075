"""One token request of a command that is typed, with the DPoP proof of its key (RFC 9449 §5)."""

from collections.abc import Mapping
from typing import Any

import httpx2

from countersign.admin_client import AdminError
from countersign.login_file import ProofKey
from countersign.os_error_words import words_of


def request_token(
    http: httpx2.Client, url: str, form: Mapping[str, str], key: ProofKey
) -> dict[str, Any]:
    """What the token endpoint at `url` answers.

    Raises:
        AdminError: It refuses, or nobody answers as one would.
    """
    try:
        answer = http.post(url, data=dict(form), headers={"dpop": key.proof("POST", url)})
        said = answer.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise AdminError("unreachable", f"{url}: {words_of(error)}") from error
    if not isinstance(said, dict):
        raise AdminError("unreachable", f"{url}: the answer is no JSON object")
    if not answer.is_success:
        raise AdminError(
            str(said.get("error", "server_error")), str(said.get("error_description", ""))
        )
    return said
