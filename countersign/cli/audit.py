"""`audit search`: who did what, for whom, and why it was allowed or not."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from audit_log.event import EventType, Outcome
from countersign.admin_client import AdminClient, AdminError
from countersign.cli.context import CommandContext, Output, clock, context_of, visible
from countersign.cli.moments import moment_of, shown_moment
from countersign.cli.people import USER_PREFIX, Logins, logins_of, nobody, person_named
from registry.problem_words import suggestion

app = typer.Typer(no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Who did what, for whom, and why."""


@app.command()
def search(
    command: typer.Context,
    *,
    agent: Annotated[str | None, typer.Option(help="By agent.")] = None,
    user: Annotated[
        str | None, typer.Option(help="By person: login name, shown name or id.")
    ] = None,
    tool: Annotated[str | None, typer.Option(help="By tool: its name, or server/name.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="By event type.")] = None,
    outcome: Annotated[str | None, typer.Option(help="By outcome.")] = None,
    decision: Annotated[str | None, typer.Option(help="By decision id.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: 15m, 2h, 7d, or a time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 50,
    before: Annotated[
        int | None, typer.Option(min=1, help="Go on where a search before ended.")
    ] = None,
) -> None:
    """Search the audit, newest first. Says whether the answer is complete."""
    context = context_of(command)
    _require_one_of(EventType, kind, "--type")
    _require_one_of(Outcome, outcome, "--outcome")
    server, slash, name = (tool or "").rpartition("/")
    query = {
        "agent": agent,
        "tool": name or None,
        "target": server if slash else None,
        "type": kind,
        "outcome": outcome,
        "decision": decision,
        "since": None if since is None else moment_of(since, clock()),
        "limit": str(limit),
        "before": None if before is None else str(before),
    }
    with context.admin() as admin:
        query["user"] = None if user is None else person_named(admin, user, surely=False)
        given = {name: value for name, value in query.items() if value is not None}
        found = admin.call("GET", "/audit", query=given)
        if not found["events"] and found.get("next_before") is None:
            _require_known(admin, agent=agent, server=server, user=user)
        if context.output is Output.JSON:
            context.show(found)
            return
        logins = logins_of(admin, (row.get("user") for row in found["events"]))
    _show(context, found, logins, limit)


def _require_one_of(words: type[StrEnum], given: str | None, option: str) -> None:
    known = [word.value for word in words]
    if given is not None and given not in known:
        raise typer.BadParameter(f"{option} {given!r} does not exist{suggestion(given, known)}")


def _require_known(admin: AdminClient, *, agent: str | None, server: str, user: str | None) -> None:
    """An empty answer about what was never there would look complete.

    What was deleted is not declared any more, and has events.
    """
    for kind, name in (("Agent", agent), ("McpServer", server)):
        if name:
            names = [each["name"] for each in admin.call("GET", f"/objects/{kind}")["objects"]]
            if name not in names:
                near = suggestion(name, names)
                description = f"no {kind} {name!r} is declared, and no event matches{near}"
                raise AdminError("not_found", description)
    if user is not None and user.startswith(USER_PREFIX):
        known = admin.call("GET", "/persons", query={"name": user})
        if not known["persons"]:
            raise nobody(user, known)


# What `kill` and `explain` take, where there is room for it.
_IDS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "DECISION": lambda row: row.get("decision_id", ""),
    "RUN": lambda row: row.get("invocation", ""),
    "SESSION": lambda row: row.get("session", ""),
    "CONSENT": lambda row: row.get("consent", ""),
    "TOKEN": lambda row: row.get("token_id", "") or row.get("presented_token_id", ""),
}


def _show(context: CommandContext, found: dict[str, Any], logins: Logins, limit: int) -> None:
    """The events, newest first, and whether they are all there is."""
    # A page is what arrived last; several sources arrive in no order of time.
    rows = sorted(found["events"], key=lambda row: row["timestamp"], reverse=True)
    context.show(
        rows,
        {
            "TIME": lambda row: shown_moment(row["timestamp"]),
            "TYPE": lambda row: row["type"],
            "OUTCOME": lambda row: row["outcome"],
            "AGENT": lambda row: row.get("agent", ""),
            "USER": lambda row: _person(row, logins, is_whole=context.is_whole),
            "WHAT": _what,
            "WHY": _why,
            **(_IDS if context.is_whole else {}),
        },
        below=2,
        empty="No event matches.",
    )
    older = found["next_before"]
    if older is not None and len(rows) == limit:
        context.say(f"these are the newest {limit}; there are older ones (--before {older})")
    elif older is not None:
        context.say(f"looked at the newer part of the log; older ones may match (--before {older})")
    if found["complete"]:
        context.say("complete: every source has delivered every event up to its last")
    else:
        context.errors.print("[bold yellow]incomplete[/]", highlight=False)
        for line in _missing(found):
            context.errors.print(visible(f"  {line}"), highlight=False, markup=False)


def _missing(found: dict[str, Any]) -> Iterator[str]:
    """Why an answer is incomplete."""
    for gap in found["gaps"]:
        yield f"events {gap['first']} to {gap['last']} of {gap['source']} are missing"
    if found["counted_since"]:
        until = shown_moment(found["counted_since"])
        yield f"too large to count whole: what happened until {until} was not"
    for source in found["silent"]:
        yield f"{source} was not heard of"
    for source in found["unknown"]:
        yield f"there are events of {source}, and no record of it: somebody changed the tables"


@app.command("close-source")
def close_source(
    command: typer.Context, source: Annotated[str, typer.Argument(help="As `search` names it.")]
) -> None:
    """Wait for a source no more: its process is gone, or it lied. Audited."""
    context = context_of(command)
    with context.admin() as admin:
        closed = admin.call("DELETE", f"/audit/sources/{quote(source, safe='')}")
    context.say(f"{closed['source']} is closed: searches from now on do not wait for it")


def _person(row: dict[str, Any], logins: Logins, *, is_whole: bool) -> str:
    """Who it is called today, else what was recorded; with the id where there is room for it.

    Where nobody is, who did it at the admin API: `local:0` by the socket, for instance.
    """
    person: str = row.get("user", "")
    recorded: str = row.get("user_name", "")
    if not person:  # an account nobody logged in to; the event names it beside this
        return recorded or str(row.get("author", ""))
    called = logins if person in logins.by_id else Logins({person: recorded})
    return called.whole(person) if is_whole else called.brief(person)


def _what(row: dict[str, Any]) -> str:
    service, tool = row.get("target_service", ""), row.get("tool", "")
    what = f"{service}/{tool}" if tool else service or str(row.get("object_ref", ""))
    return (
        what or " ".join(row.get(name, "") for name in ("request_method", "request_path")).strip()
    )


def _why(row: dict[str, Any]) -> str:
    parts = [*row.get("policy_matched", ()), *row.get("reasons", ()), row.get("detail", "")]
    return "; ".join(part for part in parts if part) or row.get("error_code", "")
