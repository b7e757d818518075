"""`explain`: why a call would be, or was, allowed or not, and the least that is missing."""

import json
from typing import Annotated, Any

import typer
from rich.text import Text

from countersign.cli.context import CommandContext, Output, clock, context_of, visible
from countersign.cli.moments import moment_of, shown_moment
from countersign.cli.people import logins_of

Answer = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add this command to the top level."""
    app.command()(explain)


def explain(
    command: typer.Context,
    decision: Annotated[
        str | None, typer.Argument(help="A decision id of the audit: why it came out so.")
    ] = None,
    *,
    agent: Annotated[str | None, typer.Option(help="The Agent that would call.")] = None,
    user: Annotated[
        str | None, typer.Option(help="For whom: user name or id. Without: alone.")
    ] = None,
    tool: Annotated[str | None, typer.Option(help="The tool, as server/tool.")] = None,
    args: Annotated[str, typer.Option(help="Its arguments, a JSON object.")] = "{}",
    at: Annotated[str | None, typer.Option(help="At another time, such as 2026-01-31T09:00.")] = (
        None
    ),
    group: Annotated[
        list[str] | None, typer.Option(help="As if the person's groups were these; repeatable.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=3, help="As if attested at this level.")
    ] = None,
) -> None:
    """Say whether a call would be allowed, by which policy, and what is missing; nothing is called.

    With a decision id: what was recorded. Exits 0 when allowed, 1 when not.
    """
    context = context_of(command)
    if decision is not None:
        if agent or user or tool:
            raise typer.BadParameter("give a decision id, or --agent and --tool")
        _recorded(context, decision)
        return
    if agent is None or tool is None:
        raise typer.BadParameter("give --agent and --tool, or a decision id")
    if not all(tool.partition("/")):
        raise typer.BadParameter(f"--tool is server/tool, such as crm/refund, not {tool!r}")
    body = {
        "agent": agent,
        "user": user,
        "tool": tool,
        "arguments": _arguments(args),
        "at": None if at is None else moment_of(at, clock()),
        "groups": group,
        "level": level,
    }
    given = {name: value for name, value in body.items() if value is not None}
    with context.admin() as admin:
        answer = admin.call("POST", "/explain", json=given)
    if context.output is Output.TABLE:
        _show(context, answer, args)
    else:
        context.show(answer)
    raise typer.Exit(0 if answer["allowed"] else 1)


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--args is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter('--args must be a JSON object, such as {"amount": 900}')
    return value


def _show(context: CommandContext, answer: Answer, args: str) -> None:
    whom = f" for {answer['user']}" if answer["user"] else " alone"
    _line(
        context,
        f"{answer['agent']}{whom}, {answer['tool']} {args}, at {shown_moment(answer['at'])}",
    )
    for each in answer["checks"]:
        mark = ("ok", "green") if each["passed"] else ("no", "bold red")
        _line(context, f"{each['check']:<11} {each['found']}", mark)
    for title, policies in (("", answer["policies"]), ("nearest: ", answer["nearest"])):
        for each in policies:
            why = each["scope"] or "; ".join(each["conditions"]) or "always"
            place = f"{each['document']}:{each['line']}"
            _line(context, f"    {title}{each['effect']} {each['id']} ({place}) {why}")
    for each in answer["assumed"]:
        _line(context, f"assumed: {each}")
    if answer["allowed"]:
        _line(context, "ALLOWED", ("", "bold green"))
        return
    _line(context, "DENIED", ("", "bold red"))
    if answer["changes"]:
        _line(context, f"It would be allowed if: {'; and '.join(answer['changes'])}")
    else:
        _line(context, "No small change would allow it.")


def _recorded(context: CommandContext, decision: str) -> None:
    with context.admin() as admin:
        found = admin.call("GET", f"/audit/decisions/{decision}")
        logins = logins_of(admin, [found["user"]] if context.output is Output.TABLE else ())
    if context.output is not Output.TABLE:
        context.show(found)
    else:
        said = {True: "ALLOWED", False: "DENIED", None: "no decision"}[found["allowed"]]
        whom = f" for {logins.whole(found['user'])}" if found["user"] else ""
        _line(context, f"{found['agent']}{whom}, {found['tool']}: {said}, {found['outcome']}")
        for title in ("policies", "reasons", "failed_conditions"):
            for each in found[title]:
                _line(context, f"  {title.replace('_', ' ')}: {each}")
        for each in found["events"]:
            _line(
                context, f"  {shown_moment(each['timestamp'])}  {each['type']}  {each['outcome']}"
            )
    raise typer.Exit(0 if found["allowed"] else 1)


def _line(context: CommandContext, text: str, mark: tuple[str, str] | None = None) -> None:
    if mark is None:
        shown = Text(visible(text))
    else:
        word, style = mark
        shown = Text.assemble((f"{word:<3} ", style), visible(text))
        if not word:
            shown = Text(visible(text), style)
    context.console.print(shown, soft_wrap=True)
