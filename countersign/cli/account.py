"""`account add|list`: people of the built-in identity provider."""

from pathlib import Path
from typing import Annotated

import typer

from countersign.cli.context import context_of, read_secret

app = typer.Typer(no_args_is_help=True)


@app.command()
def add(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="The user name.")],
    *,
    group: Annotated[
        list[str] | None, typer.Option(help="A group, without the provider's prefix; repeatable.")
    ] = None,
    provider: Annotated[str, typer.Option(help="The IdentityProvider object.")] = "local",
    password_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Read the password from this file."),
    ] = None,
) -> None:
    """Add a person. The password is typed, piped in, or read from a file; never an argument."""
    context = context_of(command)
    password = read_secret(f"Password for {name}", password_file)
    body = {
        "identity_provider": provider,
        "username": name,
        "password": password,
        "groups": group or [],
    }
    with context.admin() as admin:
        admin.call("POST", "/accounts", json=body)
    context.say(f"Added {name} to {provider}.")


@app.command("list")
def list_accounts(command: typer.Context) -> None:
    """People of the built-in identity provider."""
    context = context_of(command)
    with context.admin() as admin:
        rows = admin.call("GET", "/accounts")["accounts"]
    context.show(
        rows,
        {
            "NAME": lambda row: row["username"],
            "GROUPS": lambda row: ", ".join(row["groups"]),
            "DISABLED": lambda row: "yes" if row["disabled"] else "",
        },
    )
