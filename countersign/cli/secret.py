"""`secret set|list`: the vault. Values are sealed on this machine to the authority's public key."""

from pathlib import Path
from typing import Annotated

import typer

from countersign.admin_client import AdminError
from countersign.cli.context import context_of, read_secret
from credential_providers.vault.seal import seal_secret

app = typer.Typer(no_args_is_help=True)


@app.command("set")
def set_secret(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="The secret's name, as objects refer to it.")],
    *,
    value_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Read the value from this file."),
    ] = None,
) -> None:
    """Seal a secret here and store the ciphertext. The value is typed, piped or read from a file.

    The admin API never sees it: only the authority can unseal, and only under this name.
    """
    context = context_of(command)
    value = read_secret(f"Value of {name}", value_file)
    with context.admin() as admin:
        key = admin.call("GET", "/vault-key")
        try:
            sealed = seal_secret(name, value, key["jwk"])
        except ValueError as error:
            raise AdminError("invalid_secret", str(error)) from error
        stored = admin.call("PUT", f"/secrets/{name}", json={"sealed": sealed})
    context.say(f"Sealed {name}, version {stored['version']}.")


@app.command("list")
def list_secrets(command: typer.Context) -> None:
    """Names and versions. Never a value."""
    context = context_of(command)
    with context.admin() as admin:
        rows = admin.call("GET", "/secrets")["secrets"]
    context.show(
        rows, {"NAME": lambda row: row["name"], "VERSION": lambda row: str(row["version"])}
    )
