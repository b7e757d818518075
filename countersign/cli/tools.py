"""`tools list|approve`: what agents may be shown of a server."""

import time
from typing import Annotated

import typer

from countersign.admin_client import AdminClient, AdminError
from countersign.cli.context import context_of

app = typer.Typer(no_args_is_help=True)
POLL_SECONDS = 0.1

Server = Annotated[str, typer.Argument(help="The McpServer.")]


@app.command("list")
def list_tools(command: typer.Context, server: Server) -> None:
    """Tools observed at a server, and which definition of each is approved."""
    context = context_of(command)
    with context.admin() as admin:
        rows = admin.call("GET", f"/catalogue/{server}")["tools"]
    context.show(
        rows,
        {
            "TOOL": lambda row: row["name"],
            "STATE": lambda row: row["state"],
            "OBSERVED": lambda row: row["observed_digest"] or "",
            "APPROVED": lambda row: row["approved_digest"] or "",
        },
    )


@app.command()
def approve(
    command: typer.Context,
    server: Server,
    tools: Annotated[list[str] | None, typer.Argument(help="Which tools.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every observed tool.")] = False,
    wait: Annotated[
        float, typer.Option(help="Wait this many seconds until a gateway has observed some.")
    ] = 0,
) -> None:
    """Approve observed definitions. Until then a tool is neither listed nor callable."""
    context = context_of(command)
    if bool(tools) == everything:
        raise typer.BadParameter("name tools, or give --all")
    with context.admin() as admin:
        names = tools or _observed(admin, server, wait)
        if not names:
            raise AdminError("not_observed", f"no gateway has reported a tool of {server} yet")
        answer = admin.call("POST", f"/catalogue/{server}/approve", json={"tools": names})
    context.say(f"Approved: {', '.join(answer['approved'])}.")


def _observed(admin: AdminClient, server: str, wait: float) -> list[str]:
    deadline = time.monotonic() + wait
    while True:
        rows = admin.call("GET", f"/catalogue/{server}")["tools"]
        names = [row["name"] for row in rows if row["observed_digest"]]
        if names or time.monotonic() >= deadline:
            return names
        time.sleep(POLL_SECONDS)
