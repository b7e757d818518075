"""The code request of a command: what it says, and which answers it takes."""

from base64 import urlsafe_b64encode
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

import pytest

from countersign.code_request import CodeRequest, LoginError, new_code_request

ISSUER = "https://id.example.com"
ENDPOINT = f"{ISSUER}/oauth/authorize"


def request(endpoint: object = ENDPOINT, scope: str | None = "mcp:tools") -> CodeRequest:
    return new_code_request(
        {"issuer": ISSUER, "authorization_endpoint": endpoint},
        client_id="helpdesk-bot",
        resource="https://gw.example.com/crm/mcp",
        redirect_uri="http://127.0.0.1:4711/callback",
        thumbprint="thumb",
        scope=scope,
    )


def test_url_carries_challenge_state_and_key_and_never_the_verifier() -> None:
    asked = request()
    query = {name: values[0] for name, values in parse_qs(urlsplit(asked.url).query).items()}
    digest = sha256(asked.verifier.encode()).digest()
    assert query == {
        "response_type": "code",
        "client_id": "helpdesk-bot",
        "redirect_uri": "http://127.0.0.1:4711/callback",
        "resource": "https://gw.example.com/crm/mcp",
        "state": asked.state,
        "code_challenge": urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        "dpop_jkt": "thumb",
        "scope": "mcp:tools",
    }
    assert "scope=" not in request(scope=None).url
    other = request()
    assert (other.state, other.verifier) != (asked.state, asked.verifier)
    assert asked.state not in repr(asked)
    assert asked.verifier not in repr(asked)


def test_answer_of_the_issuer_becomes_the_token_request() -> None:
    asked = request()
    assert asked.form({"iss": ISSUER, "code": "c"}) == {
        "grant_type": "authorization_code",
        "code": "c",
        "code_verifier": asked.verifier,
        "redirect_uri": "http://127.0.0.1:4711/callback",
        "resource": "https://gw.example.com/crm/mcp",
    }


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"code": "c"}, "mix_up"),
        ({"iss": "https://other.example.com", "code": "c"}, "mix_up"),
        ({"iss": ISSUER}, "invalid_response"),
        ({"iss": ISSUER, "error": "access_denied"}, "access_denied"),
    ],
)
def test_answer_of_another_issuer_or_without_a_code_is_refused(
    said: dict[str, str], code: str
) -> None:
    with pytest.raises(LoginError) as refused:
        request().form(said)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "endpoint", [None, 7, "", "javascript:alert(1)", "https://x/\r\nset-cookie: a=b", "https://"]
)
def test_issuer_that_names_no_place_for_a_browser_is_refused(endpoint: object) -> None:
    with pytest.raises(LoginError, match="no authorization endpoint"):
        request(endpoint)
