"""`doctor`: checks a deployment, from here and from the inside, and says how to mend it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from admin_console.checks.finding import Finding, Level, problem
from countersign.admin_client import AdminError
from countersign.cli.context import CommandContext, Output, clock, context_of, visible
from countersign.cli.tables import table_lines
from countersign.outside_view import OutsideView, new_client

SERVER_SECONDS: Final = 20.0  # all its checks run at once, each with a deadline below this
STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
TITLES: Final = ("", "CHECK", "WHAT", "FOUND", "MEND IT")
EXIT_CODES: Final = {Level.OK: 0, Level.WARNING: 1, Level.PROBLEM: 2}


def register(app: typer.Typer) -> None:
    """Add this command to the top level."""
    app.command()(doctor)


def doctor(
    command: typer.Context,
    *,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also show what is in order.")
    ] = False,
) -> None:
    """Check the deployment and say for each finding how to mend it.

    Looks from here at the issuer, its keys, clocks, certificates and each gateway's endpoints, and
    asks the server what only it knows. Exits 0 when all is well, 1 with warnings, 2 with problems.
    """
    context = context_of(command)
    findings = _findings(context)
    worst = max((each.level for each in findings), key=EXIT_CODES.__getitem__, default=Level.OK)
    if context.output is Output.TABLE:
        _show(context, findings, everything=everything)
    else:
        shown = [each.model_dump(mode="json") for each in findings]
        context.show({"issuer": context.settings.issuer, "level": worst.value, "findings": shown})
    raise typer.Exit(EXIT_CODES[worst])


def _findings(context: CommandContext) -> list[Finding]:
    """The inside first: what it says of keys and gateways is compared with what is seen here."""
    issuer = context.settings.issuer
    with context.errors.status("asking the server") as status:
        inside, gateways, trouble = _inside(context)
        found: list[Finding] = []
        with new_client(context.settings.timeout_seconds, context.settings.ca_file) as http:
            view = OutsideView(http, clock, context.settings.ca_file)
            status.update(f"looking at {issuer}")
            keys = None if inside is None else inside["published_keys"]
            found += view.issuer(issuer, keys)
            for gateway in gateways:
                status.update(f"looking at {visible(str(gateway['base_url']))}")
                found += view.gateway(issuer, gateway)
    if inside is not None:
        found += [Finding.model_validate(each) for each in inside["findings"]]
        if inside["issuer"] != issuer:
            text = f"the server calls itself {inside['issuer']!r}, this command {issuer!r}"
            remedy = "give the same --issuer or COUNTERSIGN_ISSUER to both"
            found.insert(0, problem("issuer", issuer, text, remedy))
    return [*found, *trouble]


def _inside(
    context: CommandContext,
) -> tuple[dict[str, Any] | None, list[dict[str, Any]], list[Finding]]:
    """What the server says of itself, its Gateways, and why it could not be asked."""
    try:
        with context.admin() as admin:
            answer = admin.call("GET", "/doctor", wait_seconds=SERVER_SECONDS)
            return answer, admin.call("GET", "/gateways")["gateways"], []
    except AdminError as error:
        remedy = {
            "not_logged_in": "`countersign login`, or --socket on the server's machine",
            "login_expired": "`countersign login`",
            "insufficient_role": "ask an admin for the role viewer",
        }.get(
            error.code, "start the authorization server, or correct --socket; its log may say more"
        )
        found = f"{error.code}: {error.description}"
        return None, [], [problem("server", context.settings.issuer, found, remedy)]


def _show(context: CommandContext, findings: Sequence[Finding], *, everything: bool) -> None:
    shown = [each for each in findings if everything or each.level is not Level.OK]
    if shown and context.is_whole:
        rows = [[visible(cell) for cell in _cells(each)] for each in shown]
        for line in table_lines(TITLES, rows, width=None):
            context.console.print(line, soft_wrap=True)
    elif shown:
        context.console.print(_folded(shown))
    counted = Counter(each.level for each in findings)
    counts = ", ".join(f"{counted[level]} {level.value}" for level in Level)
    context.say(counts if len(shown) == len(findings) else f"{counts} (--all shows them)")


def _cells(finding: Finding) -> tuple[str, ...]:
    return (
        finding.level.value, finding.check, finding.subject, finding.found, finding.remedy,
    )  # fmt: skip


def _folded(findings: Iterable[Finding]) -> Table:
    """For a terminal: sentences are folded within their columns, none is shortened."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in TITLES:
        table.add_column(title, overflow="fold")
    for each in findings:
        level, *rest = _cells(each)
        table.add_row(Text(level, STYLES[each.level]), *(Text(visible(cell)) for cell in rest))
    return table
