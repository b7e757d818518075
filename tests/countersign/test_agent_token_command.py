"""`agent token --subject-token-file`: a person's token by file or standard input, never argv."""

from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from countersign.admin_client import AdminError
from countersign.cli import agent
from countersign.cli.context import CommandContext, Output
from countersign.settings import ClientSettings
from countersign.subject_token_file import STANDARD_INPUT, read_subject_token
from token_exchange.token_types import (
    GRANT_CLIENT_CREDENTIALS,
    GRANT_TOKEN_EXCHANGE,
    MAXIMUM_TOKEN_BYTES,
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_ID_TOKEN,
)

TOKEN = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"


# --- reading it ---


def test_token_is_read_from_a_file_or_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\n")
    assert read_subject_token(file) == TOKEN
    assert read_subject_token(STANDARD_INPUT, BytesIO(f"{TOKEN}\n".encode())) == TOKEN


@pytest.mark.requirement("attack-26")
@pytest.mark.parametrize(
    "data", [b"", b" \n", b"\xff" + TOKEN.encode(), b"x" * (MAXIMUM_TOKEN_BYTES + 1)], ids=len
)
def test_what_is_no_token_is_refused_without_its_text(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(data)
    with pytest.raises(AdminError) as caught:
        read_subject_token(file)
    assert "eyJ" not in str(caught.value)
    with pytest.raises(AdminError):
        read_subject_token(STANDARD_INPUT, BytesIO(data))
    with pytest.raises(AdminError):
        read_subject_token(tmp_path / "absent")


# --- sending it ---


class Sent:
    """What the command posted to the token endpoint."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        form = parse_qs(request.content.decode())
        self.forms.append({name: values[0] for name, values in form.items()})
        token = {"access_token": "its-token", "token_type": "DPoP", "expires_in": 900}
        return httpx2.Response(200, json=token)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    seen = Sent()
    real = httpx2.Client

    def client(**options: Any) -> httpx2.Client:
        return real(transport=httpx2.MockTransport(seen.answer), **options)

    monkeypatch.setattr(httpx2, "Client", client)
    monkeypatch.setattr(agent, "_attest", lambda *_: "an-attestation")
    return seen


def run(tmp_path: Path, *arguments: str, stdin: str = "") -> Result:
    context = CommandContext(
        settings=ClientSettings(issuer="http://127.0.0.1:8700"),
        output=Output.TABLE,
        quiet=False,
        console=Console(),
        errors=Console(stderr=True),
    )
    own = ["--resource", "http://127.0.0.1:8701/crm/mcp", "--key-file", str(tmp_path / "key")]
    result = CliRunner().invoke(agent.app, ["token", *own, *arguments], input=stdin, obj=context)
    assert result.exit_code == 0, result.output
    return result


def test_with_a_token_the_agent_exchanges_it_and_without_it_acts_alone(
    tmp_path: Path, sent: Sent
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    run(tmp_path, "--subject-token-file", str(file))
    run(tmp_path, "--subject-token-file", "-", "--subject-token-type", "access_token", stdin=TOKEN)
    run(tmp_path)
    first, second, alone = sent.forms
    assert (first["grant_type"], first["subject_token"], first["subject_token_type"]) == (
        GRANT_TOKEN_EXCHANGE,
        TOKEN,
        TOKEN_TYPE_ID_TOKEN,
    )
    assert second["subject_token_type"] == TOKEN_TYPE_ACCESS_TOKEN
    assert alone["grant_type"] == GRANT_CLIENT_CREDENTIALS
    assert not any(name.startswith("subject_token") for name in alone)


def test_no_option_takes_the_token_itself() -> None:
    shown = CliRunner().invoke(agent.app, ["token", "--help"]).output
    assert "--subject-token-file" in shown
    assert "--subject-token " not in shown
