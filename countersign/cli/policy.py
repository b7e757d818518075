"""`policy status`: which policy set decides, and what a newer one waits for."""

import typer

from countersign.cli.context import Output, context_of, visible

app = typer.Typer(no_args_is_help=True)


@app.callback()
def policy() -> None:
    """The policy set that decides."""


@app.command()
def status(command: typer.Context) -> None:
    """Which set is live, and which tools a newer one waits for."""
    context = context_of(command)
    with context.admin() as admin:
        found = admin.call("GET", "/policies/status")
    if context.output is not Output.TABLE:
        context.show(found)
        return
    version = found["policy_version"]
    context.say(f"Policy set {version} decides." if version else "No policy set: all is denied.")
    if found["waiting_for"]:
        names = visible(", ".join(found["waiting_for"]))
        context.say(f"A newer set waits for these tools to be approved: {names}.")
