"""`account`: people of the built-in identity provider."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from countersign.cli.context import CommandContext, context_of, read_secret

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The user name.")]
Provider = Annotated[str, typer.Option(help="The IdentityProvider object.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Read the password from this file."),
]


@app.command()
def add(
    command: typer.Context,
    name: Name,
    *,
    group: Annotated[
        list[str] | None, typer.Option(help="A group, without the provider's prefix; repeatable.")
    ] = None,
    provider: Provider = "local",
    password_file: PasswordFile = None,
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
            "PROVIDER": lambda row: row["identity_provider"],
            "GROUPS": lambda row: ", ".join(row["groups"]),
            "DISABLED": lambda row: "yes" if row["disabled"] else "",
        },
    )


@app.command("set-password")
def set_password(
    command: typer.Context,
    name: Name,
    *,
    provider: Provider = "local",
    password_file: PasswordFile = None,
) -> None:
    """Give a person another password. Whoever is logged in with the old one no longer is.

    The password is typed, piped in, or read from a file; never an argument.
    """
    context = context_of(command)
    _change(context, provider, name, password=read_secret(f"Password for {name}", password_file))
    context.say(f"{name} has another password; their logins and what came of them are over.")


@app.command("set-groups")
def set_groups(
    command: typer.Context,
    name: Name,
    *,
    group: Annotated[
        list[str] | None, typer.Option(help="A group, without the provider's prefix; repeatable.")
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Take the person out of every group.")
    ] = False,
    provider: Provider = "local",
) -> None:
    """Put a person into exactly these groups. Tokens that say otherwise are refused from now on."""
    if none == bool(group):
        raise typer.BadParameter("give --group once for each group, or --none")
    context = context_of(command)
    changed = _change(context, provider, name, groups=group or [])
    context.say(f"{name} is in {', '.join(changed['groups']) or 'no group'}.")


@app.command()
def disable(command: typer.Context, name: Name, *, provider: Provider = "local") -> None:
    """Let a person in no more, and end what they and agents for them have. `enable` undoes it."""
    context = context_of(command)
    _change(context, provider, name, disabled=True)
    context.say(f"{name} is disabled; their logins and what came of them are over.")


@app.command()
def enable(command: typer.Context, name: Name, *, provider: Provider = "local") -> None:
    """Let a disabled person log in again; nothing of before comes back."""
    context = context_of(command)
    _change(context, provider, name, disabled=False)
    context.say(f"{name} may log in.")


def _change(context: CommandContext, provider: str, name: str, **change: Any) -> Any:  # noqa: ANN401 - JSON
    path = f"/accounts/{quote(provider, safe='')}/{quote(name, safe='')}"
    with context.admin() as admin:
        return admin.call("PATCH", path, json=change)
