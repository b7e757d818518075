"""`diff` and `export`: declared objects against files, both ways."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from countersign.admin_client import AdminError
from countersign.cli.context import CommandContext, Output, context_of, show_error
from countersign.cli.given_files import there_or_dash
from countersign.cli.objects import manifests_of, show_changes, show_warnings, with_lines
from countersign.manifests import CEDAR, STANDARD_INPUT, Manifest
from countersign.yaml_text import documents_of

TROUBLE: Final = 2  # as diff(1): 0 the same, 1 different, 2 trouble


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(diff)
    app.command()(export)


def diff(
    command: typer.Context,
    *,
    file: Annotated[
        Path,
        typer.Option(
            "--file",
            "-f",
            callback=there_or_dash,
            help="A YAML or .cedar file, a directory of them, or - for a pipe.",
        ),
    ],
) -> None:
    """Show what `apply` would change, and change nothing.

    Exits 0 when nothing would, 1 when something would, 2 when the objects are wrong.
    """
    context = context_of(command)
    manifests, problems = manifests_of(context, file)
    if problems:
        raise typer.Exit(TROUBLE)
    try:
        plan = _plan(context, manifests)
    except AdminError as error:
        show_error(error, context.errors)
        raise typer.Exit(TROUBLE) from error
    if context.output is Output.TABLE:
        show_changes(context, plan["changes"])
        show_warnings(context, plan["warnings"], manifests)
        if not plan["changes"]:
            context.say("No difference.")
    else:
        context.show(plan["changes"])
    raise typer.Exit(1 if plan["changes"] else 0)


def _plan(context: CommandContext, manifests: list[Manifest]) -> Any:  # noqa: ANN401 - any JSON value
    body = {"objects": [manifest.declared.model_dump() for manifest in manifests]}
    with context.admin() as admin:
        try:
            return admin.call("POST", "/objects", json=body, query={"dry_run": "true"})
        except AdminError as error:
            raise with_lines(error, manifests) from error


def export(
    command: typer.Context,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A directory to write to, or - to print.")
    ] = STANDARD_INPUT,
) -> None:
    """Write every declared object as YAML that `apply` takes. Never a secret: only its name.

    Into a directory it is one file per object; files of objects that are gone are pointed out.
    """
    if str(output) in set(Output):
        raise typer.BadParameter(f"an export is YAML; --output is its directory, not {output}")
    context = context_of(command)
    with context.admin() as admin:
        rows = admin.call("GET", "/objects")["objects"]
    if output == STANDARD_INPUT:
        context.write(documents_of(rows))
        return
    output.mkdir(parents=True, exist_ok=True)
    written = {f"{row['kind']}.{row['name']}.yaml": row for row in rows}
    for name, row in written.items():
        (output / name).write_text(documents_of([row]), encoding="utf-8")
    context.say(f"Wrote {len(written)} objects to {output}.")
    others = sorted(
        path.name
        for path in output.iterdir()
        if path.suffix in {".yaml", ".yml", CEDAR} and path.name not in written
    )
    if others:
        text = f"Also there, and applied with them: {', '.join(others)}"
        context.errors.print(text, highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)
