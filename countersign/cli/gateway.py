"""`gateway join|list`: enrol a process into a Gateway, and see who serves."""

from pathlib import Path
from typing import Annotated

import typer

from countersign.cli.context import context_of
from countersign.login_file import write_private

app = typer.Typer(no_args_is_help=True)


@app.command()
def join(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="The Gateway object.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Write the code to this file, 0600.")] = None,
) -> None:
    """Print a single-use join code (10 minutes) for `countersign mcp-gateway`.

    The code carries the thumbprint of the control key, so the process that uses it trusts this
    server and no other.
    """
    context = context_of(command)
    with context.admin() as admin:
        answer = admin.call("POST", f"/gateways/{name}/join")
    if out is not None:
        write_private(out, answer["join_code"] + "\n")
        context.say(f"Wrote the join code to {out}; it is good once, for 10 minutes.")
    elif context.output == "table":
        context.console.print(answer["join_code"], highlight=False, soft_wrap=True)
    else:
        context.show(answer)


@app.command("list")
def list_gateways(command: typer.Context) -> None:
    """Gateways, their workers, and how fresh each is."""
    context = context_of(command)
    with context.admin() as admin:
        rows = admin.call("GET", "/gateways")["gateways"]
    context.show(
        rows,
        {
            "GATEWAY": lambda row: row["name"],
            "BASE URL": lambda row: row["base_url"],
            "SERVERS": lambda row: ", ".join(row["servers"]),
            "WORKERS": lambda row: str(len(row["workers"])),
        },
    )
