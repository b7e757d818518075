"""`agent token`: attest this process at the local socket and get a bound token.

Alone, or for the person whose token of their identity provider is in a file or on standard input;
never in an argument, which every process of the machine can read.
"""

import json
import socket
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from countersign.admin_client import AdminError
from countersign.cli import agent_run
from countersign.cli.context import clock, context_of
from countersign.cli.given_files import there_or_dash
from countersign.login_file import load_or_create_key
from countersign.os_error_words import words_of
from countersign.subject_token_file import TOKEN_TYPES, PersonTokenType, read_subject_token
from countersign.token_request import request_token
from countersign.trusted_authorities import tls_context
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_TOKEN_EXCHANGE,
)

app = typer.Typer(no_args_is_help=True)
ATTESTATION_SECONDS = 5.0
MAXIMUM_ANSWER_BYTES = 65_536

app.command(context_settings={"allow_interspersed_args": False})(agent_run.run)


@app.callback()
def agent() -> None:
    """What an agent runs on its own machine."""


@app.command()
def token(
    command: typer.Context,
    *,
    resource: Annotated[str, typer.Option(help="The gateway endpoint the token is for.")],
    key_file: Annotated[Path, typer.Option(help="The agent's key; made 0600 if absent.")],
    attestation_socket: Annotated[
        Path, typer.Option(envvar="COUNTERSIGN_ATTESTATION_SOCKET", help="The local socket.")
    ] = Path("countersign-run/attest.sock"),
    provider: Annotated[str, typer.Option(help="The TrustProvider object.")] = "local",
    subject_token_file: Annotated[
        Path | None,
        typer.Option(
            callback=there_or_dash,
            help="A person's token of their identity provider; - reads standard input.",
        ),
    ] = None,
    subject_token_type: Annotated[
        PersonTokenType, typer.Option(help="What is in --subject-token-file.")
    ] = PersonTokenType.ID_TOKEN,
) -> None:
    """Print a token for an agent, bound to the key in --key-file.

    The agent acts alone, or for the person whose token is in --subject-token-file.

    What this process is, is said by the kernel: nothing is configured here. The token is useless
    without the key.
    """
    context = context_of(command)
    key = load_or_create_key(key_file, clock)
    attestation = _attest(attestation_socket, provider, key.thumbprint)
    url = f"{context.settings.issuer}/oauth/token"
    form = {
        "grant_type": GRANT_CLIENT_CREDENTIALS,
        "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
        "client_assertion": attestation,
        "resource": resource,
        "scope": "mcp:tools",
    }
    if subject_token_file is not None:
        form |= {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": read_subject_token(subject_token_file),
            "subject_token_type": TOKEN_TYPES[subject_token_type],
        }
    tls = tls_context(context.settings.ca_file, url)
    with httpx2.Client(
        timeout=context.settings.timeout_seconds, verify=tls, trust_env=False
    ) as http:
        body = request_token(http, url, form, key)
    if context.output == "table":
        context.console.print(body["access_token"], soft_wrap=True, highlight=False, markup=False)
    else:
        context.show(body)


def _attest(path: Path, provider: str, thumbprint: str) -> str:
    """The kernel's word on this process, as an attestation JWT."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ATTESTATION_SECONDS)
            connection.connect(str(path))
            request = {"provider": provider, "jkt": thumbprint}
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline(MAXIMUM_ANSWER_BYTES))
    except (OSError, ValueError) as error:
        raise AdminError("attestation_unreachable", f"{path}: {words_of(error)}") from error
    if "attestation" not in answer:
        raise AdminError(
            str(answer.get("error", "refused")), str(answer.get("error_description", ""))
        )
    return str(answer["attestation"])
