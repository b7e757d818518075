"""A command's token request: what is answered, refused or makes no sense."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from countersign.admin_client import AdminError
from countersign.login_file import load_or_create_key
from countersign.token_request import MAXIMUM_ANSWER_BYTES, request_token

URL = "https://id.example.com/oauth/token"
TOKEN = {"access_token": "t", "expires_in": 900}


def asked(tmp_path: Path, answer: httpx2.Response) -> tuple[dict[str, Any], httpx2.Request]:
    seen: list[httpx2.Request] = []

    def answering(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return answer

    key = load_or_create_key(tmp_path / "key", lambda: 1_800_000_000.0)
    with httpx2.Client(transport=httpx2.MockTransport(answering)) as http:
        return request_token(http, URL, {"grant_type": "client_credentials"}, key), seen[0]


def test_answer_is_returned_and_the_request_carries_form_and_proof(tmp_path: Path) -> None:
    said, request = asked(tmp_path, httpx2.Response(200, json=TOKEN))
    assert said == TOKEN
    assert request.content == b"grant_type=client_credentials"
    assert request.headers["dpop"].count(".") == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx2.Response(400, json={"error": "invalid_grant"}), "invalid_grant"),
        (httpx2.Response(500, json={}), "server_error"),
        (httpx2.Response(200, text="<html>"), "unreachable"),
        (httpx2.Response(200, json=["t"]), "unreachable"),
        (httpx2.Response(502, json=None), "unreachable"),
        (httpx2.Response(200, json={}), "server_error"),
        (httpx2.Response(200, json=TOKEN | {"expires_in": "900"}), "server_error"),
        (httpx2.Response(200, json={"access_token": "t" * MAXIMUM_ANSWER_BYTES}), "unreachable"),
        (httpx2.Response(200, text="[" * 100_000), "unreachable"),
    ],
)
def test_refusal_and_nonsense_are_told_by_a_code(
    tmp_path: Path, answer: httpx2.Response, code: str
) -> None:
    with pytest.raises(AdminError) as refused:
        asked(tmp_path, answer)
    assert refused.value.code == code
