"""`audit search`: who did what, for whom, and why it was allowed or not."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from countersign.cli.context import clock, context_of, visible
from countersign.cli.moments import moment_of

app = typer.Typer(no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Who did what, for whom, and why."""


@app.command()
def search(
    command: typer.Context,
    *,
    agent: Annotated[str | None, typer.Option(help="By agent.")] = None,
    user: Annotated[str | None, typer.Option(help="By the person's id.")] = None,
    tool: Annotated[str | None, typer.Option(help="By tool: its name, or server/name.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="By event type.")] = None,
    outcome: Annotated[str | None, typer.Option(help="By outcome.")] = None,
    decision: Annotated[str | None, typer.Option(help="By decision id.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: 15m, 2h, 7d, or a time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 50,
) -> None:
    """Search the audit, newest first. Says whether the answer is complete."""
    context = context_of(command)
    server, slash, name = (tool or "").rpartition("/")
    query = {
        "agent": agent,
        "user": user,
        "tool": name or None,
        "target": server if slash else None,
        "type": kind,
        "outcome": outcome,
        "decision": decision,
        "since": None if since is None else moment_of(since, clock()),
        "limit": str(limit),
    }
    given = {name: value for name, value in query.items() if value is not None}
    with context.admin() as admin:
        found = admin.call("GET", "/audit", query=given)
    if context.output == "json":
        context.show(found)
        return
    # A page is what arrived last; several sources arrive in no order of time.
    rows = sorted(found["events"], key=lambda row: row["timestamp"], reverse=True)
    context.show(
        rows,
        {
            "TIME": lambda row: row["timestamp"],
            "TYPE": lambda row: row["type"],
            "OUTCOME": lambda row: row["outcome"],
            "AGENT": lambda row: row.get("agent", ""),
            "USER": person_of,
            "WHAT": _what,
            "WHY": _why,
        },
    )
    if found.get("next_before") is not None:
        context.say(f"these are the newest {len(rows)}; there are older ones (--limit, --since)")
    if found["complete"]:
        context.say("complete: every source has delivered every event up to its last")
    else:
        context.errors.print("[bold yellow]incomplete[/]", highlight=False)
        for gap in found["gaps"]:
            span = f"events {gap['first']} to {gap['last']} of {gap['source']} are missing"
            context.errors.print(visible(f"  {span}"), highlight=False, markup=False)
        if found.get("counted_since"):
            line = (
                f"  too large to count whole: what happened until {found['counted_since']} was not"
            )
            context.errors.print(visible(line), highlight=False, markup=False)
        for source in found["silent"]:
            line = visible(f"  {source} was not heard of")
            context.errors.print(line, highlight=False, markup=False)


@app.command("close-source")
def close_source(
    command: typer.Context, source: Annotated[str, typer.Argument(help="As `search` names it.")]
) -> None:
    """Wait for a source no more: its process is gone, or it lied. Audited."""
    context = context_of(command)
    with context.admin() as admin:
        closed = admin.call("DELETE", f"/audit/sources/{quote(source, safe='')}")
    context.say(f"{closed['source']} is closed: searches from now on do not wait for it")


def person_of(row: dict[str, Any]) -> str:
    """The person's name where it was recorded, and the id that `--user` and `kill` take."""
    name, person = row.get("user_name", ""), row.get("user", "")
    return f"{name} ({person})" if name and person else name or person


def _what(row: dict[str, Any]) -> str:
    service, tool = row.get("target_service", ""), row.get("tool", "")
    what = f"{service}/{tool}" if tool else service or str(row.get("object_ref", ""))
    return (
        what or " ".join(row.get(name, "") for name in ("request_method", "request_path")).strip()
    )


def _why(row: dict[str, Any]) -> str:
    parts = [*row.get("policy_matched", ()), *row.get("reasons", ()), row.get("detail", "")]
    return "; ".join(part for part in parts if part) or row.get("error_code", "")
