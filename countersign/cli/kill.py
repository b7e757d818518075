"""`kill` and `restore`: one action cuts something off at every gateway."""

import time
from typing import Annotated, Any

import typer

from countersign.admin_client import AdminClient, AdminError
from countersign.cli.context import CommandContext, Output, context_of, visible
from countersign.cli.moments import shown_moment
from countersign.cli.people import logins_of, person_named
from registry.problem_words import suggestion

# What an id of ours begins with: a name in its place would cut off nothing.
PREFIXES = {"session": "ses_", "consent": "grt_", "run": "inv_", "token": "tok_"}
KINDS = {
    "agent": "agent",
    "agent-class": "agent_group",
    "user": "sub",
    "session": "sid",
    "consent": "gid",
    "client": "client_id",
    "run": "inv",
    "token": "jti",
}
CONFIRMATION_SECONDS = 5.0
ID_CHARACTERS = 26  # token_exchange.identifiers


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(kill)
    app.command()(restore)
    app.command()(blocks)


Target = Annotated[
    str,
    typer.Argument(help=f"What: {', '.join(KINDS)}, a slash and its name or id; of a user either."),
]


def kill(
    command: typer.Context,
    target: Target,
    *,
    reason: Annotated[str, typer.Option(help="Why; it goes into the audit.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also a name that is not declared (any more).")
    ] = False,
) -> None:
    """Cut off everywhere, now: calls, open streams, tokens, new tokens.

    Prints which gateways confirmed and after how many milliseconds. What was already handed to a
    target may live until it expires; the longest such time is printed.

    Exits 0 when every gateway that is connected confirmed. 1: one did not in time, or nothing of
    that name is declared and --force was not given; the block stands all the same. An agent that
    is not declared is blocked with --force only.
    """
    context = context_of(command)
    kind, name = _parsed(target)
    with context.admin() as admin:
        if kind == "agent" and not force:
            _require_declared(admin, name)
        if kind == "user":
            name = person_named(admin, name, surely=True)
        started = time.monotonic()
        event = admin.call(
            "POST", "/blocks", json={"kind": KINDS[kind], "id": name, "reason": reason}
        )
        acks = _confirmations(admin, event["sequence"])
    whole_ms = (time.monotonic() - started) * 1000
    if context.output != "table":
        context.show({**event, "gateways": acks, "command_ms": round(whole_ms, 1)})
    else:
        _report(context, target, event, acks, whole_ms)
    if event.get("is_known") is False:
        context.errors.print(
            f"Nothing called {visible(name)} is declared: the block stands for the day there is.",
            highlight=False,
            markup=False,
        )
    is_missed = event.get("is_known") is False and not force
    if is_missed or any(ack["applied_at_ms"] is None for ack in acks):
        raise typer.Exit(1)


def _require_declared(admin: AdminClient, name: str) -> None:
    """A misspelt name would cut off nobody, and look as if it had."""
    names = [each["name"] for each in admin.call("GET", "/objects/Agent")["objects"]]
    if name not in names:
        near = suggestion(name, names)
        description = f"no Agent {name!r} is declared{near}; --force blocks the name all the same"
        raise AdminError("not_declared", description)


def _report(
    context: CommandContext,
    target: str,
    event: dict[str, Any],
    acks: list[dict[str, Any]],
    whole_ms: float,
) -> None:
    name = visible(target)
    context.say(f"{name} is cut off (revocation {event['sequence']}).")
    if not acks:
        context.say("  no gateway is connected: there is nobody to confirm it")
    for ack in acks:
        if ack["applied_at_ms"] is None:
            context.errors.print(
                f"  {ack['worker']}: NOT confirmed; it refuses by itself when its lease ends",
                highlight=False,
            )
        else:
            took = ack["applied_at_ms"] - event["at_ms"]
            context.say(f"  {visible(ack['worker'])}: refuses since {took} ms after the action")
    seconds = event.get("target_tokens_live_seconds")
    if seconds:
        context.say(f"Credentials already handed to targets may live up to {seconds} s more.")
    context.say(f"This command took {whole_ms:.0f} ms.")


