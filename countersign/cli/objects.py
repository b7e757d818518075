"""`apply`, `get`, `delete`: the objects an operator declares."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from countersign.admin_client import AdminError, Problem
from countersign.cli.context import CommandContext, Output, context_of, require_yes, visible
from countersign.cli.given_files import there_or_dash
from countersign.cli.kinds import kind_named
from countersign.cli.moments import shown_moment
from countersign.cli.people import Logins, logins_of
from countersign.manifests import STANDARD_INPUT, Manifest, read_manifests
from countersign.object_changes import change_lines
from countersign.yaml_text import documents_of


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(apply)
    app.command()(get)
    app.command()(delete)


def apply(
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the difference and change nothing.")] = False,
    wait: Annotated[
        float, typer.Option(help="Wait this many seconds until the policy set is active.")
    ] = 0,
) -> None:
    """Declare objects: shows what would change, asks, and writes it as one version."""
    context = context_of(command)
    if file == STANDARD_INPUT and not (yes or dry_run):
        raise typer.BadParameter("the objects come from the pipe, so no answer can: give --yes")
    manifests, problems = manifests_of(context, file)
    if problems:
        raise typer.Exit(1)
    body = {"objects": [manifest.declared.model_dump() for manifest in manifests]}
    with context.admin() as admin:
        try:
            plan = admin.call("POST", "/objects", json=body, query={"dry_run": "true"})
            show_changes(context, plan["changes"])
            show_warnings(context, plan["warnings"], manifests)
            if dry_run:
                context.say("Nothing written.")
                return
            if not plan["changes"]:
                context.say("Nothing changed.")
                _await_policies(context, admin.call, plan, wait)
                return
            require_yes("Apply these changes?", yes=yes)
            applied = admin.call("POST", "/objects", json=body)
        except AdminError as error:
            raise with_lines(error, manifests) from error
        context.say(f"Applied as version {applied['version']}.")
        _await_policies(context, admin.call, applied, wait)


def _await_policies(
    context: CommandContext, call: Callable[..., Any], applied: dict[str, Any], wait: float
) -> None:
    waiting = applied.get("waiting_for", [])
    if waiting and wait > 0:
        with context.errors.status(f"waiting for {', '.join(waiting)} to be approved"):
            status = call("GET", "/policies/status", query={"wait": str(wait)}, wait_seconds=wait)
        waiting = status.get("waiting_for", [])
    if waiting:
        names = ", ".join(waiting)
        context.errors.print(
            f"The policy set is stored but not active: it names tools that are not approved yet:"
            f" {names}. The set before it stays live.",
            highlight=False,
        )
        if wait > 0:
            raise typer.Exit(1)
    elif any(change["kind"] == "Policy" for change in applied["changes"]):
        context.say("The policy set is active.")


def manifests_of(context: CommandContext, file: Path) -> tuple[list[Manifest], int]:
    """The objects of a file or directory, and how many mistakes were printed."""
    manifests, problems = read_manifests(file)
    for problem in problems:
        context.errors.print(str(problem), highlight=False, markup=False, soft_wrap=True)
    return manifests, len(problems)


def show_warnings(
    context: CommandContext, warnings: list[dict[str, str]], manifests: list[Manifest]
) -> None:
    """What is accepted and matches nothing, each on a line with its place."""
    found = tuple(Problem(**each) for each in warnings)
    for problem in with_lines(AdminError("", "", problems=found), manifests).problems:
        text = f"warning: {problem.kind}/{problem.name} {problem.field}: {problem.message}"
        context.errors.print(Text(visible(text), "yellow"), soft_wrap=True)


def with_lines(error: AdminError, manifests: list[Manifest]) -> AdminError:
    """The same error, its problems naming file and line."""
    by_name: dict[tuple[str, str], Manifest] = {
        (found.declared.kind, found.declared.name): found for found in manifests
    }
    placed = []
    for problem in error.problems:
        manifest = by_name.get((problem.kind, problem.name))
        message = problem.message
        if manifest is not None:
            message = f"{message} ({manifest.file}:{manifest.line_of(problem.field)})"
        placed.append(Problem(problem.kind, problem.name, problem.field, message))
    return AdminError(error.code, error.description, error.status, tuple(placed))


def show_changes(context: CommandContext, changes: list[dict[str, Any]]) -> None:
    """Each change on a line, with the fields of an update."""
    for change in changes:
        for line in change_lines(change):
            context.say(visible(line))


def get(
    command: typer.Context,
    kind: Annotated[str | None, typer.Argument(help="A kind, such as Agent.")] = None,
    name: Annotated[str | None, typer.Argument(help="One object of it.")] = None,
) -> None:
    """Show declared objects: all, of one kind, or one whole.

    As YAML (`-o yaml`) they are what `apply -f -` takes.
    """
    context = context_of(command)
    kind = None if kind is None else kind_named(kind)
    with context.admin() as admin:
        if kind is not None and name is not None:
            found = admin.call("GET", f"/objects/{kind}/{name}")
            if context.output is Output.JSON:
                context.show(found)
            else:
                context.write(documents_of([found]))
            return
        path = "/objects" if kind is None else f"/objects/{kind}"
        rows = admin.call("GET", path)["objects"]
        if context.output is Output.YAML:
            context.write(documents_of(rows))
        elif context.output is Output.JSON:
            context.show(rows)
        else:
            _show_objects(context, rows, logins_of(admin, (row["author"] for row in rows)))


def _show_objects(context: CommandContext, rows: list[dict[str, Any]], logins: Logins) -> None:
    author_of = logins.whole if context.is_whole else logins.brief
    context.show(
        rows,
        {
            "KIND": lambda row: row["kind"],
            "NAME": lambda row: row["name"],
            "VERSION": lambda row: str(row["version"]),
            "CHANGED": lambda row: shown_moment(row["changed_at"]),
            "AUTHOR": lambda row: author_of(row["author"]),
        },
        empty="Nothing is declared.",
    )


def delete(
    command: typer.Context,
    kind: Annotated[str, typer.Argument(help="The kind.")],
    name: Annotated[str, typer.Argument(help="The object.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete one object. Its history stays."""
    context = context_of(command)
    kind = kind_named(kind)
    require_yes(f"Delete {kind}/{name}?", yes=yes)
    with context.admin() as admin:
        admin.call("DELETE", f"/objects/{kind}/{name}")
    context.say(f"Deleted {kind}/{name}.")
