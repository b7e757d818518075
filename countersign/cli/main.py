"""`countersign`: the command you type. Each noun is a file beside this one."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from countersign.admin_client import AdminError
from countersign.cli import (
    account,
    agent,
    audit,
    declared_files,
    describe,
    doctor,
    explain,
    gateway,
    kill,
    login,
    objects,
    policy,
    secret,
    serve,
    tools,
)
from countersign.cli.context import CommandContext, Output, show_error, visible
from countersign.cli.output_option import with_output_everywhere
from countersign.os_error_words import words_of
from countersign.settings import ClientSettings

DISTRIBUTION = "countersign-gateway"  # as pyproject.toml names it
PIPE_COLUMNS = 240
PROCESSES = ("serve", "authz-server", "mcp-gateway", "stdio-host")

app = typer.Typer(
    name="countersign",
    help="An identity gateway for AI agents.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for noun in (serve, login, objects, declared_files, describe, explain, kill, doctor):
    noun.register(app)
app.add_typer(account.app, name="account", help="Local accounts: people without an IdP.")
app.add_typer(secret.app, name="secret", help="Secrets in the vault, sealed on this machine.")
app.add_typer(gateway.app, name="gateway", help="Gateways: enrol a process into one.")
app.add_typer(tools.app, name="tools", help="The tool catalogue: what agents may be shown.")
app.add_typer(policy.app, name="policy", help="The policy set that decides.")
app.add_typer(audit.app, name="audit", help="Who did what, for whom, and why.")
app.add_typer(agent.app, name="agent", help="What an agent runs on its own machine.")


def _on_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"countersign {version(DISTRIBUTION)}")
        except PackageNotFoundError:
            typer.echo("countersign, from a source tree that is not installed")
        raise typer.Exit


@app.callback()
def prepare(
    command: typer.Context,
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_on_version),
    ] = False,
    issuer: Annotated[
        str | None, typer.Option(help="The authorization server. \\[env: COUNTERSIGN_ISSUER]")
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(help="The server's admin socket. \\[env: COUNTERSIGN_ADMIN_SOCKET]"),
    ] = None,
    config_dir: Annotated[
        Path | None, typer.Option(help="Your key and login. \\[env: COUNTERSIGN_CONFIG_DIR]")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            help="PEM of the authorities to believe over https, in place of the system's."
            " \\[env: COUNTERSIGN_CA_FILE]"
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")] = False,
) -> None:
    """Options of every command."""
    if command.invoked_subcommand in PROCESSES:
        return  # they have settings of their own, and tell all that is wrong with them at once
    given = {"issuer": issuer, "admin_socket": socket, "config_dir": config_dir, "ca_file": ca_file}
    settings = ClientSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type] # pydantic checks each
    prepared = CommandContext(
        settings=settings,
        output=Output.TABLE,
        quiet=quiet,
        console=_console(stderr=False),
        errors=_console(stderr=True),
    )
    command.obj = prepared.printing(output)


def _console(*, stderr: bool) -> Console:
    """A console; into a file or a pipe its lines are not folded at 80 columns."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PIPE_COLUMNS)


def main() -> None:
    """Run a command; refusals exit 1, a wrong command line exits 2, all without a stack trace."""
    errors = _console(stderr=True)
    try:
        with_output_everywhere(app, without=PROCESSES)()
    except AdminError as error:
        show_error(error, errors)
        sys.exit(1)
    except ValidationError as error:
        errors.print("[bold red]settings[/]: cannot start", highlight=False)
        for problem in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part) for part in problem["loc"]) or "settings"
            message = problem["msg"].removeprefix("Value error, ")
            errors.print(f"  {name}: {message}", highlight=False, markup=False)
        sys.exit(2)
    except OSError as error:
        errors.print(Text.assemble(("error", "bold red"), ": ", visible(words_of(error))))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