def _confirmations(admin: AdminClient, sequence: int) -> list[dict[str, Any]]:
    """Each live worker with the time it applied the revocation, None when it has not."""
    deadline = time.monotonic() + CONFIRMATION_SECONDS
    while True:
        acks: list[dict[str, Any]] = admin.call("GET", f"/blocks/acks/{sequence}")["acks"]
        if all(ack["applied_at_ms"] is not None for ack in acks) or time.monotonic() > deadline:
            return acks
        time.sleep(0.01)


def restore(command: typer.Context, target: Target) -> None:
    """Allow again. Tokens from before stay dead: whoever comes back asks for new ones.

    Waits until the gateways have it as well; one that has not said so in time is named.
    """
    context = context_of(command)
    kind, name = _parsed(target)
    with context.admin() as admin:
        if kind == "user":
            name = person_named(admin, name, surely=True)
        try:
            event = admin.call("DELETE", f"/blocks/{KINDS[kind]}/{name}")
        except AdminError as error:
            if error.code == "not_blocked":  # in the words that were typed, not by id
                raise AdminError(error.code, f"{target} is not blocked") from error
            raise
        acks = _confirmations(admin, event["sequence"])
    context.say(
        f"{visible(target)} may come back (revocation {event['sequence']});"
        " tokens from before stay refused."
    )
    for ack in acks:
        if ack["applied_at_ms"] is None:
            line = f"  {ack['worker']}: not confirmed yet; it may refuse a little longer"
            context.errors.print(visible(line), highlight=False, markup=False)


def blocks(
    command: typer.Context,
    *,
    runs: Annotated[
        bool, typer.Option("--runs", help="Also the newest 1000 runs that agents ended themselves.")
    ] = False,
) -> None:
    """List what is cut off now: what `restore` takes. The newest first."""
    context = context_of(command)
    query = {"runs": "true"} if runs else None
    with context.admin() as admin:
        found = admin.call("GET", "/blocks", query=query)["blocks"]
        rows = [row for row in found if row["blocked"]]
        named = [row["author"] for row in rows]
        named += [row["id"] for row in rows if row["kind"] == KINDS["user"]]
        logins = logins_of(admin, named if context.output is Output.TABLE else ())
    words = {wire: word for word, wire in KINDS.items()}
    author_of = logins.whole if context.is_whole else logins.brief
    context.show(
        rows,
        {
            "BLOCKED": lambda row: f"{words.get(row['kind'], row['kind'])}/{row['id']}",
            "NAME": lambda row: logins.by_id.get(row["id"], ""),
            "SINCE": lambda row: shown_moment(row["not_before"]) if row["not_before"] else "",
            "BY": lambda row: author_of(row["author"]),
            "WHY": lambda row: row["reason"],
        },
        below=1,
        empty="Nothing is blocked.",
    )


def _parsed(target: str) -> tuple[str, str]:
    kind, slash, name = target.partition("/")
    kind = {wire: word for word, wire in KINDS.items()}.get(kind, kind)  # as the audit has it
    kinds = f"kinds: {', '.join(KINDS)}"
    if not slash or not name:
        raise typer.BadParameter(f"{target!r} is not KIND/NAME; {kinds}")
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is no kind of what can be cut off; {kinds}")
    if not name.startswith(PREFIXES.get(kind, "")):
        raise typer.BadParameter(
            f"a {kind} is named by its id, {PREFIXES[kind]}…: `audit search -o wide` shows it"
        )
    if kind in PREFIXES and len(name) != len(PREFIXES[kind]) + ID_CHARACTERS:
        length = f"{PREFIXES[kind]} and {ID_CHARACTERS} characters"
        raise typer.BadParameter(f"the id of a {kind} is {length}: part of one cuts off nothing")
    return kind, name
