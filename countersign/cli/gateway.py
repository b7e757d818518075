"""`gateway join|list|keys|remove-key`: who becomes part of a Gateway, serves, and no longer may."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from countersign.admin_client import AdminError
from countersign.cli.context import context_of
from countersign.login_file import write_private
from registry.problem_words import suggestion

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


@app.command()
def keys(
    command: typer.Context, name: Annotated[str, typer.Argument(help="The Gateway object.")]
) -> None:
    """The keys that enrolled into a Gateway: one for each state directory."""
    context = context_of(command)
    with context.admin() as admin:
        found = {each["name"]: each for each in admin.call("GET", "/gateways")["gateways"]}
    if name not in found:
        description = f"no Gateway {name!r} is declared{suggestion(name, found)}"
        raise AdminError("not_declared", description)
    context.show(
        found[name]["keys"],
        {
            "KEY": lambda row: row["thumbprint"],
            "ENROLLED": lambda row: row["enrolled_at"],
        },
    )


@app.command("remove-key")
def remove_key(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="The Gateway object.")],
    *,
    # An option: a thumbprint may begin with a dash.
    key: Annotated[str, typer.Option(help="Its thumbprint, as `gateway keys` shows it.")],
) -> None:
    """Take one key back, such as that of a stolen machine. The others go on serving.

    Its holder gets no control channel and no credential from now on; an honest one serves nobody
    any more when its lease ends.
    """
    context = context_of(command)
    path = f"/gateways/{quote(name, safe='')}/keys/{quote(key, safe='')}"
    with context.admin() as admin:
        admin.call("DELETE", path)
    context.say(f"{key} is no key of {name} any more.")
