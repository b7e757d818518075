"""`tools list|approve`: what agents may be shown of a server.

What a server says of its tools is text of a stranger, meant to be read by models: it is shown
escaped, and approved only in the definition that was shown.
"""

import time
from typing import Annotated, Any

import typer
from rich.text import Text

from countersign.admin_client import AdminClient, AdminError
from countersign.cli.context import CommandContext, Output, context_of, visible
from countersign.cli.describe import report_line
from countersign.tool_changes import definition_lines, description_of, difference

app = typer.Typer(no_args_is_help=True)
POLL_SECONDS = 0.1
SHORT_DIGEST = 12  # of a SHA-256 in base64url: for the eye; an approval sends it whole

Server = Annotated[str, typer.Argument(help="The McpServer.")]
Row = dict[str, Any]


@app.command("list")
def list_tools(
    command: typer.Context,
    server: Server,
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the definitions, with their schemas.")
    ] = False,
) -> None:
    """Tools observed at a server, and what is approved of each."""
    context = context_of(command)
    with context.admin() as admin:
        found = admin.call("GET", f"/catalogue/{server}")
    rows = found["tools"]
    for report in found["reports"]:
        if report["error"]:
            line = f"{server} as seen by {report_line(report)}"
            context.errors.print(Text(visible(line), "yellow"), soft_wrap=True)
    if verbose and context.output is Output.TABLE:
        for row in rows:
            _show_tool(context, row)
        return
    context.show(
        rows,
        {
            "TOOL": lambda row: row["name"],
            "STATE": lambda row: row["state"],
            "DECLARED": _declared,
            "DIGEST": lambda row: _short(row["observed_digest"]),
            "DESCRIPTION": lambda row: description_of(row["definition"]),
        },
    )


@app.command()
def approve(
    command: typer.Context,
    server: Server,
    tools: Annotated[list[str] | None, typer.Argument(help="Which tools.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every observed tool.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[
        float, typer.Option(help="Wait this many seconds until a gateway has observed some.")
    ] = 0,
) -> None:
    """Approve definitions: shows them, asks, and approves what was shown and nothing else.

    Until then a tool is neither listed nor callable.
    """
    context = context_of(command)
    if bool(tools) == everything:
        raise typer.BadParameter("name tools, or give --all")
    with context.admin() as admin:
        offered = _offered(admin, server, wait)
        chosen = _chosen(server, offered, tools)
        pending = [row for row in chosen if row["state"] != "approved"]
        if not pending:
            context.say("Nothing to approve.")
            return
        # Also with --quiet: nobody can say yes to what was not shown.
        if not (yes and context.quiet):
            for row in pending:
                _show_tool(context, row)
        if not yes and not typer.confirm(f"Approve {len(pending)} of {server}?"):
            raise typer.Exit(1)
        digests = {row["name"]: row["observed_digest"] for row in pending}
        answer = admin.call("POST", f"/catalogue/{server}/approve", json={"tools": digests})
    context.say(f"Approved: {', '.join(answer['approved'])}.")


def _chosen(server: str, offered: list[Row], names: list[str] | None) -> list[Row]:
    if not offered:
        description = f"no gateway has reported a tool of {server} yet; see `tools list {server}`"
        raise AdminError("not_observed", description)
    if names is None:
        return offered
    missing = [name for name in names if name not in {row["name"] for row in offered}]
    if missing:
        raise AdminError("not_found", f"{server} offers no tool {missing[0]!r}")
    return [row for row in offered if row["name"] in names]


def _offered(admin: AdminClient, server: str, wait: float) -> list[Row]:
    deadline = time.monotonic() + wait
    while True:
        rows = [row for row in _tools(admin, server) if row["observed_digest"]]
        if rows or time.monotonic() >= deadline:
            return rows
        time.sleep(POLL_SECONDS)


def _tools(admin: AdminClient, server: str) -> list[Row]:
    rows: list[Row] = admin.call("GET", f"/catalogue/{server}")["tools"]
    return rows


def _show_tool(context: CommandContext, row: Row) -> None:
    """One tool: what it says of itself, or for a changed one what changed."""
    heading = (row["name"], row["state"], _declared(row), _short(row["observed_digest"]))
    if row["state"] == "changed":
        lines = difference(row["approved_definition"], row["definition"])
    else:
        lines = definition_lines(row["definition"])
    out = context.console if context.output is Output.TABLE else context.errors
    for line in ("  ".join(heading), *(f"    {line}" for line in lines)):
        out.print(Text(visible(line)), soft_wrap=True)


def _declared(row: Row) -> str:
    """The operator's word: a tool writes unless it was declared to only read."""
    return "read" if row["read_only"] else "write"


def _short(digest: str | None) -> str:
    return "" if digest is None else digest.removeprefix("sha-256:")[:SHORT_DIGEST]
