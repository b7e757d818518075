"""`--output` after the command as well as before it: both places are where people type it.

Help texts are folded at the terminal's width here too, not where the source folds them.
"""

import inspect
from typing import Annotated, Any

import typer

from countersign.cli.context import CommandContext, Output


def with_output_everywhere(app: typer.Typer, *, without: tuple[str, ...]) -> Any:  # noqa: ANN401 - typer's own command class
    """The command of `app`, with the option on each of its commands but those named."""
    command = typer.main.get_command(app)
    _add(command, without)
    _reflow(command)
    return command


def _reflow(command: Any) -> None:  # noqa: ANN401 - typer's own command class
    """Each paragraph of the help in one line, for the terminal to fold; examples stay."""
    if command.help:
        paragraphs = inspect.cleandoc(command.help).split("\n\n")
        command.help = "\n\n".join(
            each if each.startswith(" ") else each.replace("\n", " ") for each in paragraphs
        )
    for each in getattr(command, "commands", {}).values():
        _reflow(each)


def _add(group: Any, without: tuple[str, ...]) -> None:  # noqa: ANN401 - as above
    for name, command in group.commands.items():
        if name in without:
            continue
        if hasattr(command, "commands"):
            _add(command, without)
        elif all(parameter.name != "output" for parameter in command.params):
            command.params.append(_option())


def _option() -> Any:  # noqa: ANN401 - as above
    donor = typer.Typer(add_completion=False)
    donor.command()(_options)
    (found,) = (each for each in typer.main.get_command(donor).params if each.name == "output")
    return found


def _set_output(command: typer.Context, given: Output | None) -> Output | None:
    root = command.find_root()
    if given is not None and isinstance(root.obj, CommandContext):
        root.obj = root.obj.printing(given)
    return given


def _options(
    output: Annotated[
        Output | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help="How to print: table, wide (nothing shortened), json or yaml.",
            callback=_set_output,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """Carries the option's declaration only."""
    del output
