import base64
import json
from pathlib import Path

from bench import declared
from bench.requests import (
    ARGUMENT_VALUES,
    call_bodies,
    call_head,
    credentials_request,
    write_lines,
)
from bench.signing import Key
from token_exchange.claims import Refusal
from token_exchange.proof_of_possession import verify_dpop_proof

URL = "http://127.0.0.1:8701/bench/mcp"


def test_call_bodies_are_distinct_calls_of_one_length() -> None:
    bodies = call_bodies()

    arguments = {json.dumps(json.loads(body)["params"]["arguments"]) for body in bodies}
    assert len(bodies) == len(arguments) == ARGUMENT_VALUES
    assert len({len(body) for body in bodies}) == 1


def test_call_head_names_the_length_and_ends_with_an_empty_line() -> None:
    head = call_head(URL, length=321, token="t")

    assert head.startswith("POST /bench/mcp HTTP/1.1\r\nHost: 127.0.0.1:8701\r\n")
    assert "\r\nAuthorization: Bearer t\r\n" in head
    assert head.endswith("\r\nContent-Length: 321\r\n\r\n")


def test_call_head_with_a_proof_presents_the_token_as_bound() -> None:
    head = call_head(URL, length=1, token="t", proof="p")

    assert "\r\nAuthorization: DPoP t\r\n" in head
    assert "\r\nDPoP: p\r\n" in head


def test_request_file_has_one_line_for_each_request(tmp_path: Path) -> None:
    written = write_lines(tmp_path / "requests", ["A: 1\r\n\r\n{}", "B"]).read_text()

    assert written == "A: 1\\n\\n{}\nB\n"


def test_credentials_requests_never_repeat_an_assertion() -> None:
    key = Key()
    texts = {
        credentials_request(URL, issuer="i", client_id="c", key=key, resource=None, is_bound=False)
        for _ in range(3)
    }

    assert len(texts) == 3
    assert not any("DPoP" in text for text in texts)


def test_proof_is_one_our_servers_accept() -> None:
    key = Key()
    proof = key.proof(method="POST", uri=URL, now=1000, token="t")

    found = verify_dpop_proof(
        proof,
        method="POST",
        uri=URL,
        now=1000,
        access_token="t",
        expected_thumbprint=key.thumbprint,
    )
    assert not isinstance(found, Refusal)


def test_assertion_names_its_key_and_lives_a_minute() -> None:
    key = Key()
    head, payload, _ = key.assertion(client_id="c", audience="a", now=1000).split(".")

    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["kid"] == key.thumbprint
    assert (claims["iss"], claims["aud"], claims["exp"] - claims["iat"]) == ("c", "a", 60)


def test_declared_measured_tool_is_on_the_server_the_requests_name() -> None:
    assert json.loads(call_bodies()[0])["params"]["name"] == declared.TOOL
